"""`troth authority`: the keys that sign SVIDs and tokens, and their rotation by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.identity import ReasonOption, require
from troth.cli.terminal import Terminal, make_request, make_table
from troth.cli.words import describe_time
from troth.wire.api import authorities

app = make_app("The keys that sign SVIDs and tokens, and their rotation by hand.")

IdArgument = Annotated[
    str, typer.Argument(help="The authority's id, from `troth authority ls`.", metavar="ID")
]
ORDER = "prepare, activate, taint, revoke"


@command(app, "ls", example="troth authority ls")
def ls(terminal: Terminal) -> None:
    """List signing authorities: what each signs, its state, and who still depends on it."""
    found = terminal.call("authority.ls", authorities.ListAuthorities())
    now = terminal.now()
    rows = [
        (item.id, item.use, item.state, describe_time(item.not_after, now),
         describe_time(item.ready_at, now) if item.ready_at else "",
         describe_time(item.needed_until, now) if item.needed_until else "",
         "" if item.holders is None else str(item.holders))
        for item in found.items
    ]  # fmt: skip
    columns = ("ID", "SIGNS", "STATE", "EXPIRES", "READY", "NEEDED UNTIL", "HOLDERS")
    terminal.show(found, lambda: [make_table(columns, rows)] if rows else [])
    terminal.say(f"They rotate by themselves; by hand the order is {ORDER}.")


@command(app, "prepare", example="troth authority prepare x509-svid --reason 'yearly drill'")
def prepare(
    terminal: Terminal,
    use: Annotated[
        str,
        typer.Argument(
            help="x509-svid, jwt-svid, access-token, access-eddsa or access-rs256.", metavar="USE"
        ),
    ],
    reason: ReasonOption = "",
) -> None:
    """Make the next authority and publish it; it doesn't sign yet."""
    request = make_request(
        authorities.PrepareAuthority,
        use=use,
        reason=require(reason, "--reason", "why do you prepare one?"),
    )
    view = terminal.call("authority.prepare", request)
    terminal.show(view, lambda: [f"{view.id} is {view.state}"])
    ready = describe_time(view.ready_at, terminal.now())
    terminal.say(f"Verifiers know it {ready}; then: `troth authority activate {view.id}`.")


@command(app, "activate", example="troth authority activate aut_9d1c… --reason 'yearly drill'")
def activate(
    terminal: Terminal,
    id: IdArgument,
    reason: ReasonOption = "",
    force: Annotated[
        bool, typer.Option("--force", help="Even before verifiers have had ten minutes.")
    ] = False,
) -> None:
    """Let a prepared authority sign; the active one retires.

    Refused until it has been published for ten minutes: a verifier that doesn't know it yet would
    refuse what it signs. What the old one signed is valid until its end.
    """
    request = make_request(
        authorities.ForceAuthority,
        id=id,
        reason=require(reason, "--reason", "why do you activate it?"),
        force=force,
    )
    view = terminal.call("authority.activate", request)
    terminal.show(view, lambda: [f"{view.id} is {view.state}"])


@command(app, "taint", example="troth authority taint aut_3f9c… --reason 'key was copied'")
def taint(terminal: Terminal, id: IdArgument, reason: ReasonOption = "") -> None:
    """Have all that an authority signed replaced at once; it stays trusted until it is revoked.

    Refused for the active one: first prepare and activate its successor.
    """
    request = make_request(
        authorities.MoveAuthority,
        id=id,
        reason=require(reason, "--reason", "why do you taint it?"),
    )
    view = terminal.call("authority.taint", request)
    terminal.show(view, lambda: [f"{view.id} is {view.state}"])
    terminal.say(
        "Agents replace what it signed. Once `troth authority ls` shows no holders: "
        f"`troth authority revoke {view.id}`."
    )


@command(app, "revoke", example="troth authority revoke aut_3f9c… --reason 'key was copied'")
def revoke(
    terminal: Terminal,
    id: IdArgument,
    reason: ReasonOption = "",
    force: Annotated[
        bool, typer.Option("--force", help="Even while somebody holds nothing newer.")
    ] = False,
) -> None:
    """Take an authority out of the bundle, for good: nothing that it signed is accepted any more.

    Refused for the active one, and while somebody holds nothing newer. With --force those are cut
    off; a node among them must join anew.
    """
    request = make_request(
        authorities.ForceAuthority,
        id=id,
        reason=require(reason, "--reason", "why do you revoke it?"),
        force=force,
    )
    view = terminal.call("authority.revoke", request)
    terminal.show(view, lambda: [f"{view.id} is {view.state}"])
