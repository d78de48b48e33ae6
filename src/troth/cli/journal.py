"""`troth journal`: what happened, to what, and who did it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from troth.cli.command import command, make_app
from troth.cli.following import follow_stream
from troth.cli.terminal import Terminal, make_request, make_text
from troth.wire.api import journal
from troth.wire.api.client import ApiClient

if TYPE_CHECKING:
    from rich.text import Text

app = make_app("What happened, to what, and who did it.")

PAGE = 1000
MAX_VALUE = 120
ALARMING = ("quarantined", "refused", "revoked", "locked", "retired", "suspended")


@command(
    app,
    "tail",
    example="troth journal tail --follow\n"
    "troth journal tail --type identity. --subject spiffe://example.org/payments-api",
    streaming=True,
)
def tail(
    terminal: Terminal,
    after: Annotated[
        int | None, typer.Option(help="Everything after this position; 0 is the beginning.", min=0)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens from now on.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", help="How many to show without --after.", min=0)
    ] = 20,
    subject: Annotated[str | None, typer.Option(help="Only what happened to this.")] = None,
    type: Annotated[str | None, typer.Option(help="Only events whose type starts so.")] = None,
) -> None:
    """Show the last events of the journal, each sealed and numbered.

    With --json each event is one line of JSON.
    """
    shown = 0
    with terminal.connect() as client:
        entries, position = _read_recent(client, after, lines, subject, type)
        for entry in entries:
            terminal.show_line(entry, partial(describe_entry, entry))
            position = max(position, entry.position)
            shown += 1
    if not follow:
        if not shown:
            terminal.say("No such events yet. See them as they come with --follow.")
        return
    try:
        asked = journal.TailJournal(after=position)
        for entry in follow_stream(terminal, "journal.tail", asked, "after", find_position):
            if not isinstance(entry, journal.JournalEntry):
                continue
            if subject in (None, entry.subject) and entry.type.startswith(type or ""):
                terminal.show_line(entry, partial(describe_entry, entry))
    except KeyboardInterrupt:
        return


def read_journal(client: ApiClient, request: journal.ListJournal) -> Iterator[journal.JournalEntry]:
    """All sealed events that fit, page by page."""
    while True:
        page = client.call("journal.ls", request)
        yield from page.items
        if not page.items:
            return
        request = journal.ListJournal(
            after=page.items[-1].position,
            subject=request.subject,
            type=request.type,
            limit=request.limit,
        )


def read_last(
    client: ApiClient, count: int, *, subject: str | None = None, type: str | None = None
) -> tuple[list[journal.JournalEntry], int]:
    """The last `count` events that fit, and the journal's last position."""
    head: int = client.call("journal.ls", journal.ListJournal(limit=1)).head
    start = 0 if subject or type else max(0, head - count)
    request = make_request(journal.ListJournal, after=start, subject=subject, type=type, limit=PAGE)
    recent = deque(read_journal(client, request), maxlen=count)
    return list(recent), head


def find_position(value: object) -> int | None:
    """Where an event stands."""
    return value.position if isinstance(value, journal.JournalEntry) else None


def describe_entry(entry: journal.JournalEntry) -> Text:
    """``time position event subject by actor: details``."""
    verb = entry.type.rpartition(".")[2]
    line = make_text(
        (f"{entry.at:%Y-%m-%d %H:%M:%S}", "dim"),
        f" {entry.position:>6} ",
        (entry.type, "bold red" if verb in ALARMING else "bold"),
        f" {entry.subject}",
        (" by ", "dim"),
        entry.actor,
    )
    if entry.body:
        line.append_text(make_text((f": {describe_body(entry.body)}", "")))
    return line


def describe_body(body: dict[str, Any]) -> str:
    """An event's details in one line; long values are cut, `--json` has them whole."""
    parts = []
    for key, value in body.items():
        if value in (None, "", [], {}):
            continue
        words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        parts.append(f"{key} {words if len(words) <= MAX_VALUE else words[:MAX_VALUE] + '…'}")
    return "; ".join(parts)


def _read_recent(
    client: ApiClient, after: int | None, lines: int, subject: str | None, type: str | None
) -> tuple[Iterator[journal.JournalEntry], int]:
    if after is None:
        entries, head = read_last(client, lines, subject=subject, type=type)
        return iter(entries), head
    request = make_request(journal.ListJournal, after=after, subject=subject, type=type, limit=PAGE)
    return read_journal(client, request), after
