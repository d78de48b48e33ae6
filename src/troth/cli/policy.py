"""`troth policy`: versions of the policy set, held changes, replays and suggestions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from troth.cli import policy_cases as policy_cases  # its command is one of the group
from troth.cli.command import command
from troth.cli.identity import NameArgument, ReasonOption, require
from troth.cli.manifest import (
    PathsArgument,
    paint_plan,
    submit_manifests,
    summarize_plan,
    tell_applied,
)
from troth.cli.policy_app import app as app
from troth.cli.terminal import (
    WANTING,
    Terminal,
    is_interactive,
    make_request,
    make_sheet,
    make_table,
    make_text,
)
from troth.cli.words import count_noun, describe_moment, describe_time
from troth.wire.api import manifests
from troth.wire.api import policies as wire

if TYPE_CHECKING:
    from rich.console import RenderableType

NumberArgument = Annotated[
    int, typer.Argument(help="The number of a version.", metavar="N", min=1, show_default=False)
]
ChangeArgument = Annotated[
    int, typer.Argument(help="The number of a held change.", metavar="N", min=1, show_default=False)
]
DaysOption = Annotated[
    float, typer.Option("--days", help="How many days back.", metavar="N", min=0.01, max=3650)
]
STYLES = {"denied": "red", "permitted": "green", "unknown": "yellow", "skipped": "dim"}


@command(app, "history", example="troth policy history\ntroth policy history --limit 10")
def history(
    terminal: Terminal,
    limit: Annotated[
        int, typer.Option(help="So many, the newest first.", min=1, max=1000, metavar="N")
    ] = 100,
) -> None:
    """List every policy set that was applied, and whether its signature holds.

    It fails if one of them isn't what was applied and signed.
    """
    page: wire.VersionPage = terminal.call(
        "policy.history", make_request(wire.ListVersions, limit=limit)
    )
    now = terminal.now()
    rows = [
        (one.number, describe_time(one.created_at, now), one.author, one.approver,
         one.digest[:16], one.fault or "ok")
        for one in page.items
    ]  # fmt: skip
    columns = ("VERSION", "APPLIED", "AUTHOR", "APPROVED BY", "DIGEST", "SIGNATURE")
    terminal.show(page, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say("No policy set was applied yet: see `troth apply --help`.")
    if any(one.fault for one in page.items):
        raise typer.Exit(WANTING)


@command(app, "show", example="troth policy show 7")
def show(terminal: Terminal, number: NumberArgument) -> None:
    """Show what one version declares, and check its signature and its place in the chain."""
    found: wire.VersionContent = terminal.call(
        "policy.show", make_request(wire.NameVersion, number=str(number))
    )
    one, now = found.version, terminal.now()
    parts: list[RenderableType] = [
        make_sheet(
            [
                ("version", one.number),
                ("applied", describe_moment(one.created_at, now)),
                ("author", one.author),
                ("approved by", one.approver),
                ("digest", one.digest),
                ("previous", one.previous),
                ("key", one.key_id),
                ("signature", one.fault or "ok"),
            ]
        )
    ]
    for change in found.declared:
        parts.append(make_text((f"{change.kind} {change.name}", "bold")))
        parts += [make_text(f"    {words}") for words in change.words]
    terminal.show(found, lambda: parts)
    if one.fault:
        raise typer.Exit(WANTING)


@command(app, "diff", example="troth policy diff 6 7\ntroth policy diff 6")
def diff(
    terminal: Terminal,
    before: NumberArgument,
    after: Annotated[
        int | None,
        typer.Argument(help="Another; without it what holds now.", metavar="[N]", min=1),
    ] = None,
) -> None:
    """Show what differs between two versions, in words and by access.

    The access is that of the identities as they are now.
    """
    found: wire.Difference = terminal.call(
        "policy.diff", make_request(wire.CompareVersions, before=before, after=after)
    )
    plan = manifests.ManifestPlan(
        changes=found.changes,
        access=found.access,
        access_more=found.access_more,
        access_complete=found.access_complete,
    )
    terminal.show(found, lambda: paint_plan(plan))
    if not found.changes:
        terminal.say("They declare the same.")


@command(app, "rollback", example="troth policy rollback 6\ntroth policy rollback 6 --yes")
def rollback(
    terminal: Terminal,
    number: NumberArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before changing.")] = False,
) -> None:
    """Apply what an earlier version declares, as a new version.

    Roles, resources, policies and segments become what they were; identities, templates and
    issuers stay as they are. What is about critical resources waits for a second person.
    """
    with terminal.connect() as client:
        request = make_request(wire.RollBack, number=str(number))
        if not (yes or terminal.json) and is_interactive():
            planned = client.call(
                "policy.rollback", make_request(wire.RollBack, number=str(number), dry_run=True)
            )
            terminal.show(planned, lambda: paint_plan(planned))
            if not typer.confirm(f"{summarize_plan(planned)} Apply?", err=True):
                terminal.say("Nothing was changed.")
                raise typer.Exit(WANTING)
        applied = client.call("policy.rollback", request)
    tell_applied(terminal, applied)


@command(app, "pending", example="troth policy pending\ntroth policy pending --all")
def pending(
    terminal: Terminal,
    everything: Annotated[
        bool, typer.Option("--all", help="Those too that were decided or expired.")
    ] = False,
) -> None:
    """List changes that wait for a second person."""
    page: wire.HeldPage = terminal.call(
        "policy.pending", make_request(wire.ListHeld, all=everything)
    )
    now = terminal.now()
    rows = [
        (one.number, one.state, one.author, describe_time(one.created_at, now),
         describe_time(one.expires_at, now), one.decided_by, one.reasons)
        for one in page.items
    ]  # fmt: skip
    columns = ("CHANGE", "STATE", "AUTHOR", "ASKED", "EXPIRES", "DECIDED BY", "BECAUSE")
    terminal.show(page, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say("Nothing waits for approval.")
    elif not everything:
        terminal.say("To see what one would do: `troth policy review N`.")


@command(app, "review", example="troth policy review 3")
def review(terminal: Terminal, number: ChangeArgument) -> None:
    """Show what approving a held change would do, as things are now."""
    found: wire.HeldPlan = terminal.call(
        "policy.review", make_request(wire.NameHeld, number=str(number))
    )
    plan = found.plan

    def render() -> list[RenderableType]:
        one = found.change
        parts: list[RenderableType] = [
            make_sheet([("author", one.author), ("because", one.reasons), ("state", one.state)])
        ]
        return [*parts, *(paint_plan(plan) if plan is not None else map(make_text, one.words))]

    terminal.show(found, render)
    if found.outdated:
        terminal.say(found.outdated)
        raise typer.Exit(WANTING)


@command(app, "approve", example="troth policy approve 3")
def approve(terminal: Terminal, number: ChangeArgument) -> None:
    """Approve a change that somebody else asked for, and apply it."""
    request = make_request(wire.NameHeld, number=str(number))
    tell_applied(terminal, terminal.call("policy.approve", request))


@command(app, "reject", example="troth policy reject 3 --reason 'not before the audit'")
def reject(terminal: Terminal, number: ChangeArgument, reason: ReasonOption = "") -> None:
    """Reject a held change, or take your own back."""
    request = make_request(
        wire.RejectHeld, number=str(number), reason=require(reason, "--reason", "why not?")
    )
    found: wire.HeldChange = terminal.call("policy.reject", request)
    terminal.show(found, lambda: [f"change {found.number}: {found.state}"])


@command(
    app,
    "replay",
    example="troth policy replay policies/\ntroth policy replay policies/ --days 30 --json",
)
def replay(
    terminal: Terminal,
    paths: PathsArgument,
    days: DaysOption = 7,
    prune: Annotated[
        bool, typer.Option("--prune", help="As if applied with --prune: what they don't name goes.")
    ] = False,
    subject: Annotated[
        str | None, typer.Option(help="Of one subject alone, by its name.", metavar="NAME")
    ] = None,
    resource: Annotated[
        str | None, typer.Option(help="About one resource alone.", metavar="NAME")
    ] = None,
) -> None:
    """Decide recorded decisions anew under what these manifests would make of the rules.

    It changes nothing. It fails if a call that was permitted would be denied, or if that can't be
    told.
    """
    submitted = submit_manifests(terminal, paths, prune)
    request = make_request(
        wire.ReplayDecisions, days=days, prune=prune, subject=subject, resource=resource
    )
    request = wire.ReplayDecisions(
        documents=submitted.documents,
        prune=prune,
        days=request.days,
        subject=request.subject,
        resource=request.resource,
    )
    found: wire.ReplayResult = terminal.call("policy.replay", request)
    terminal.show(found, lambda: _paint_replay(found))
    _tell_replay(terminal, found)
    if found.denied or found.unknown:
        raise typer.Exit(WANTING)


def _paint_replay(found: wire.ReplayResult) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for one in found.groups:
        named = (
            one.subject if one.subject_type == "identity" else f"{one.subject_type}:{one.subject}"
        )
        what = (
            f"{named} {one.action} on {one.resource}" if one.resource else f"{named} {one.action}"
        )
        parts.append(
            make_text(
                (_NAMES.get(one.outcome, one.outcome), STYLES.get(one.outcome, "")),
                f" {what}: {count_noun(one.count, 'call')}, {one.first:%Y-%m-%d %H:%M} to "
                f"{one.last:%Y-%m-%d %H:%M}",
            )
        )
        parts.append(make_text(f"    {one.words}"))
        parts.append(make_text(f"    such as {', '.join(one.examples)}"))
    return parts


_NAMES = {
    "denied": "would be denied:",
    "permitted": "would be permitted:",
    "unknown": "can't tell:",
    "skipped": "left out:",
}


def _tell_replay(terminal: Terminal, found: wire.ReplayResult) -> None:
    counts = [
        f"{found.denied} would be denied",
        f"{found.permitted} would be permitted that were denied",
        f"{found.same} stay as they are",
    ]
    if found.unknown:
        counts.append(f"{found.unknown} can't be told, since what matters wasn't recorded")
    if found.skipped:
        counts.append(f"{found.skipped} are by identities that are gone")
    terminal.say(
        f"{count_noun(found.looked_at, 'call')} from {found.since:%Y-%m-%d %H:%M} to "
        f"{found.until:%Y-%m-%d %H:%M}: {', '.join(counts)}."
    )
    if found.groups_more:
        terminal.say(f"{found.groups_more} more groups of calls aren't shown.")
    if not found.complete:
        terminal.say("There were more calls than can be looked at: ask for fewer days.")
    terminal.say(*found.notes, style="yellow")


@command(
    app,
    "suggest",
    example="troth policy suggest orders --days 30 > orders-least.yaml",
)
def suggest(terminal: Terminal, name: NameArgument, days: DaysOption = 30) -> None:
    """Suggest the role that an identity needs for what it did, with a proof by replay.

    The role has no wildcards and nothing that wasn't used. It fails if with that role alone
    something would break that the identity did.
    """
    found: wire.Suggestion = terminal.call(
        "policy.suggest", make_request(wire.SuggestRole, name=name, days=days)
    )
    terminal.show(found, lambda: _paint_suggestion(found))
    if found.manifest is None:
        terminal.say(f"{found.identity} used nothing that needs a role: it can do without one.")
    proof = found.proof
    if proof.denied or proof.unknown:
        _tell_replay(terminal, proof)
        for part in _paint_replay(proof):
            terminal.say(str(part))
        raise typer.Exit(WANTING)
    terminal.say(
        f"Nothing that it used breaks: {count_noun(proof.same, 'call')} of {days:g} days replayed "
        "with this role alone have the answer that they had."
    )
    if not proof.complete:
        terminal.say("There were more calls than can be looked at: ask for fewer days.")
    terminal.say(*found.notes, style="yellow")


def _paint_suggestion(found: wire.Suggestion) -> list[RenderableType]:
    """YAML, with what isn't needed any more as comments."""
    import yaml

    lines = [f"# What {found.identity} used; it holds {', '.join(found.roles) or 'no role'} now."]
    lines += [f"# not used: {words}" for words in found.unused]
    text = "\n".join(lines) + "\n"
    if found.manifest is not None:
        text += yaml.safe_dump(found.manifest, sort_keys=False, allow_unicode=True, width=100)
    return [text.rstrip("\n")]
