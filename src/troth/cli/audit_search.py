"""`troth audit search` and `troth audit tail`: what happened, and what happens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from troth.cli.audit_app import app
from troth.cli.audit_filters import (
    OPTIONS,
    OcsfOption,
    SinceOption,
    UntilOption,
    describe_reason,
    describe_record,
    find_producer,
    read_when,
    take_filters,
)
from troth.cli.command import command
from troth.cli.following import follow_stream
from troth.cli.terminal import Terminal, make_request, make_table
from troth.cli.words import clean_text, describe_moment
from troth.wire.api import auditsearch as wire
from troth.wire.api.nodes import Heartbeat

if TYPE_CHECKING:
    from rich.console import RenderableType


@command(
    app,
    "search",
    example="troth audit search --identity payments-api --since 2h\n"
    "troth audit search --resource ledger --outcome failure --since yesterday --until today\n"
    "troth audit search --action identity.quarantined --since 30d --json\n"
    "troth audit search --request req_5f3c01a2b3c4d5e6f7a8b9c0 --ocsf",
)
@take_filters
def search(
    terminal: Terminal,
    filters: dict[str, str],
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int, typer.Option(help="So many at most.", min=1, max=1000, metavar="N")
    ] = 100,
    after: Annotated[
        str, typer.Option(help="To go on where a page ended.", show_default=False)
    ] = "",
    ocsf: OcsfOption = False,
) -> None:
    """Search events and decisions, the newest first: who did what, when and why.

    Filters narrow it down together. What was archived is found as well.
    """
    now = terminal.now()
    asked = make_request(
        wire.SearchAudit,
        **filters,
        since=read_when(since, now, "--since"),
        until=read_when(until, now, "--until"),
        limit=limit,
        after=after,
    )
    page: wire.AuditPage = terminal.call("audit.search", asked)
    if ocsf:
        terminal.write(b"".join(map(find_producer(terminal), page.items)))
    else:
        terminal.show(page, lambda: paint_page(page, now))
    terminal.say(*map(clean_text, page.notes))
    if page.next is not None:
        begins = "" if since else f"--since {page.since.isoformat()} "
        terminal.say(f"There may be more: {begins}--after {page.next}")
    elif not page.items:
        terminal.say(*advise_widening(asked, page))


def paint_page(page: wire.AuditPage, now: datetime) -> list[RenderableType]:
    """A table, unless there is nothing to show."""
    rows = [
        (
            describe_moment(one.at, now),
            one.action,
            one.outcome,
            one.actor,
            one.subject,
            one.resource,
            describe_reason(one),
            one.id,
        )
        for one in page.items
    ]
    columns = ("WHEN", "WHAT", "OUTCOME", "WHO", "WHOM", "RESOURCE", "WHY", "ID")
    return [make_table(columns, rows)] if rows else []


def advise_widening(asked: wire.SearchAudit, page: wire.AuditPage) -> Iterator[str]:
    """What to try when nothing was found."""
    ends = "now" if asked.until is None else f"{page.until:%Y-%m-%d %H:%M} UTC"
    yield f"Nothing like that is recorded from {page.since:%Y-%m-%d %H:%M} UTC to {ends}."
    given = [f"--{name}" for name, (field, _, _) in OPTIONS.items() if getattr(asked, field)]
    wider = "Search further back, such as --since 30d"
    yield f"{wider}, or leave out one of {', '.join(given)}." if given else f"{wider}."
    if asked.action and not asked.action.endswith(".") and "." in asked.action:
        noun = asked.action.partition(".")[0]
        yield f"All events of that noun: --action {clean_text(noun)}."


@command(
    app,
    "tail",
    example="troth audit tail\n"
    "troth audit tail --outcome failure\n"
    "troth audit tail --identity payments-api --position 4711 --json",
    streaming=True,
)
@take_filters
def tail(
    terminal: Terminal,
    filters: dict[str, str],
    position: Annotated[
        int | None,
        typer.Option(help="Events after this position of the journal first.", min=0),
    ] = None,
    ocsf: OcsfOption = False,
) -> None:
    """Follow events and this server's decisions as they come.

    With --json each is one line of JSON. A server that went away is waited for; decisions that it
    made meanwhile are found by `troth audit search`.
    """
    asked = make_request(
        wire.TailAudit,
        **filters,
        position=position,
    )
    render = find_producer(terminal) if ocsf else None
    try:
        for record in follow_stream(terminal, "audit.tail", asked, "position", find_position):
            if not isinstance(record, wire.Record):
                continue
            if render is not None:
                terminal.write(render(record))
            else:
                terminal.show_line(record, partial(describe_record, record))
    except KeyboardInterrupt:
        return


def find_position(value: object) -> int | None:
    """Up to where the journal was told, if the value says so."""
    if isinstance(value, Heartbeat):
        return value.epoch
    if isinstance(value, wire.Record) and value.kind == "event":
        return int(value.id)
    return None
