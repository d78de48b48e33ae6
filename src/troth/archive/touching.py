"""Who touched a resource: counted from what stands beside files of decisions, and from decisions
where only part of a day is asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Any

from troth.archive.found import FAILURE, SUCCESS
from troth.archive.layout import (
    ArchiveFile,
    Table,
    begin_day,
    choose_current,
    end_month,
    find_day,
    find_month,
)
from troth.archive.pages import Pending, find_by_resource
from troth.archive.question import Condition, ask_subjects, join_conditions, limit_time
from troth.archive.reading import AT_ONCE, Labels, Reader, split_evenly
from troth.archive.record import DecisionRecord
from troth.archive.search import Touch
from troth.core.errors import TooLarge

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

MOST_TOUCHES = 200_000
"""Subjects, actions and outcomes that are counted apart, of one resource; some 100 MB."""

_COUNTED = f"""
    SELECT subject, subject_type, action, status_id, sum(count)::BIGINT, min(epoch_us("first")),
        max(epoch_us("last"))
    FROM read_parquet(?, hive_partitioning = false) WHERE resource = ?
    GROUP BY ALL LIMIT {MOST_TOUCHES + 1}
"""  # noqa: S608 - a number of ours
_SINGLE = f"""
    SELECT actor."user".uid, actor."user"."type", api.operation, status_id, count(*),
        epoch_us(min(time_dt)), epoch_us(max(time_dt))
    FROM read_parquet(?, hive_partitioning = false) WHERE %s
    GROUP BY ALL LIMIT {MOST_TOUCHES + 1}
"""  # noqa: S608 - a number of ours

Key = tuple[str, str, str, str]


@dataclass(slots=True)
class Tally:
    """Touches, added up."""

    found: dict[Key, Touch] = field(default_factory=dict)

    def add(self, touch: Touch) -> None:
        """One more."""
        key = (touch.subject, touch.subject_type, touch.action, touch.outcome)
        known = self.found.get(key)
        if known is None:
            self.found[key] = touch
            self._check_size()
            return
        first, last = min(known.first, touch.first), max(known.last, touch.last)
        self.found[key] = Touch(*key, known.times + touch.times, first, last)

    def add_record(self, record: DecisionRecord) -> None:
        """One decision."""
        outcome = SUCCESS if record.allowed else FAILURE
        whom = (record.subject, record.subject_type, record.action, outcome)
        self.add(Touch(*whom, 1, record.at, record.at))

    def add_rows(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """What one of the statements gave."""
        found = self.found
        for subject, type_, action, status, count, first, last in rows:
            key = (subject, type_, action, SUCCESS if status == 1 else FAILURE)
            touch = Touch(*key, count, _place(first), _place(last))
            if key in found:
                self.add(touch)
            else:
                found[key] = touch
        self._check_size()

    def _check_size(self) -> None:
        if len(self.found) > MOST_TOUCHES:
            raise TooLarge(
                f"More than {MOST_TOUCHES:,} subjects and actions touched the resource: ask for "
                "less time."
            )

    def list_newest(self) -> list[Touch]:
        """The most recent first."""
        return sorted(
            self.found.values(), key=attrgetter("last", "subject", "action"), reverse=True
        )


@dataclass(frozen=True, slots=True)
class TouchSearch:
    """Who touched `resource` from `since` to before `until`."""

    resource: str
    since: datetime
    until: datetime
    pending: Pending

    def count(
        self,
        reader: Reader,
        files: Sequence[ArchiveFile],
        beside: Collection[ArchiveFile],
        labels: Labels,
        tally: Tally,
    ) -> None:
        """Add what these files have of it; `beside` is what else there is of them and their
        months."""
        files = self.pending.drop(files)
        whole = [file for file in files if self._is_counted(file)]
        months = self._find_months(reader, whole, beside, labels)
        done = {file for some in months.values() for file in some}
        counted = {file.beside(Table.TOUCHED): file for file in whole if file not in done}
        known = [*months, *(one for one in counted if one in beside)]
        for some in split_evenly(known, AT_ONCE):
            tally.add_rows(reader.read(some, _COUNTED, [self.resource]))
        for one in known:
            if one in reader.without:
                done -= set(months.get(one, ()))
            elif one in counted:
                done.add(counted[one])
        single = [file for file in files if file not in done]
        for part in split_evenly(single, AT_ONCE):
            self._count_single(reader, part, beside, tally)

    def _count_single(
        self,
        reader: Reader,
        files: Sequence[ArchiveFile],
        beside: Collection[ArchiveFile],
        tally: Tally,
    ) -> None:
        some, subjects = find_by_resource(reader, files, beside, self.resource)
        condition = join_conditions(
            [
                Condition('resources[1]."name" = ?', (self.resource,)),
                limit_time(self.since, self.until),
                *([ask_subjects(subjects)] if subjects else []),
                *self.pending.leave_out(some),
            ]
        )
        tally.add_rows(reader.read(some, _SINGLE % condition.sql, condition.values))

    def _find_months(
        self,
        reader: Reader,
        files: Sequence[ArchiveFile],
        beside: Collection[ArchiveFile],
        labels: Labels,
    ) -> dict[ArchiveFile, list[ArchiveFile]]:
        """Months that are asked for as a whole and that count these very files, with those."""
        groups: dict[tuple[str, date], list[ArchiveFile]] = defaultdict(list)
        for file in files:
            groups[file.writer, find_month(file.day)].append(file)
        made, _ = choose_current(
            one
            for one in beside
            if one.table is Table.MONTHS and (one.writer, one.day) in groups and self._has(one.day)
        )
        return {
            month: groups[month.writer, month.day]
            for month, label in labels.read(reader, made).items()
            if label.files == tuple(one.name for one in groups[month.writer, month.day])
        }

    def _has(self, month: date) -> bool:
        """Whether all of a month is asked for."""
        return self.since <= begin_day(month) and end_month(month) < find_day(self.until)

    def _is_counted(self, file: ArchiveFile) -> bool:
        """Whether all of a file is asked for, so that it needn't be read."""
        whole = self.since <= begin_day(file.day) and file.day < find_day(self.until)
        return whole and not self.pending.list_in(file)


def _place(microseconds: int) -> datetime:
    """A time of a row; it came from one that a calendar has."""
    return _EPOCH + timedelta(0, 0, microseconds)
