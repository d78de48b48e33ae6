"""`troth token`: access tokens for APIs, their early end, and with what a node joins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from troth.cli.command import command, make_app
from troth.cli.decoding import Decoded, decode_token, read_keys
from troth.cli.identity import require
from troth.cli.oauth import open_client
from troth.cli.options import CA_FILE, Options
from troth.cli.secrets import STANDARD_INPUT, read_token, replace_file
from troth.cli.terminal import Terminal, make_request, make_sheet
from troth.cli.words import clean_text, describe_moment, describe_time, parse_duration
from troth.core.errors import Invalid
from troth.sdk.client import AccessToken
from troth.wire.api import nodes, status, tokens

app = make_app("Access tokens for APIs, and tokens with which nodes join.")

TokenArgument = Annotated[
    str,
    typer.Argument(
        help="A file that holds the token, or - for standard input.",
        metavar="FILE",
        show_default=False,
    ),
]
ResourceOption = Annotated[
    str, typer.Option(help="The API that it is for: a URI of a Resource.", metavar="URI")
]
ScopeOption = Annotated[
    list[str] | None,
    typer.Option(help="An action to ask for; again for more. Default: all that is permitted."),
]
IdentityOption = Annotated[str, typer.Option(help="Ask as this one of your identities.")]
JwtOption = Annotated[
    bool,
    typer.Option(
        "--jwt", help="Prove yourself by a JWT-SVID: whoever holds the token may show it."
    ),
]
AskByJwtOption = Annotated[
    bool,
    typer.Option("--jwt", help="Prove yourself by a JWT-SVID instead of your certificate."),
]
WriteOption = Annotated[
    Path | None,
    typer.Option(help="Write it there, for you alone to read, not to the output.", metavar="FILE"),
]
RevokerOption = Annotated[
    str, typer.Option(help="With --token: ask as this one of your identities.")
]
RevokeByJwtOption = Annotated[
    bool,
    typer.Option(
        "--jwt", help="With --token: prove yourself by a JWT-SVID instead of your certificate."
    ),
]
TIMES = ("iat", "nbf", "exp", "cache_until")

USELESS = (
    "Nobody can show this token: it is bound to a certificate whose key ended with this command.",
    "For one that whoever holds it may show: --jwt. For one that stays usable, with its "
    "certificate: `troth run --resource URI -- CMD`.",
)


@command(
    app,
    "request",
    example="troth token request --jwt --resource https://ledger.example.org --scope read\n"
    "troth token request --jwt --resource https://ledger.example.org --write /run/billing/token",
)
def request(
    terminal: Terminal,
    resource: ResourceOption = "",
    scope: ScopeOption = None,
    spiffe_id: IdentityOption = "",
    jwt: JwtOption = False,
    write: WriteOption = None,
) -> None:
    """Get an access token for an API, as the workload that you are.

    With --jwt whoever holds it may show it. Without, it is bound to the certificate by which this
    command proved itself, whose key ends with it: a program that shows bound tokens is started by
    `troth run --resource URI`.
    """
    client = open_client(terminal, spiffe_id, jwt=jwt)
    _show_token(terminal, client.request(resource, scope or ()), write)


@command(
    app,
    "exchange",
    example="troth token exchange caller.token --jwt --resource https://ledger.example.org",
)
def exchange(
    terminal: Terminal,
    token: TokenArgument,
    resource: ResourceOption = "",
    scope: ScopeOption = None,
    actor: Annotated[
        str, typer.Option(help="A file with the token of who acts, if not you.", metavar="FILE")
    ] = "",
    spiffe_id: IdentityOption = "",
    jwt: JwtOption = False,
    write: WriteOption = None,
) -> None:
    """Exchange a caller's token for one with which to act for them at another API (RFC 8693)."""
    if token == actor == STANDARD_INPUT:
        raise typer.BadParameter("standard input holds one token.", param_hint="--actor")
    subject = read_token(token)
    acting = read_token(actor, "--actor") if actor else ""
    client = open_client(terminal, spiffe_id, jwt=jwt)
    made = client.exchange(subject, resource, scope or (), actor_token=acting)
    _show_token(terminal, made, write)


