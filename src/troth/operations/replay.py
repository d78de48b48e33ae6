"""Replays: recorded decisions under a proposed set; and the least privilege for what was used.

Both read the decision log in a thread, so many records and so long at most, and one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from troth.archive.record import DecisionRecord
from troth.archive.search import DecisionHistory
from troth.core.clock import Clock
from troth.identity.identity import Identity
from troth.live.snapshot import Snapshot
from troth.operations.call import OPEN, Call
from troth.operations.comparing import make_parties
from troth.operations.declaration import list_remaining, make_remaining_book
from troth.operations.planning import Content, Planner, Plans
from troth.policy.comparison import Side
from troth.policy.policy import Policy
from troth.policy.replay import Outcome, Recorded, Replayer, Verdict
from troth.policy.rule import IDENTITY
from troth.policy.rulebook import RuleBook
from troth.policy.suggestion import Use, render_role, suggest_role
from troth.store.declarations import Declared
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import policies as wire

MOST_SECONDS = 30.0
MOST_GROUPS = 200
MOST_SUBJECTS = 10_000
MOST_EXAMPLES = 3
CHUNK = 500
_SHOWN = (Outcome.DENIED, Outcome.PERMITTED, Outcome.UNKNOWN, Outcome.SKIPPED)


@dataclass(frozen=True, slots=True)
class Span:
    """Which decisions are looked at: the newest `most` of these."""

    since: datetime
    until: datetime
    most: int
    subject: str = ""
    resource: str = ""


@dataclass(slots=True)
class _Found:
    """What a first look at the log found."""

    count: int = 0
    subjects: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    uses: dict[tuple[str, str], Use] = field(default_factory=dict)
    whole: bool = True


@dataclass(slots=True)
class _Group:
    count: int
    first: datetime
    last: datetime
    examples: list[str]


@dataclass(frozen=True, slots=True)
class Desk:
    """What both operations share. One replay runs at a time: it takes a core while it does."""

    store: Store
    planner: Planner
    decisions: DecisionHistory
    snapshot: Snapshot
    turn: asyncio.Lock

    @property
    def clock(self) -> Clock:
        """The server's clock."""
        return self.planner.clock

    def span(self, days: float, most: int, subject: str = "", resource: str = "") -> Span:
        """The last `days`."""
        now = self.clock.now()
        since = now - timedelta(days=days)
        return Span(since, now + timedelta(seconds=1), most, subject, resource)

    def scan(self, span: Span, notes: dict[str, None]) -> Iterator[DecisionRecord]:
        """The records, oldest first; what is damaged is noted."""
        return self.decisions.scan(
            span.since,
            span.until,
            subject=span.subject,
            resource=span.resource,
            on_damage=lambda words: notes.setdefault(words),
        )

    def look(self, span: Span) -> _Found:
        """Count them, and who asked."""
        found = _Found()
        ends = self.clock.monotonic() + MOST_SECONDS
        for record in self.scan(span, found.notes):
            found.count += 1
            if record.subject_type == IDENTITY and len(found.subjects) < MOST_SUBJECTS:
                found.subjects[record.subject] = None
            if record.allowed:
                use = found.uses.setdefault((record.resource, record.action), Use())
                use.add(record.policies)
            if found.count % CHUNK == 0 and self.clock.monotonic() > ends:
                found.whole = False
                break
        return found

    async def read_identities(self, names: Iterable[str]) -> list[Identity]:
        """The living ones that have these names."""
        wanted = list(names)

        def read(tx: Transaction) -> list[Identity]:
            found: list[Identity] = []
            for start in range(0, len(wanted), CHUNK):
                found += tx.identities.list_named(wanted[start : start + CHUNK])
            return found

        return await self.store.read(read)

    async def read_epoch(self) -> int:
        """From which epoch on decisions were made by what holds now."""
        last = await self.store.read(lambda tx: tx.policy_sets.find_last())
        # Without a version nobody knows what held when: then nothing counts as read.
        return self.snapshot.epoch + 1 if last is None else last.epoch + 1

    def run(
        self, span: Span, found: _Found, sides: tuple[Side, Side], epoch: int
    ) -> wire.ReplayResult:
        """Replay them: `sides` are what is proposed, and what there is."""
        replayer = Replayer(*sides)
        tally = _Tally()
        skip = max(found.count - span.most, 0)
        ends = self.clock.monotonic() + MOST_SECONDS
        complete = found.whole and not skip
        for number, record in enumerate(self.scan(span, found.notes)):
            if number < skip:
                continue
            if number - skip >= span.most:
                break
            if number % CHUNK == 0 and self.clock.monotonic() > ends:
                complete = False
                break
            tally.add(record, replayer.replay(_recall(record, epoch)))
        return tally.sum_up(span, list(found.notes), complete=complete)


def _recall(record: DecisionRecord, epoch: int) -> Recorded:
    return Recorded(
        id=record.id,
        at=record.at,
        subject_type=record.subject_type,
        subject=record.subject,
        action=record.action,
        resource_type=record.resource_type,
        resource_id=record.resource_id,
        allowed=record.allowed,
        refusal=record.reason,
        facts=record.facts,
        reads_all=record.epoch >= epoch,
    )


