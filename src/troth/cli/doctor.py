"""`troth doctor`: what is wrong here, and why a workload gets no identity."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from troth.cli.client_secret import fetch_secrets
from troth.cli.command import command, make_app
from troth.cli.explanation import (
    Attestation,
    Candidate,
    attest_process,
    compare_identities,
    explain_missing,
    find_node,
)
from troth.cli.identity import fetch_identities
from troth.cli.installation import (
    SLACK,
    Finding,
    Level,
    check_agent,
    check_data,
    check_secrets,
    check_selectors,
    check_sockets,
    check_status,
)
from troth.cli.journal import describe_body, read_last
from troth.cli.offers import Outlook, fetch_offers, look_out
from troth.cli.terminal import ADVICE, WANTING, Terminal, make_table, make_text
from troth.cli.words import describe_time
from troth.core.errors import Denied, NotFound, TrothError, Unauthenticated
from troth.wire.api import identities, journal, status
from troth.wire.api.client import ApiClient, Unreachable

if TYPE_CHECKING:
    from rich.console import RenderableType

app = make_app("What is wrong here, and how to mend it.")

REFUSALS = 5
SHOWN_CANDIDATES = 8
LOCAL_NODE = "local"
SIGNS = {Level.OK: "✓", Level.WARNING: "!", Level.WRONG: "✗"}
STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.WRONG: "bold red"}


@dataclass(slots=True)
class Report:
    """All that doctor found out."""

    findings: list[Finding] = field(default_factory=list)
    refusals: list[journal.JournalEntry] = field(default_factory=list)
    attestation: Attestation | None = None
    candidates: list[Candidate] = field(default_factory=list)
    outlook: Outlook = field(default_factory=Outlook)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; warnings don't count."""
        return all(finding.level is not Level.WRONG for finding in self.findings)


@command(app, "doctor", example="troth doctor\nsudo troth doctor --pid 4242")
def doctor(
    terminal: Terminal,
    pid: Annotated[
        int | None, typer.Option(help="Explain what this process gets, and why.", min=1)
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(help="What this machine is called as a node; default as its agent joined."),
    ] = None,
    agent: Annotated[
        bool, typer.Option("--agent/--no-agent", help="Whether an agent should run here.")
    ] = True,
) -> None:
    """Look at this installation: permissions, server, agent, revocation list, clock, selectors.

    With --pid it attests that process as the agent would, and compares what was proved with what
    each identity demands: why does my workload get no identity?
    """
    report = Report()
    if terminal.options.uses_socket:
        report.findings += check_data(terminal.options.data)
        report.findings += check_sockets(terminal.options.data)
    if agent:
        report.findings += check_agent(terminal.options.workload_socket)
    items = _ask_server(terminal, report)
    if pid is not None:
        name = node or find_node(terminal.options.data, LOCAL_NODE)
        _explain_process(terminal, report, pid, name, items, agent=agent)
    terminal.show(_view_report(report), partial(_paint_report, report, terminal))
    if not report.ok:
        terminal.say("Something is wrong; what to do stands beside it.")
        raise typer.Exit(WANTING)


def _ask_server(terminal: Terminal, report: Report) -> list[identities.IdentityView] | None:
    """The server's own view; None if its identities can't be had."""
    try:
        with terminal.connect() as client:
            view = client.call("status.show", status.GetStatus())
            report.findings += check_status(view, terminal.now())
            items = fetch_identities(client)
            report.findings += check_selectors(items)
            _read_refusals(client, report)
            _read_secrets(client, report, terminal.now())
            return items
    except Unreachable as error:
        remedy = "Start `troth up`, or name the server with --data or --url."
        report.findings.append(Finding(Level.WRONG, "server", error.detail, remedy))
    except TrothError as error:
        remedy = _advise(error)
        report.findings.append(Finding(Level.WRONG, "server", error.detail, remedy))
    return None


def _advise(error: TrothError) -> str:
    if isinstance(error, Denied | Unauthenticated):
        return "Run doctor as the server's user, as root, or with --cert and --key of an auditor."
    if error.code == "internal":  # doctor is what is running already
        return "The server's log has the reason, with the same request id."
    return (
        ADVICE.get(error.code, "The server's log tells more.").partition(";")[0].rstrip(".") + "."
    )


