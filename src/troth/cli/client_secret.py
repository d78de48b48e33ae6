"""`troth client-secret`: secrets of old programs, until they can do better."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.identity import ReasonOption, require
from troth.cli.terminal import Terminal, make_request, make_table
from troth.cli.words import describe_time, parse_duration
from troth.core.errors import Invalid
from troth.wire.api import client_secrets as wire
from troth.wire.api.client import ApiClient

app = make_app("Secrets with which old programs ask for tokens, where the server allows them.")


@command(app, "create", example="troth client-secret create billing --ttl 14d")
def create(
    terminal: Terminal,
    identity: Annotated[str, typer.Argument(help="The identity that it is for.", metavar="NAME")],
    ttl: Annotated[str, typer.Option(help="How long it is good: 12h, 30d; 90d at most.")] = "30d",
) -> None:
    """Make a secret. It is shown now and never again; an identity has two at most, to rotate."""
    try:
        seconds = int(parse_duration(ttl).total_seconds())
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint="--ttl") from error
    request = make_request(wire.CreateClientSecret, identity=identity, ttl=seconds)
    made = terminal.call("client_secret.create", request)
    terminal.show(made, lambda: [made.secret])
    if not terminal.json:
        ends = describe_time(made.expires_at, terminal.now())
        terminal.say(
            "",
            f"It proves {made.client_id} to whoever holds it, and ends {ends}. Once the program "
            "can use a certificate or a key:",
            "",
            f"  troth client-secret revoke {made.id} --reason TEXT",
        )


@command(app, "ls", example="troth client-secret ls\ntroth client-secret ls billing")
def ls(
    terminal: Terminal,
    identity: Annotated[
        str, typer.Argument(help="Only those of this identity.", metavar="[NAME]")
    ] = "",
) -> None:
    """List the secrets that are good now, whose they are, and what to use instead."""
    with terminal.connect() as client:
        items = fetch_secrets(client, identity)
    now = terminal.now()
    rows = [
        (item.id, item.identity, item.owner, describe_time(item.created_at, now),
         describe_time(item.expires_at, now), item.instead)
        for item in items
    ]  # fmt: skip
    columns = ("ID", "IDENTITY", "OWNER", "MADE", "EXPIRES", "BETTER")
    page = wire.ClientSecretPage(items=items)
    terminal.show(page, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say(
            "No client secret is good now. Make one with "
            f"`troth client-secret create {identity or 'NAME'}`, for a program that can use "
            "neither a certificate nor a key."
        )


@command(
    app,
    "revoke",
    example="troth client-secret revoke csec_5f3c01 --reason 'the program uses its SVID now'",
)
def revoke(
    terminal: Terminal,
    secret: Annotated[str, typer.Argument(help="Its id, which is no secret: csec_…", metavar="ID")],
    reason: ReasonOption = "",
) -> None:
    """End a secret now. Tokens that were got with it live on until they end."""
    request = make_request(
        wire.RevokeClientSecret,
        id=secret,
        reason=require(reason, "--reason", "why do you revoke it?"),
    )
    view = terminal.call("client_secret.revoke", request)
    terminal.show(view, lambda: [f"{view.id} of {view.identity} is over"])
    terminal.say(f"To end its tokens too: `troth token revoke --identity {view.identity}`.")


def fetch_secrets(client: ApiClient, identity: str = "") -> list[wire.ClientSecretView]:
    """All secrets that are good now, page by page."""
    items: list[wire.ClientSecretView] = []
    after: str | None = None
    while True:
        request = make_request(wire.ListClientSecrets, identity=identity or None, after=after)
        page = client.call("client_secret.ls", request)
        items += page.items
        if page.next is None:
            return items
        after = page.next
