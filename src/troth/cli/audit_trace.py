"""`troth audit trace`, `who` and `touched`: why something happened, who could do it and who did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from troth.cli.audit_app import app
from troth.cli.audit_filters import SinceOption, UntilOption, describe_record, read_when
from troth.cli.command import command
from troth.cli.terminal import Terminal, make_request, make_table, make_text
from troth.cli.words import clean_text, describe_moment
from troth.wire.api import auditsearch as wire

if TYPE_CHECKING:
    from rich.text import Text


@command(
    app,
    "trace",
    example="troth audit trace req_5f3c01a2b3c4d5e6f7a8b9c0\n"
    "troth audit trace dec_5f3c01a2b3c4d5e6f7a8b9c0 --json",
)
def trace(
    terminal: Terminal,
    request: Annotated[
        str,
        typer.Argument(
            help="A request's id, as answers, logs and events have it; a decision's: dec_…; or an "
            "event's position.",
            metavar="REQUEST",
        ),
    ],
    since: Annotated[
        str | None,
        typer.Option(
            help="It was then or later: 60d or a time (default: 30d).",
            metavar="WHEN",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show all that happened because of a request, as a tree, and what it came from.

    Each line below another says what ties it to that one: a token that was passed on, a
    transaction, a revocation, an approval.
    """
    asked = make_request(
        wire.TraceRequest, id=request, since=read_when(since, terminal.now(), "--since")
    )
    found: wire.Trace = terminal.call("audit.trace", asked)
    terminal.show(found, lambda: paint_trace(found))
    terminal.say(*map(clean_text, found.notes))


def paint_trace(found: wire.Trace) -> Iterator[Text]:
    """The tree, and below it what it came from."""
    yield make_text((f"request {found.request_id}", "bold"))
    yield from paint_steps(found.steps, "")
    if found.causes:
        yield make_text(("came from", "bold"))
        yield from paint_steps(found.causes, "")


def paint_steps(steps: Sequence[wire.Step], indent: str) -> Iterator[Text]:
    """A line for each step, those that followed from it below it."""
    for number, step in enumerate(steps, 1):
        last = number == len(steps)
        line = make_text((f"{indent}{'└─ ' if last else '├─ '}", "dim"))
        line.append_text(describe_record(step.record))
        if step.link != "request" or indent:
            line.append_text(make_text((f"  [{step.why}]", "dim")))
        yield line
        yield from paint_steps(step.steps, f"{indent}{'   ' if last else '│  '}")


@command(
    app,
    "who",
    example="troth audit who ledger --at yesterday\n"
    "troth audit who ledger --action write --at 2027-06-30T12:00:00Z --json",
)
def who(
    terminal: Terminal,
    resource: Annotated[
        str, typer.Argument(help="The declared resource's name.", metavar="RESOURCE")
    ],
    at: Annotated[
        str | None,
        typer.Option(
            help="At this moment: 2h, yesterday or a time (default: now).",
            metavar="WHEN",
            show_default=False,
        ),
    ] = None,
    action: Annotated[
        str, typer.Option(help="Only this action.", metavar="ACTION", show_default=False)
    ] = "",
) -> None:
    """Tell who could do what with a resource at a moment, and on which condition.

    Rules are those of the version that was in force then, states those that identities had.
    """
    asked = make_request(
        wire.AskWho, resource=resource, at=read_when(at, terminal.now(), "--at"), action=action
    )
    found: wire.WhoCould = terminal.call("audit.who", asked)
    rows = [
        (
            one.subject if one.subject_type == "identity" else f"{one.subject_type}:{one.subject}",
            ", ".join(one.actions),
            f"if {one.condition}" if one.condition else "always",
            "" if one.exact else f"uncertain: {one.note}",
        )
        for one in found.items
    ]
    columns = ("SUBJECT", "ACTIONS", "WHEN", "NOTE")
    terminal.show(found, lambda: [make_table(columns, rows)] if rows else [])
    moment = f"{found.at:%Y-%m-%d %H:%M:%S} UTC"
    if not rows:
        terminal.say(f"Nobody could do that with {clean_text(found.resource)} at {moment}.")
    terminal.say(f"At {moment} version {found.version} of the policy set was in force.")
    terminal.say(*map(clean_text, found.notes))
    if not found.complete:
        terminal.say("There were too many to look at all of them: there may be others.")


@command(
    app,
    "touched",
    example="troth audit touched ledger --since 30d\n"
    "troth audit touched ledger --since 2027-06-01 --until 2027-07-01 --json",
)
def touched(
    terminal: Terminal,
    resource: Annotated[
        str, typer.Argument(help="The declared resource's name.", metavar="RESOURCE")
    ],
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int, typer.Option(help="So many at most.", min=1, max=10_000, metavar="N")
    ] = 1000,
) -> None:
    """Tell who did what with a resource in a period, how often, and when first and last.

    Counts are of decisions, those in the archive included; who was denied stands there as well.
    """
    now = terminal.now()
    asked = make_request(
        wire.AskTouched,
        resource=resource,
        since=read_when(since, now, "--since"),
        until=read_when(until, now, "--until"),
        limit=limit,
    )
    found: wire.Touched = terminal.call("audit.touched", asked)
    rows = [
        (
            one.subject if one.subject_type == "identity" else f"{one.subject_type}:{one.subject}",
            one.action,
            one.outcome,
            str(one.times),
            describe_moment(one.first, now),
            describe_moment(one.last, now),
        )
        for one in found.items
    ]
    columns = ("SUBJECT", "ACTION", "OUTCOME", "TIMES", "FIRST", "LAST")
    terminal.show(found, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        ends = "now" if until is None else f"{found.until:%Y-%m-%d %H:%M} UTC"
        terminal.say(
            f"Nobody touched {clean_text(found.resource)} from {found.since:%Y-%m-%d %H:%M} UTC to "
            f"{ends}. Look further back, such as --since 30d, or whether it is called so: `troth "
            "resource ls`."
        )
    if not found.complete:
        terminal.say("There were more: ask for less time, or for more with --limit.")
    terminal.say(*map(clean_text, found.notes))
