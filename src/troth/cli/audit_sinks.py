"""`troth audit sinks` and `dead-letters`: what receivers of events have, and what they don't."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from troth.cli.audit_app import app
from troth.cli.command import command, make_app
from troth.cli.terminal import Terminal, make_request, make_table
from troth.cli.words import describe_moment
from troth.core.errors import Refused
from troth.wire.api import sinks as wire

letters_app = make_app("What sinks didn't deliver.")
app.add_typer(letters_app, name="dead-letters")

SinkArgument = Annotated[str, typer.Argument(help="The sink's name.", metavar="SINK")]
LetterArgument = Annotated[
    str | None,
    typer.Argument(help="One letter, as `ls` shows it: journal/4711.", metavar="LETTER"),
]
AllOption = Annotated[bool, typer.Option("--all", help="All of the sink's dead letters.")]


@command(app, "sinks", example="troth audit sinks\ntroth audit sinks --json")
def sinks(terminal: Terminal) -> None:
    """List sinks: where each delivers, how far it is, and why it stands still if it does."""
    found: wire.SinkList = terminal.call("sink.ls", make_request(wire.ListSinks))
    now = terminal.now()
    rows = [
        (
            sink.name,
            sink.driver,
            sink.where,
            source.source,
            str(source.position),
            str(source.behind),
            str(sink.dead_letters),
            _describe_state(source, describe_moment(source.since, now) if source.since else ""),
        )
        for sink in found.items
        for source in sink.sources
    ]
    columns = ("SINK", "DRIVER", "WHERE", "SOURCE", "POSITION", "BEHIND", "DEAD", "STATE")
    terminal.show(found, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say("This server's configuration has no sinks.")


@command(
    letters_app,
    "ls",
    example="troth audit dead-letters ls siem\n"
    "troth audit dead-letters ls siem --after journal/4711",
)
def ls(
    terminal: Terminal,
    sink: SinkArgument,
    after: Annotated[
        str | None, typer.Option(help="Those behind this one: journal/4711.", metavar="LETTER")
    ] = None,
    limit: Annotated[
        int, typer.Option(help="So many at most.", min=1, max=1000, metavar="N")
    ] = 100,
) -> None:
    """List what a sink's receiver refused, or what was gone before it could be sent."""
    source, position = _split(after, "--after") if after else ("", -1)
    page: wire.DeadLetterPage = terminal.call(
        "dead_letter.ls",
        make_request(
            wire.ListDeadLetters, sink=sink, source=source, position=position, limit=limit
        ),
    )
    now = terminal.now()
    rows = [
        (
            describe_moment(one.at, now),
            f"{one.source}/{one.position}",
            one.type,
            one.id,
            one.reason,
        )
        for one in page.items
    ]
    columns = ("WHEN", "LETTER", "TYPE", "ID", "BECAUSE")
    terminal.show(page, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say(f"The sink {sink} has no dead letters there.")
    elif page.more:
        last = page.items[-1]
        terminal.say(f"There are more: --after {last.source}/{last.position}")


@command(
    letters_app,
    "retry",
    example="troth audit dead-letters retry siem --all\n"
    "troth audit dead-letters retry siem journal/4711",
)
def retry(
    terminal: Terminal, sink: SinkArgument, letter: LetterArgument = None, all: AllOption = False
) -> None:
    """Send dead letters again, each by itself. Exit code 1 if one was refused again."""
    source, position = _find(letter, all)
    delivered = refused = 0
    after = ""
    while True:
        done: wire.DeadLettersDone = terminal.call(
            "dead_letter.retry",
            make_request(
                wire.RetryDeadLetters,
                sink=sink,
                source=source,
                position=position,
                all=all,
                after=after,
            ),
        )
        delivered, refused = delivered + done.done, refused + done.refused
        if done.trouble or not done.next or done.next == after:
            break
        after = done.next
    done = msgspec.structs.replace(done, done=delivered, refused=refused)
    terminal.show(done, list)
    terminal.say(f"{done.done} delivered, {done.refused} refused again, {done.left} left.")
    if done.trouble:
        raise Refused(f"The receiver is away: {done.trouble}")
    if done.refused:
        raise Refused("What was refused again is still there, for its old reason or a new one.")


@command(
    letters_app,
    "drop",
    example="troth audit dead-letters drop siem journal/4711\n"
    "troth audit dead-letters drop siem --all",
)
def drop(
    terminal: Terminal, sink: SinkArgument, letter: LetterArgument = None, all: AllOption = False
) -> None:
    """Forget dead letters: the receiver never gets them. They stay in the journal."""
    source, position = _find(letter, all)
    done: wire.DeadLettersDone = terminal.call(
        "dead_letter.drop",
        make_request(wire.DropDeadLetters, sink=sink, source=source, position=position, all=all),
    )
    terminal.show(done, list)
    terminal.say(f"{done.done} forgotten, {done.left} left.")


def _describe_state(source: wire.SinkSource, since: str) -> str:
    if not source.trouble:
        return "ok"
    return f"since {since}: {source.trouble}" if since else source.trouble


def _find(letter: str | None, all: bool) -> tuple[str | None, int | None]:
    if all == (letter is not None):
        raise typer.BadParameter("name one letter, or say --all.")
    return _split(letter, "LETTER") if letter is not None else (None, None)


def _split(text: str, place: str) -> tuple[str, int]:
    source, _, position = text.rpartition("/")
    if not source or not (position.isascii() and position.isdigit()) or len(position) > 19:
        raise typer.BadParameter("write it as journal/4711.", param_hint=place)
    return source, int(position)
