"""`troth trust`: how much is relied on whom, why, and what speaks for or against them."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.identity import (
    NameArgument,
    ReasonOption,
    describe_duration_seconds,
    require,
)
from troth.cli.terminal import Terminal, make_request, make_sheet, make_table
from troth.cli.words import describe_moment, describe_time, parse_duration
from troth.core.errors import Invalid
from troth.wire.api import trust as wire

app = make_app("How much is relied on whom, why, and what speaks for or against them.")


@command(
    app,
    "add",
    example="troth trust add payments --weight -40 --half-life 12h --kind intrusion "
    "--reason 'it scanned the subnet'",
)
def add(
    terminal: Terminal,
    name: NameArgument,
    weight: Annotated[
        int,
        typer.Option(
            help="Points: below 0 against it, above 0 for it; -100 to 100.",
            min=-wire.MOST_WEIGHT,
            max=wire.MOST_WEIGHT,
        ),
    ],
    half_life: Annotated[str, typer.Option(help="After which it counts half: 90m, 12h, 7d.")] = (
        "7d"
    ),
    kind: Annotated[str, typer.Option(help="A word for what was seen.", metavar="WORD")] = "report",
    origin: Annotated[
        str, typer.Option(help="A word for where it comes from.", metavar="WORD")
    ] = "operator",
    reason: ReasonOption = "",
) -> None:
    """Add evidence for or against an identity. It counts at once, and fades by itself."""
    try:
        seconds = int(parse_duration(half_life).total_seconds())
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint="--half-life") from error
    request = make_request(
        wire.AddEvidence,
        name=name,
        weight=weight,
        half_life=seconds,
        kind=kind,
        origin=origin,
        reason=require(reason, "--reason", "what was seen?"),
    )
    added: wire.EvidenceAdded = terminal.call("trust.add", request)
    terminal.show(added, lambda: [_describe_score(added.trust)])
    terminal.say(f"To take it back: `troth trust withdraw {added.id} --reason TEXT`.")


@command(app, "ls", example="troth trust ls\ntroth trust ls --limit 10")
def ls(
    terminal: Terminal,
    limit: Annotated[
        int, typer.Option(help="So many, the lowest first.", min=1, max=1000, metavar="N")
    ] = 100,
) -> None:
    """List who is relied on least."""
    page: wire.TrustPage = terminal.call("trust.ls", make_request(wire.ListTrust, limit=limit))
    rows = [
        (one.score, one.tier, one.name, one.assurance, one.evidence, one.owner)
        for one in page.items
    ]
    columns = ("SCORE", "TIER", "IDENTITY", "ASSURANCE", "EVIDENCE", "OWNER")
    terminal.show(page, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say("No identity is registered yet: see `troth identity register --help`.")
    elif page.next is not None:
        terminal.say(f"These are the {limit} lowest; `--limit N` shows more.")


@command(app, "show", example="troth trust show payments")
def show(terminal: Terminal, name: NameArgument) -> None:
    """Show how much one identity is relied on, each point with its reason."""
    view: wire.TrustView = terminal.call("trust.show", make_request(wire.NameTrust, name=name))
    now = terminal.now()
    reasons = [(f"{one.points:+g}", one.words) for one in view.reasons]
    evidence = [
        (one.id, one.kind, one.origin, one.weight, f"{one.left:+g}",
         describe_duration_seconds(one.half_life), describe_time(one.at, now),
         describe_time(one.ends_at, now), one.added_by)
        for one in view.evidence
    ]  # fmt: skip
    columns = ("EVIDENCE", "KIND", "ORIGIN", "WEIGHT", "LEFT", "HALF-LIFE", "ADDED", "ENDS", "BY")
    parts = [
        make_sheet(
            [
                ("identity", view.spiffe_id),
                ("owner", view.owner),
                ("score", view.score),
                ("tier", view.tier),
                ("assurance", view.assurance),
                ("until", describe_moment(view.valid_until, now)),
            ]
        ),
        make_table(("POINTS", "REASON"), reasons),
    ]
    if evidence:
        parts.append(make_table(columns, evidence))
    terminal.show(view, lambda: parts)


@command(
    app,
    "withdraw",
    example="troth trust withdraw evd_019b1c --reason 'the scan was ours'",
)
def withdraw(
    terminal: Terminal,
    evidence: Annotated[str, typer.Argument(help="Its id: evd_…", metavar="ID")],
    reason: ReasonOption = "",
) -> None:
    """Take evidence back. The journal keeps what it was and why it went."""
    request = make_request(
        wire.WithdrawEvidence,
        id=evidence,
        reason=require(reason, "--reason", "why do you take it back?"),
    )
    view: wire.TrustView = terminal.call("trust.withdraw", request)
    terminal.show(view, lambda: [_describe_score(view)])


def _describe_score(view: wire.TrustView) -> str:
    return f"{view.name}: {view.score} of 100, tier {view.tier}"
