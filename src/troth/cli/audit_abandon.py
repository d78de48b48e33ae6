"""`troth audit abandon`: the log goes on after a fork that somebody has looked into."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.cli.audit_app import app
from troth.cli.command import command
from troth.cli.terminal import WANTING, Terminal, make_request
from troth.wire.api import checkpoints as wire


@command(
    app,
    "abandon",
    example='troth audit abandon --reason "failover of 3 May lost 12 commits, see INC-44"\n'
    'troth audit abandon --reason "failover of 3 May lost 12 commits, see INC-44" --yes',
)
def abandon(
    terminal: Terminal,
    reason: Annotated[str, typer.Option(help="What was found; it is recorded for good.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Sign the log again after a fork, though it contradicts the checkpoint that was signed last.

    The server signs nothing once its journal is of another history than what it signed
    (`log.forked`). Find out first what happened: keep the files of the other history, and compare
    them with `troth audit verify`. Everybody who remembers the abandoned checkpoint (agents,
    services, witnesses, auditors) will alarm, and is right to.
    """
    request = make_request(wire.AbandonCheckpoint, reason=reason)
    question = "Sign the log as it is, though another history of it was signed before?"
    if not yes and not typer.confirm(question, err=True):
        terminal.say("Nothing was changed.")
        raise typer.Exit(WANTING)
    found: wire.CheckpointAbandoned = terminal.call("checkpoint.abandon", request)
    terminal.show(
        found,
        lambda: [f"The checkpoint of {found.size} entries is abandoned; the next is signed soon."],
    )
