"""`troth instance`: the running copies of an identity, which can be cut off alone."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.identity import NameArgument, ReasonOption, require
from troth.cli.terminal import Terminal, make_request, make_table
from troth.cli.words import describe_time
from troth.wire.api import identities

app = make_app("The running copies of an identity, which can be cut off alone.")

IdArgument = Annotated[
    str, typer.Argument(help="The instance's id, from `troth instance ls`.", metavar="ID")
]


@command(app, "ls", example="troth instance ls payments-api")
def ls(terminal: Terminal, name: NameArgument) -> None:
    """List an identity's running copies: where, which process, what it proved."""
    found = terminal.call("instance.ls", make_request(identities.ListInstances, name=name))
    now = terminal.now()
    rows = [
        (item.id, "locked" if item.locked else "active", item.node, item.pid,
         describe_time(item.last_seen, now), ", ".join(item.evidence))
        for item in found.items
    ]  # fmt: skip
    columns = ("ID", "STATE", "NODE", "PID", "LAST SEEN", "PROVED")
    terminal.show(found, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say(
            f"No process holds {name} now. Start one, and if it gets no identity: "
            "`troth doctor --pid PID`."
        )


@command(app, "lock", example="troth instance lock ins_3f9c… --reason 'odd outbound traffic'")
def lock(terminal: Terminal, id: IdArgument, reason: ReasonOption = "") -> None:
    """Cut one running copy off; its siblings go on."""
    _move(terminal, "lock", id, reason)
    terminal.say(f"When it is clean: `troth instance unlock {id} --reason TEXT`.")


@command(app, "unlock", example="troth instance unlock ins_3f9c… --reason 'false alarm'")
def unlock(terminal: Terminal, id: IdArgument, reason: ReasonOption = "") -> None:
    """Let a locked copy obtain credentials again."""
    _move(terminal, "unlock", id, reason)


def _move(terminal: Terminal, verb: str, id: str, reason: str) -> None:
    request = make_request(
        identities.MoveInstance,
        id=id,
        reason=require(reason, "--reason", f"why do you {verb} it?"),
    )
    view = terminal.call(f"instance.{verb}", request)
    state = "locked" if view.locked else "not locked"
    terminal.show(view, lambda: [f"{view.id} of {view.identity} is {state}"])