def _read_refusals(client: ApiClient, report: Report) -> None:
    try:
        found, _ = read_last(client, REFUSALS + 1, type="workload.refused")
        mine = [entry for entry in found if entry.body.get("pid") == os.getpid()]
        report.refusals = [entry for entry in found if entry not in mine][-REFUSALS:]
    except Denied as error:
        remedy = "Run doctor with the role auditor to see who was refused lately."
        report.findings.append(Finding(Level.WARNING, "refusals", error.detail, remedy))


def _read_secrets(client: ApiClient, report: Report, now: datetime) -> None:
    try:
        report.findings += check_secrets(fetch_secrets(client), now)
    except NotFound:
        pass  # a server of an earlier version, which has none
    except Denied as error:
        remedy = "Run doctor with the role auditor to see which clients use secrets."
        report.findings.append(Finding(Level.WARNING, "client secrets", error.detail, remedy))


def _explain_process(
    terminal: Terminal,
    report: Report,
    pid: int,
    node: str,
    items: list[identities.IdentityView] | None,
    *,
    agent: bool,
) -> None:
    try:
        report.attestation = attest_process(pid)
    except NotFound as error:
        report.findings.append(Finding(Level.WRONG, f"pid {pid}", error.detail, "Name another."))
        return
    for note in report.attestation.notes:
        report.findings.append(Finding(Level.WARNING, f"pid {pid}", note))
    if items is None:
        return
    report.candidates = compare_identities(items, report.attestation, node, terminal.now())
    locked = _find_locked(terminal, report.candidates, report.attestation, node)
    if not any(candidate.match.complete for candidate in report.candidates):
        with terminal.connect() as client:
            offers = fetch_offers(client, node)
        report.outlook = look_out(offers, report.attestation.selectors)
        report.findings += [
            Finding(Level.WARNING, f"pid {pid}", words) for words in report.outlook.lacking
        ]
    report.findings.append(_conclude(report, pid, locked, agent=agent))


def _find_locked(
    terminal: Terminal, candidates: list[Candidate], attestation: Attestation, node: str
) -> identities.InstanceView | None:
    """The locked instance that this process is, if it is one."""
    with terminal.connect() as client:
        for candidate in candidates:
            if candidate.obtains:
                found = client.call(
                    "instance.ls", identities.ListInstances(name=candidate.name)
                ).items
                for instance in found:
                    if instance.locked and _is_process(instance, attestation, node):
                        locked: identities.InstanceView = instance
                        return locked
    return None


def _is_process(instance: identities.InstanceView, attestation: Attestation, node: str) -> bool:
    """Whether the instance is this process: a pid alone comes back, and every node has it."""
    if instance.pid != attestation.pid or instance.node != node:
        return False
    first_seen = instance.first_seen.timestamp() + SLACK.total_seconds()
    return attestation.started is None or attestation.started <= first_seen


def _find_doubt(report: Report, *, agent: bool) -> tuple[str, str] | None:
    """Why what the process should obtain is perhaps not what it does, and what to do about it."""
    broken = [f for f in report.findings if f.subject == "agent" and f.level is Level.WRONG]
    if broken:
        return "no agent here hands it out", broken[0].remedy
    if not agent:
        return "no agent was asked", "Run doctor without --no-agent."
    if report.attestation is not None and report.attestation.partial:
        remedy = "Run doctor as root or as the process' user."
        return "not all of the process could be looked at", remedy
    return None


def _conclude(
    report: Report, pid: int, locked: identities.InstanceView | None, *, agent: bool
) -> Finding:
    subject = f"pid {pid}"
    obtained = [candidate.spiffe_id for candidate in report.candidates if candidate.obtains]
    if locked is not None:
        words = f"it is the instance {locked.id}, which is locked ({locked.locked_reason})."
        remedy = f"Once it is clean: `troth instance unlock {locked.id} --reason TEXT`."
        return Finding(Level.WRONG, subject, words, remedy)
    if obtained and (doubt := _find_doubt(report, agent=agent)) is not None:
        words = f"it would obtain {', '.join(obtained)}, but {doubt[0]}."
        return Finding(Level.WARNING, subject, words, doubt[1])
    if obtained:
        words = f"it obtains {', '.join(obtained)}."
        return Finding(Level.OK, subject, words)
    if report.outlook.chosen or report.outlook.rivals:
        return _conclude_outlook(subject, report, agent=agent)
    if not report.candidates:
        remedy = "Register one: `troth identity register --help`, or `troth apply FILE`."
        return Finding(Level.WRONG, subject, "it gets nothing: there are no identities.", remedy)
    nearest = report.candidates[0]
    assert report.attestation is not None, "candidates come from an attestation"
    reasons = [
        explain_missing(selector, report.attestation.selectors)
        for selector in nearest.match.missing
    ]
    words = (
        f"it gets nothing; nearest is {nearest.name}: {'; '.join([*reasons, *nearest.obstacles])}."
    )
    return Finding(
        Level.WRONG, subject, words, f"For {nearest.name}: {'; '.join(nearest.remedies)}."
    )


