"""`troth token`: with what a node joins, and the end of access tokens before their time."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.identity import ReasonOption, require
from troth.cli.options import CA_FILE, Options
from troth.cli.terminal import Terminal, make_request
from troth.cli.words import describe_time, parse_duration
from troth.core.errors import Invalid
from troth.wire.api import nodes, status, tokens

app = make_app("Tokens with which nodes join, and access tokens.")


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


@command(app, "revoke", example="troth token revoke --identity billing --reason 'laptop stolen'")
def revoke(
    terminal: Terminal,
    jti: Annotated[
        str, typer.Argument(help="The token's jti, as its journal entry has it.", metavar="[JTI]")
    ] = "",
    identity: Annotated[
        str, typer.Option(help="Instead: end all tokens that this identity has.")
    ] = "",
    reason: ReasonOption = "",
) -> None:
    """End an access token before its time, or all that an identity is subject, client or actor of.

    The identity may fetch new ones; to keep it from that, quarantine it.
    """
    if bool(jti) == bool(identity):
        raise typer.BadParameter("name the jti of one token, or --identity.", param_hint="JTI")
    request = make_request(
        tokens.RevokeTokens,
        jti=jti or None,
        identity=identity or None,
        reason=require(reason, "--reason", "why do you revoke it?"),
    )
    made = terminal.call("token.revoke", request)
    terminal.show(made, lambda: [_describe_end(made)])
    if made.spiffe_id:
        terminal.say("To keep it from fetching others: `troth identity quarantine`.")


def _describe_end(made: tokens.TokensRevoked) -> str:
    return f"token {made.jti} is revoked" if made.jti else f"all tokens of {made.spiffe_id} ended"
