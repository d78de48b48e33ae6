"""An archive in a folder, with a decision log beside it, packed when the test says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.fakes.decisions import NOON
from troth.archive.compaction import Compactor
from troth.archive.depot import Depot, FolderDepot
from troth.archive.engine import Bounds, Engine
from troth.archive.layout import JOURNAL, Table
from troth.archive.log import DecisionLog
from troth.archive.packing import Packed, Packer
from troth.archive.parquetarchive import ParquetArchive
from troth.archive.record import DecisionRecord
from troth.archive.workshop import Workshop
from troth.audit.entry import StoredEvent
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy

SERVER = "a1b2c3d4"
_TICK = timedelta(microseconds=1)


class ArchiveHouse:
    """The parts of it, each as the server has them."""

    def __init__(self, folder: Path, depot: Depot | None = None, server: str = SERVER) -> None:
        self.clock = VirtualClock(NOON)
        folder.mkdir(exist_ok=True)
        self.root = folder / "archive"
        self.depot = depot or FolderDepot(self.root)
        self.log = DecisionLog(folder / server, self.clock, SeededEntropy(1), server)
        work = folder / "work"
        work.mkdir(exist_ok=True)
        bounds = Bounds(memory=256 << 20, spill=work, seconds=120)
        self.workshop = Workshop(self.depot, Engine(self.depot, bounds, work), work)
        self.packer = Packer(self.workshop)
        self.compactor = Compactor(self.workshop)
        self.archive = ParquetArchive(
            self.depot,
            Engine(self.depot, Bounds()),
            self.clock,
            self.log,
            self.compactor.redact_event,
        )

    async def close_with(self, records: Sequence[DecisionRecord]) -> int:
        """Write these, and close the segment; its number."""
        if records:
            await self.log.append(records)
        closed = await self.log.close_segment()
        return closed.number if closed else 0

    def pack(self, number: int) -> Packed:
        """Pack a segment, and mark it."""
        packed = self.packer.pack_segment(self.log.find_path(number))
        self.log.mark_packed(number)
        return packed

    async def pack_all(self, records: Sequence[DecisionRecord]) -> Packed:
        """All of it."""
        return self.pack(await self.close_with(records))

    def pack_events(self, events: Sequence[StoredEvent]) -> None:
        """Pack events."""
        self.packer.pack_events(events)

    def compact(self, table: Table = Table.DECISIONS) -> int:
        """Compact every day there is."""
        days = {one.day for one in self.list_files(table)}
        writer = self.log.server if table is Table.DECISIONS else JOURNAL
        return sum(self.compactor.compact_day(table, writer, day) for day in days)

    def list_files(self, table: Table = Table.DECISIONS) -> list[Any]:
        """The files of a table."""
        first, last = date.min, date.max
        return sorted(file for file, _ in self.depot.list_files(table, first, last))

    def list_paths(self, table: Table = Table.DECISIONS) -> list[Path]:
        """Where they lie, in a folder."""
        return [self.root / one.name for one in self.list_files(table)]

    def close(self) -> None:
        """Stop the log's thread."""
        self.log.close()
        self.workshop.engine.close()


def make_event(position: int, at: datetime, **fields: Any) -> StoredEvent:
    """An event; each position another one."""
    values: dict[str, Any] = {
        "position": position,
        "type": "identity.changed",
        "version": 1,
        "subject": "spiffe://example.org/payments",
        "actor": "uid:1000",
        "at": (at - datetime(1970, 1, 1, tzinfo=at.tzinfo)) // _TICK,
        "request_id": f"req_{position:024x}",
        "body": '{"name":"payments","source":"10.0.0.1:7","reason":"asked for"}',
        "salt": position.to_bytes(16, "big"),
        "digest": None,
    }
    return StoredEvent(**values | fields)


def make_events(positions: Iterable[int], at: datetime) -> list[StoredEvent]:
    """So many of one moment."""
    return [make_event(position, at) for position in positions]