class _Tally:
    """Counts outcomes, together where who, what and why are the same."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(Outcome, 0)
        self.groups: dict[tuple[Outcome, str, str, str, str, str], _Group] = {}

    def add(self, record: DecisionRecord, verdict: Verdict) -> None:
        """One more."""
        self.counts[verdict.outcome] += 1
        if verdict.outcome not in _SHOWN:
            return
        key = (
            verdict.outcome,
            record.subject_type,
            record.subject,
            record.action,
            verdict.resource or record.resource,
            verdict.words,
        )
        group = self.groups.get(key)
        if group is None:
            if len(self.groups) < MOST_GROUPS * 10:
                self.groups[key] = _Group(1, record.at, record.at, [record.id])
            return
        group.count += 1
        group.last = max(group.last, record.at)
        group.first = min(group.first, record.at)
        if len(group.examples) < MOST_EXAMPLES:
            group.examples.append(record.id)

    def sum_up(self, span: Span, notes: list[str], *, complete: bool) -> wire.ReplayResult:
        """All of it, what would be denied first."""
        order = sorted(
            self.groups.items(), key=lambda item: (_SHOWN.index(item[0][0]), -item[1].count)
        )
        return wire.ReplayResult(
            looked_at=sum(self.counts.values()),
            same=self.counts[Outcome.SAME],
            denied=self.counts[Outcome.DENIED],
            permitted=self.counts[Outcome.PERMITTED],
            unknown=self.counts[Outcome.UNKNOWN],
            skipped=self.counts[Outcome.SKIPPED],
            since=span.since,
            until=span.until,
            groups=[
                wire.ReplayedGroup(
                    outcome=outcome.value,
                    subject_type=type_,
                    subject=subject,
                    action=action,
                    resource=resource,
                    count=group.count,
                    first=group.first,
                    last=group.last,
                    words=words,
                    examples=group.examples,
                )
                for (outcome, type_, subject, action, resource, words), group in order[:MOST_GROUPS]
            ],
            groups_more=max(len(order) - MOST_GROUPS, 0),
            complete=complete,
            notes=notes[:20],
        )


def make_desk(
    store: Store, planner: Planner, decisions: DecisionHistory, snapshot: Snapshot
) -> Desk:
    """What `ReplayDecisions` and `SuggestRole` work at, together."""
    return Desk(store, planner, decisions, snapshot, asyncio.Lock())


@dataclass(frozen=True, slots=True)
class ReplayDecisions:
    """``policy.replay``: what recorded decisions would be under a proposed set."""

    desk: Desk

    async def __call__(self, call: Call[wire.ReplayDecisions]) -> wire.ReplayResult:
        """The last `days`, under what holds now as these manifests change it; nothing is changed.
        `Invalid` lists every problem of the manifests."""
        desk, body = self.desk, call.body
        wanted = await desk.planner.read(Content(documents=body.documents, prune=body.prune))
        span = desk.span(body.days, body.most, body.subject, body.resource)
        async with desk.turn:
            whoever = replace(call, gate=OPEN)  # nothing is changed
            plans = await desk.store.read(lambda tx: desk.planner.plan(tx, whoever, wanted))
            found = await asyncio.to_thread(desk.look, span)
            identities = await desk.read_identities(found.subjects)
            sides = await asyncio.to_thread(make_sides, desk.planner, plans, identities)
            epoch = await desk.read_epoch()
            return await asyncio.to_thread(desk.run, span, found, sides, epoch)


@dataclass(frozen=True, slots=True)
class SuggestRole:
    """``policy.suggest``: the least privilege for what an identity used."""

    desk: Desk

    async def __call__(self, call: Call[wire.SuggestRole]) -> wire.Suggestion:
        """A role as a manifest, and a replay of all that was used under it: with that role alone,
        and nothing else changed. `NotFound` if no living identity has that name."""
        desk, body = self.desk, call.body
        identity = await desk.store.read(lambda tx: tx.identities.get_named(body.name))
        span = desk.span(body.days, body.most, identity.name)
        async with desk.turn:
            declared = await desk.store.read(
                lambda tx: [one.value for one in tx.declarations.list()]
            )
            found = await asyncio.to_thread(desk.look, span)
            book = await asyncio.to_thread(make_present_book, declared, desk.clock.now())
            suggested = suggest_role(
                book, identity.name, identity.owner, identity.roles, found.uses
            )
            role = suggested.role
            changed = replace(identity, roles=() if role is None else (role.name,))
            others = [one for one in declared if role is None or one.name != role.name]
            proposed = await asyncio.to_thread(
                make_present_book,
                [*others, *([] if role is None else [role])],
                desk.clock.now(),
            )
            sides = (
                Side(proposed, make_parties(proposed, [changed])),
                Side(book, make_parties(book, [identity])),
            )
            epoch = await desk.read_epoch()
            proof = await asyncio.to_thread(desk.run, span, found, sides, epoch)
        return wire.Suggestion(
            identity=identity.name,
            roles=list(identity.roles),
            manifest=None if role is None else render_role(role),
            unused=list(suggested.unused),
            notes=list(suggested.notes),
            proof=proof,
        )


def make_sides(planner: Planner, plans: Plans, identities: Iterable[Identity]) -> tuple[Side, Side]:
    """What is proposed, and what there is now."""
    now = planner.clock.now()
    present = make_present_book([one.stored for one in plans.declared if one.stored], now)
    book = make_present_book(list_remaining(plans.declared), now)
    before, after = planner.list_moved(plans.identities)
    there = {one.name: one for one in identities}
    planned = {**there, **{one.name: one for one in after}}
    gone = {one.name for one in before} - {one.name for one in after}
    return (
        Side(book, make_parties(book, (one for one in planned.values() if one.name not in gone))),
        Side(present, make_parties(present, there.values())),
    )


def make_present_book(declared: Iterable[Declared], now: datetime) -> RuleBook:
    """The rule book of these, without policies that are over: they decide nothing any more."""
    living = [
        one
        for one in declared
        if not (isinstance(one, Policy) and one.expires_at is not None and now >= one.expires_at)
    ]
    return make_remaining_book(0, living)
