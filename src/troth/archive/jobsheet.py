"""What the packing process is told to do, and its answers: MessagePack in, lines of JSON out."""

from __future__ import annotations

from datetime import date, datetime

import msgspec

from troth.archive.layout import Table
from troth.audit.entry import StoredEvent
from troth.core.errors import error_of


class Step(msgspec.Struct, frozen=True, tag_field="do"):
    """One thing to do. Its name is that of the answer's kind as well."""


class PackSegment(Step, frozen=True, tag="pack"):
    """Pack the closed segment in a file."""

    path: str


class PackEvents(Step, frozen=True, tag="events"):
    """Pack sealed events that follow each other."""

    events: list[StoredEvent]


class CompactDay(Step, frozen=True, tag="compact"):
    """Make one file of a day's pieces."""

    table: Table
    writer: str
    day: date
    apart: list[int] = []


class RollMonth(Step, frozen=True, tag="month"):
    """Count who touched what in a month, `month` being its first day."""

    writer: str
    month: date


class RedactEvents(Step, frozen=True, tag="redact"):
    """Take the details of events out."""

    positions: list[int]


class DescribeDay(Step, frozen=True, tag="describe"):
    """Tell what the files of a day hold, of one writer or of all."""

    table: Table
    day: date
    writer: str = ""


AnyStep = PackSegment | PackEvents | CompactDay | RollMonth | RedactEvents | DescribeDay


class Sheet(msgspec.Struct, frozen=True):
    """A job: where the archive is, the folder to work in, bytes of memory, and the steps."""

    where: str
    work: str
    memory: int
    steps: list[AnyStep]


class Segment(msgspec.Struct, frozen=True):
    """A segment by its server, its number and the root of its records; the earliest and latest time
    of one, and when it was closed."""

    server: str
    number: int
    root: str
    first: datetime
    last: datetime
    closed_at: datetime


class Done(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a step: what it was, or an error by its code. `count` is a number of rows or
    files."""

    step: int
    count: int = 0
    segments: list[Segment] = []
    error: str = ""
    detail: str = ""

    def check(self) -> Done:
        """Raise the error, if there was one."""
        if self.error:
            raise error_of(self.error, self.detail)
        return self