@command(app, "introspect", example="troth token introspect - < caller.token")
def introspect(
    terminal: Terminal,
    token: TokenArgument,
    spiffe_id: IdentityOption = "",
    jwt: AskByJwtOption = False,
) -> None:
    """Ask the server about a token that is meant for you (RFC 7662); exit code 1 if it is not good.

    Only what serves the API that the token is for may ask.
    """
    text = read_token(token)
    client = open_client(terminal, spiffe_id, jwt=jwt)
    answer = client.introspect(text)
    terminal.show(answer, lambda: [make_sheet(_list_claims(answer, terminal.now()))])
    if not answer["active"]:
        terminal.say(
            f"The token is not good, or not meant for {clean_text(client.spiffe_id)}; why stands "
            "in the journal: `troth journal tail --type token.rejected`."
        )
        raise typer.Exit(1)


@command(
    app,
    "decode",
    local=True,
    example="troth token decode - < token\ntroth token decode token --keys jwks.json",
)
def decode(
    terminal: Terminal,
    token: TokenArgument,
    keys: Annotated[
        Path | None,
        typer.Option(help="A JWK set, or one JWK, that must have signed it.", metavar="FILE"),
    ] = None,
) -> None:
    """Show what a JWT says, offline. Unverified unless --keys are given.

    With --keys, exit code 1 if the signature is wrong, or if it has expired.
    """
    found = decode_token(read_token(token), read_keys(keys) if keys else None, terminal.now())
    value = {"header": found.header, "claims": found.claims, "verified": found.verified}
    if found.problem:
        value["problem"] = found.problem
    terminal.show(value, lambda: _paint_decoded(found, terminal.now()))
    if found.problem:
        terminal.say(f"error: {found.problem}", style="red")
        raise typer.Exit(1)
    if not found.verified:
        terminal.say("Unverified: anybody could have written this. Give --keys to check it.")


def _show_token(terminal: Terminal, token: AccessToken, write: Path | None) -> None:
    """The token on standard output, or in a file, and then nothing of it elsewhere."""
    answer = dict(token.answer)
    if write is not None:
        replace_file(write, token.text.encode("ascii"))
        del answer["access_token"]
        answer["file"] = str(write)
    terminal.show(answer, lambda: [] if write is not None else [token.text])
    if not terminal.json:
        seconds = max(0, int(token.ends - terminal.clock.monotonic()))
        scope = ", ".join(sorted(token.scopes)) or "nothing"
        place = f" It is in {write}." if write is not None else ""
        free = "" if token.tag else ", whoever holds it may show it,"
        terminal.say(f"It permits {scope}{free} and ends in {seconds} s.{place}")
    if token.tag:
        terminal.say(*USELESS)


def _paint_decoded(found: Decoded, now: datetime) -> list[Any]:
    state = "verified" if found.verified else "unverified"
    header = _list_claims(found.header, now, "header ")
    return [make_sheet([("signature", state), *header, *_list_claims(found.claims, now)])]


def _list_claims(claims: Mapping[str, Any], now: datetime, path: str = "") -> list[tuple[str, Any]]:
    """A line for each claim, and for each member of one that is an object."""
    rows: list[tuple[str, Any]] = []
    for name, value in claims.items():
        if isinstance(value, Mapping) and value:
            rows += _list_claims(value, now, f"{path}{name}.")
        else:
            rows.append((f"{path}{name}", _describe_claim(name, value, now)))
    return rows


def _describe_claim(name: str, value: Any, now: datetime) -> Any:
    if name in TIMES and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return describe_moment(datetime.fromtimestamp(value, UTC), now)
        except (ValueError, OverflowError, OSError):
            return value
    if isinstance(value, list):
        return [_write_json(one) for one in value]
    return _write_json(value)


