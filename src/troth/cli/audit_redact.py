"""`troth audit redact`: persons and reasons are taken out of an event, and its proofs stay."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.cli.audit_app import app
from troth.cli.command import command
from troth.cli.terminal import WANTING, Terminal, make_request
from troth.wire.api import redactions as wire


@command(
    app,
    "redact",
    example='troth audit redact 4711 --reason "erasure request 2027-13"\n'
    'troth audit redact 4711 --reason "erasure request 2027-13" --yes',
)
def redact(
    terminal: Terminal,
    position: Annotated[
        int, typer.Argument(help="The event's position, as all commands show it.", min=1)
    ],
    reason: Annotated[str, typer.Option(help="Why; it is recorded for good.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Take out of an event who did it, to whom, from where and why. It can't be undone.

    That it happened, when and with which outcome stays, and so does every proof: the log holds a
    commitment to what is gone. It goes from the database, the log's files and the archive; not from
    backups and not from where sinks have sent it.
    """
    request = make_request(wire.RedactEvent, position=position, reason=reason)
    question = f"Take persons and reasons out of event {position}, for good?"
    if not yes and not typer.confirm(question, err=True):
        terminal.say("Nothing was changed.")
        raise typer.Exit(WANTING)
    found: wire.EventRedacted = terminal.call("journal.redact", request)
    terminal.show(found, lambda: [f"Event {found.position} ({found.type}) is redacted."])
