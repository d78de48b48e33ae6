"""What a verification found, for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import typer

from troth.audit.bundle import Outcome, Verdict
from troth.audit.flaw import Findings
from troth.cli.terminal import WANTING, Terminal, make_sheet, make_table, make_text
from troth.cli.words import count_noun

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {"shown": "green", "absent": "yellow", "open": "yellow", "wrong": "bold red"}


class StepView(msgspec.Struct, frozen=True):
    """One step, in words; `outcome` is ``shown``, ``absent``, ``open`` or ``wrong``."""

    number: int
    outcome: str
    words: str


class FlawView(msgspec.Struct, frozen=True):
    """A damaged place: the file, and the entries in it, from 0 on, if it is about some."""

    fault: str
    name: str
    first: int | None
    last: int | None
    detail: str


class EventView(msgspec.Struct, frozen=True):
    """An event that was shown; without its detail, actor and subject are empty."""

    position: int
    type: str
    outcome: str
    at: str
    request_id: str
    actor: str
    subject: str
    body: dict[str, Any] | None


class Report(msgspec.Struct, frozen=True):
    """`what` was verified: a ``log``, an ``entry``, a ``bundle`` or a ``proof``. `holds`: all of it
    is as it must be."""

    what: str
    where: str
    holds: bool
    origin: str
    size: int
    root: str
    entries: int
    details: int
    redacted: int
    tiles: int
    steps: list[StepView]
    flaws: list[FlawView]
    flaw_count: int
    remarks: list[str]
    remark_count: int
    event: EventView | None = None
    decision: dict[str, Any] | None = None


def make_report(
    what: str,
    where: str,
    verdict: Verdict,
    findings: Findings | None = None,
    decision: dict[str, Any] | None = None,
) -> Report:
    """The report of these steps and findings."""
    found = findings or Findings()
    checkpoint = verdict.checkpoint
    return Report(
        what=what,
        where=where,
        holds=verdict.holds,
        origin=checkpoint.origin if checkpoint else "",
        size=checkpoint.size if checkpoint else 0,
        root=checkpoint.root.hex() if checkpoint else "",
        entries=found.entries,
        details=found.details,
        redacted=found.redacted,
        tiles=found.tiles,
        steps=[StepView(one.number, one.outcome.value, one.words) for one in verdict.steps],
        flaws=[
            FlawView(one.fault.value, one.name, one.first, one.last, one.detail)
            for one in found.flaws
        ],
        flaw_count=found.flaw_count,
        remarks=found.remarks,
        remark_count=found.remark_count,
        event=_view_event(verdict),
        decision=decision,
    )


def _view_event(verdict: Verdict) -> EventView | None:
    leaf, detail = verdict.leaf, verdict.detail
    if leaf is None:
        return None
    return EventView(
        position=leaf.position,
        type=leaf.type,
        outcome=leaf.outcome,
        at=leaf.at,
        request_id=leaf.request_id,
        actor=detail.actor if detail else "",
        subject=detail.subject if detail else "",
        body=detail.body if detail else None,
    )


def show_report(terminal: Terminal, report: Report) -> None:
    """Print it, and end with exit code 1 unless everything holds."""
    terminal.show(report, lambda: _paint(report))
    if report.holds:
        absent = any(one.outcome == Outcome.ABSENT for one in report.steps)
        words = "Everything that is here holds." if absent else "Everything holds."
        terminal.say(words, style="green")
        return
    if report.flaw_count:
        terminal.say(f"{count_noun(report.flaw_count, 'place')} damaged.", style="red")
    if any(one.outcome == Outcome.WRONG for one in report.steps):
        terminal.say("It was found wanting: keep these files as they are.", style="red")
    else:
        terminal.say("Not everything could be shown.", style="yellow")
    raise typer.Exit(WANTING)


def _paint(report: Report) -> list[RenderableType]:
    parts: list[RenderableType] = [
        make_text(f"{one.number:>2}. ", (f"{one.outcome:<7}", STYLES[one.outcome]), one.words)
        for one in report.steps
    ]
    if report.flaws:
        rows = [(one.fault, one.name, _describe_place(one), one.detail) for one in report.flaws]
        parts.append(make_table(("FAULT", "FILE", "ENTRIES", "WHAT"), rows))
        if report.flaw_count > len(report.flaws):
            parts.append(make_text(f"and {report.flaw_count - len(report.flaws)} more"))
    parts.extend(make_text(("note: ", "yellow"), words) for words in report.remarks)
    if report.remark_count > len(report.remarks):
        parts.append(make_text(f"and {report.remark_count - len(report.remarks)} more"))
    if report.event is not None and report.event.body:
        body = report.event.body.items()
        parts.append(make_sheet((name, _render(value)) for name, value in body))
    if report.decision is not None:
        fields = report.decision.items()
        parts.append(make_table(("DECISION", ""), [(name, _render(one)) for name, one in fields]))
    return parts


def _render(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _describe_place(flaw: FlawView) -> str:
    if flaw.first is None:
        return ""
    if flaw.last is None:
        return f"{flaw.first}-"
    return f"{flaw.first}" if flaw.first == flaw.last else f"{flaw.first}-{flaw.last}"