def _write_json(value: object) -> str:
    """Texts as they are, the rest as the token has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@command(app, "join", example="troth token join --node web-1 --ttl 1h")
def join(
    terminal: Terminal,
    node: Annotated[str, typer.Option(help="The name that the node will have (required).")] = "",
    ttl: Annotated[str, typer.Option(help="How long the token may wait: 90s, 10m, 2h.")] = "10m",
) -> None:
    """Make a token with which one node joins, once. It is shown now and never again."""
    try:
        seconds = int(parse_duration(ttl).total_seconds())
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint="--ttl") from error
    request = make_request(
        nodes.CreateJoinToken,
        node=require(node, "--node", "what is the machine called?"),
        ttl=seconds,
    )
    made = terminal.call("token.join", request)
    terminal.show(made, lambda: [made.token])
    if not terminal.json:
        ends = describe_time(made.expires_at, terminal.now())
        terminal.say("", f"It works once, for the node {made.node}, and ends {ends}.", "")
        origin = terminal.call("status.show", status.GetStatus()).origin
        terminal.say(*describe_joining(terminal.options, origin))


def describe_joining(options: Options, url: str) -> list[str]:
    """What to do on the node, the exact command last; the token never stands in a command."""
    return [
        f"On that machine: put {options.ca_file or options.data / CA_FILE} of the server into",
        "ca.pem, the token into a file join-token that only the agent's user can read (in a",
        "command line every user of the machine would see it), and run",
        "",
        f"  troth agent --server {url} --ca ca.pem --join-token @join-token",
    ]


@command(
    app,
    "revoke",
    example="troth token revoke --identity billing --reason 'laptop stolen'\n"
    "troth token revoke --instance ins_3f9c… --reason 'odd requests'\n"
    "troth token revoke --token /run/billing/token",
)
def revoke(
    terminal: Terminal,
    jti: Annotated[
        str, typer.Argument(help="The token's jti, as its journal entry has it.", metavar="[JTI]")
    ] = "",
    identity: Annotated[
        str, typer.Option(help="Instead: end all tokens that this identity has.")
    ] = "",
    instance: Annotated[
        str,
        typer.Option(help="Instead: end all tokens that this running copy obtained.", metavar="ID"),
    ] = "",
    token: Annotated[
        str,
        typer.Option(
            help="Instead: a file with a token of your own, or - for standard input.",
            metavar="FILE",
        ),
    ] = "",
    reason: Annotated[
        str,
        typer.Option(
            help="Why (required, but with --token); the journal keeps it.", metavar="TEXT"
        ),
    ] = "",
    spiffe_id: RevokerOption = "",
    jwt: RevokeByJwtOption = False,
) -> None:
    """End an access token before its time, or all of an identity or of one running copy.

    Of an identity all end that it is subject, client or actor of. It may fetch new ones; to keep it
    from that, quarantine it, or lock the copy. A token of your own you end with --token, as the
    workload that you are (RFC 7009); the others are an operator's to end.
    """
    if sum(map(bool, (jti, identity, instance, token))) != 1:
        raise typer.BadParameter(
            "name the jti of one token, --identity, --instance, or --token.", param_hint="JTI"
        )
    if token:
        open_client(terminal, spiffe_id, jwt=jwt).revoke(read_token(token, "--token"))
        terminal.show({"revoked": True}, lambda: ["The token is good no more."])
        return
    request = make_request(
        tokens.RevokeTokens,
        jti=jti or None,
        identity=identity or None,
        instance=instance or None,
        reason=require(reason, "--reason", "why do you revoke it?"),
    )
    made = terminal.call("token.revoke", request)
    terminal.show(made, lambda: [_describe_end(made)])
    if made.spiffe_id:
        terminal.say("To keep it from fetching others: `troth identity quarantine`.")
    if made.instance:
        terminal.say("To keep it from fetching others: `troth instance lock`.")


def _describe_end(made: tokens.TokensRevoked) -> str:
    if made.jti:
        return f"token {made.jti} is revoked"
    return f"all tokens of {made.spiffe_id or made.instance} ended"
