"""An archive that packs nothing: archived events in a list, decisions in a server's own log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime

from troth.archive.found import present_decision
from troth.archive.log import DecisionLog
from troth.archive.proof import DecisionProof
from troth.archive.record import DecisionRecord
from troth.archive.search import Answer, Touches
from troth.archive.touching import Tally
from troth.audit.query import Found, Kind, Query, Spot, find_spot, fits


@dataclass
class FakeArchive:
    """Answers as `troth.archive.search.Archive` says it must."""

    decisions: DecisionLog
    events: list[Found] = field(default_factory=list)
    """Those that the journal needn't have any more, by position, from 1 on."""
    damage: tuple[str, ...] = ()
    asked: list[Query] = field(default_factory=list)

    def search(
        self,
        query: Query,
        limit: int,
        after: Spot | None = None,
        *,
        names: Collection[str] = (),
        events_before: int | None = None,
    ) -> Answer:
        self.asked.append(query)
        old = [one for one in self.events if events_before is None or int(one.id) < events_before]
        found = [one for one in old if fits(query, one)]
        for one in self._list_decisions(query):
            named = one.detail["subject_type"] == "identity" and one.subject in names
            if fits(replace(query, identity="") if named else query, one):
                found.append(one)
        found.sort(key=find_spot, reverse=True)
        if after is not None:
            found = [one for one in found if find_spot(one) < after]
        shown = found[:limit]
        more = len(found) > limit
        return Answer(tuple(shown), find_spot(shown[-1]) if more else None, self.damage)

    def _list_decisions(self, query: Query) -> list[Found]:
        if query.kind is Kind.EVENT:
            return []
        records = self.decisions.scan(query.since, query.until)
        return [
            present_decision(record, f"server/1/{number:08d}")
            for number, record in enumerate(records)
        ]

    def who_touched(
        self, resource: str, since: datetime, until: datetime, limit: int = 1000
    ) -> Touches:
        tally = Tally()
        for record in self.decisions.scan(since, until, resource=resource):
            tally.add_record(record)
        found = tally.list_newest()
        return Touches(tuple(found[:limit]), len(found) <= limit, self.damage)

    def find(
        self, decision: str, day: date | None = None
    ) -> tuple[DecisionRecord, DecisionProof | None]:
        return self.decisions.find(decision)

    def find_proof(self, decision: str, day: date | None = None) -> DecisionProof:
        return self.decisions.find_proof(decision)

    def scan(
        self,
        since: datetime,
        until: datetime,
        *,
        subject: str = "",
        resource: str = "",
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[DecisionRecord]:
        return self.decisions.scan(
            since, until, subject=subject, resource=resource, on_damage=on_damage
        )

    def find_last_event(self) -> int:
        return len(self.events)

    def redact_event(self, position: int) -> bool:
        return False
