"""`troth audit hold`: spans of time of which nothing is removed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from troth.cli.audit_app import app
from troth.cli.audit_filters import read_when
from troth.cli.command import command, make_app
from troth.cli.identity import ReasonOption, require
from troth.cli.terminal import Terminal, make_request, make_table
from troth.cli.words import describe_time, parse_moment
from troth.core.errors import Invalid
from troth.wire.api import holds as wire

holds_app = make_app("Legal holds: what happened then is kept, however old it is.")
app.add_typer(holds_app, name="hold")

NameArgument = Annotated[str, typer.Argument(help="The hold's name: a case, a ticket.")]


@command(
    holds_app,
    "add",
    example="troth audit hold add case-4711 --since 2027-03-01 --until 2027-04-01 "
    "--reason 'letter of 2 May'",
)
def add(
    terminal: Terminal,
    name: NameArgument,
    since: Annotated[
        str,
        typer.Option(
            help="From then on (required): 2027-03-01, yesterday or 30d ago as 30d.",
            metavar="WHEN",
            show_default=False,
        ),
    ] = "",
    until: Annotated[
        str,
        typer.Option(
            help="Before then: a time, or 90d from now (default: no end).",
            metavar="WHEN",
            show_default=False,
        ),
    ] = "",
    reason: ReasonOption = "",
) -> None:
    """Keep decisions and events of a span of time, whatever retention says."""
    now = terminal.now()
    asked = make_request(
        wire.PlaceHold,
        name=name,
        since=read_when(require(since, "--since", "from when on?"), now, "--since"),
        until=_read_end(until, now),
        reason=require(reason, "--reason", "why is it kept?"),
    )
    view: wire.HoldView = terminal.call("hold.place", asked)
    terminal.show(view, lambda: [f"{view.name} keeps what happened {_describe_span(view)}"])


@command(holds_app, "ls", example="troth audit hold ls")
def ls(terminal: Terminal) -> None:
    """List the holds: what each keeps, who placed it, and why."""
    found: wire.HoldList = terminal.call("hold.ls", make_request(wire.ListHolds))
    now = terminal.now()
    rows = [
        (
            hold.name,
            _describe_span(hold),
            hold.placed_by,
            describe_time(hold.placed_at, now),
            hold.reason,
        )
        for hold in found.items
    ]
    columns = ("HOLD", "KEEPS", "PLACED BY", "PLACED", "REASON")
    terminal.show(found, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say("There is no legal hold: what is old enough is removed.")


@command(holds_app, "release", example="troth audit hold release case-4711 --reason 'case closed'")
def release(terminal: Terminal, name: NameArgument, reason: ReasonOption = "") -> None:
    """End a hold: what only it kept is removed once it is old enough, perhaps at once."""
    asked = make_request(
        wire.ReleaseHold,
        name=name,
        reason=require(reason, "--reason", "why is it kept no longer?"),
    )
    view: wire.HoldView = terminal.call("hold.release", asked)
    terminal.show(view, lambda: [f"{view.name} is released"])


def _read_end(text: str, now: datetime) -> datetime | None:
    if not text:
        return None
    try:
        return parse_moment(text, now)
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint="--until") from error


def _describe_span(hold: wire.HoldView) -> str:
    since = f"from {hold.since:%Y-%m-%d %H:%M}"
    return f"{since} on" if hold.until is None else f"{since} to {hold.until:%Y-%m-%d %H:%M} UTC"