def _conclude_outlook(subject: str, report: Report, *, agent: bool) -> Finding:
    outlook = report.outlook
    if outlook.rivals:
        words = f"it gets nothing: the templates {', '.join(outlook.rivals)} fit alike."
        return Finding(Level.WRONG, subject, words, "Make one of them narrower: troth template ls.")
    words = f"it is given an identity by template '{outlook.chosen}' when it first asks"
    if (doubt := _find_doubt(report, agent=agent)) is not None:
        return Finding(Level.WARNING, subject, f"{words}, but {doubt[0]}.", doubt[1])
    remedy = "If it asked and got nothing, the reason stands in: troth journal tail."
    return Finding(Level.OK, subject, f"{words}.", remedy)


def _view_report(report: Report) -> dict[str, Any]:
    value: dict[str, Any] = {
        "ok": report.ok,
        "findings": [
            {"level": f.level.value, "subject": f.subject, "words": f.words, "remedy": f.remedy}
            for f in report.findings
        ],
        "refusals": report.refusals,
    }
    if report.attestation is not None:
        value["attestation"] = {
            "pid": report.attestation.pid,
            "selectors": [str(selector) for selector in report.attestation.selectors],
        }
        value["candidates"] = [_view_candidate(candidate) for candidate in report.candidates]
    return value


def _view_candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "spiffe_id": candidate.spiffe_id,
        "obtains": candidate.obtains,
        "state": candidate.state,
        "held": [str(selector) for selector in candidate.match.held],
        "missing": [str(selector) for selector in candidate.match.missing],
        "obstacles": list(candidate.obstacles),
        "remedies": list(candidate.remedies),
    }


def _paint_report(report: Report, terminal: Terminal) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for finding in report.findings:
        sign = (f"{SIGNS[finding.level]} ", STYLES[finding.level])
        parts.append(make_text(sign, (f"{finding.subject}: ", "bold"), finding.words))
        if finding.remedy:
            parts.append(make_text((f"    → {finding.remedy}", "")))
    if report.attestation is not None:
        parts += _paint_attestation(report.attestation, report.candidates)
    if report.refusals:
        parts += [make_text(""), make_text(("Refused lately", "bold"))]
        for entry in report.refusals:
            when = describe_time(entry.at, terminal.now())
            parts.append(make_text((f"  {when} ", "dim"), describe_body(entry.body)))
    return parts


def _paint_attestation(
    attestation: Attestation, candidates: list[Candidate]
) -> list[RenderableType]:
    parts: list[RenderableType] = [
        make_text(""),
        make_text((f"Process {attestation.pid} proved", "bold")),
    ]
    parts += [make_text(f"  {selector}") for selector in attestation.selectors]
    if not candidates:
        return parts
    rows = []
    for candidate in candidates[:SHOWN_CANDIDATES]:
        missing = [explain_missing(s, attestation.selectors) for s in candidate.match.missing]
        rows.append(
            (
                candidate.name,
                "obtains" if candidate.obtains else "no",
                candidate.state,
                candidate.match.held or "–",
                [*missing, *candidate.obstacles] or "–",
            )
        )
    parts += [make_text(""), make_text(("Compared, nearest first", "bold"))]
    parts.append(make_table(("IDENTITY", "RESULT", "STATE", "FITS", "DOESN'T"), rows))
    if len(candidates) > SHOWN_CANDIDATES:
        parts.append(make_text((f"and {len(candidates) - SHOWN_CANDIDATES} further away", "dim")))
    return parts
