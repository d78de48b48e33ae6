"""`troth audit prove`: evidence for somebody who has no access here, and needs none."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from troth.audit.bundle import Bundle, parse_bundle, render_bundle
from troth.audit.checkpoint import parse_checkpoint
from troth.audit.note import parse_note
from troth.audit.proof import render_log_proof
from troth.audit.proving import add_decision, find_closed, prove_entry
from troth.cli.audit_app import app
from troth.cli.audit_log import read_note
from troth.cli.command import command
from troth.cli.following import pause
from troth.cli.logsource import open_source
from troth.cli.secrets import replace_file
from troth.cli.terminal import Terminal, make_request
from troth.core.errors import Unavailable
from troth.wire.api import auditproofs as wire
from troth.wire.api.problems import Unreachable

TRIES = 15
"""How often a decision's evidence is asked for: the log takes a second to hold it."""

_POSITION = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


class Form(StrEnum):
    """What evidence is written as."""

    BUNDLE = "bundle"
    """Everything, as JSON."""
    TLOG_PROOF = "tlog-proof"
    """The log's proof alone (C2SP tlog-proof), with the entry as its extra data."""


@command(
    app,
    "prove",
    local=True,
    example="troth audit prove 4711 -o event-4711.json\n"
    "troth audit prove dec_5f3c01a2b3c4d5e6f7a8b9c0 -o decision.json\n"
    "troth audit prove 4711 --format tlog-proof -o event-4711.tlog-proof\n"
    "troth audit prove 4711 --log copy/log",
)
def prove(
    terminal: Terminal,
    entry: Annotated[
        str,
        typer.Argument(
            help="An event's position, as all commands show it, or a decision's id: dec_….",
            metavar="POSITION|DECISION",
        ),
    ],
    log: Annotated[
        str | None,
        typer.Option(
            help="A log's folder or URL instead of a server that runs.", metavar="PATH|URL"
        ),
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            help="With --log, for a decision: the folder of its segments.",
            metavar="DIR",
        ),
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", help="Everything as JSON, or the log's proof alone.")
    ] = Form.BUNDLE,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write it to this file.", metavar="FILE"),
    ] = None,
) -> None:
    """Write evidence that an event or a decision is in the log, for `troth audit verify`.

    Whoever has the log's key can check it, years later and without a server. It holds what the
    event says of persons, unless that was redacted; a tlog-proof doesn't.
    """
    if decisions is not None and log is None:
        raise typer.BadParameter("--decisions goes with --log; a running server has its own.")
    if log is None:
        request = make_request(wire.ProveEntry, entry=entry)
        found = _ask(terminal, request)
        bundle = parse_bundle(msgspec.json.encode(found))
    else:
        bundle = _prove_from_files(terminal, entry, log, decisions)
    data = _render(bundle, form)
    if out is None:
        terminal.write(data)
        return
    replace_file(out, data)
    terminal.say(f"Written to {out}: check it with `troth audit verify {out} --key VKEY`.")


def _ask(terminal: Terminal, request: wire.ProveEntry) -> wire.Evidence:
    """A decision of this very hour is proved within seconds: its segment is closed for it."""
    for left in range(TRIES, -1, -1):
        try:
            found: wire.Evidence = terminal.call("audit.prove", request)
            return found
        except Unavailable as error:
            if isinstance(error, Unreachable) or not left:
                raise
            terminal.say(error.detail)
            pause(error.retry_after or 1.0)
    raise AssertionError("the last try returns or raises")


def _prove_from_files(terminal: Terminal, entry: str, log: str, decisions: Path | None) -> Bundle:
    with open_source(log, terminal.options.ca_file) as source:
        note = read_note(source)
        if _POSITION.fullmatch(entry):
            return prove_entry(source.read, note, int(entry))
        if decisions is None:
            raise typer.BadParameter(
                f"{entry!r} is no position. For a decision's id name the folder of its segments "
                "too: --decisions DIR."
            )
        from troth.cli.audit_decisions import find_decision

        decision = find_decision(decisions, entry)
        size = parse_checkpoint(parse_note(note).text).size
        position = find_closed(source.read, size, decision.server, decision.segment)
        return add_decision(prove_entry(source.read, note, position), decision)


def _render(bundle: Bundle, form: Form) -> bytes:
    if form is Form.BUNDLE:
        return render_bundle(bundle)
    if bundle.decision is not None:
        raise typer.BadParameter(
            "A tlog-proof has room for the log's entry alone: a decision takes --format bundle."
        )
    return render_log_proof(replace(bundle.proof, extra=bundle.entry))
