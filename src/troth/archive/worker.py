"""The packing process: ``python -m troth.archive.worker``, with a job on its standard input.

Packing takes memory and time, and the server has neither to spare: so DuckDB works in a process of
its own, with low priority, which ends with its job. One at a time works in a folder.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import msgspec

from troth.archive.compaction import Compactor
from troth.archive.depot import open_depot
from troth.archive.engine import Bounds, Engine
from troth.archive.jobsheet import (
    AnyStep,
    CompactDay,
    DescribeDay,
    Done,
    PackEvents,
    PackSegment,
    RedactEvents,
    RollMonth,
    Segment,
    Sheet,
)
from troth.archive.layout import choose_current
from troth.archive.packing import Packer
from troth.archive.parquet import read_label
from troth.archive.workshop import Workshop
from troth.core.errors import TrothError, Unavailable

NICE = 10
LOCK = ".lock"
HOURS = 4
"""After which a single statement is given up: far more than any should take."""


class Worker:
    """Does the steps of a job, one after the other."""

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet
        work = Path(sheet.work)
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(work / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        depot = open_depot(sheet.where)
        bounds = Bounds(memory=sheet.memory, spill=work, seconds=HOURS * 3600.0)
        self._workshop = Workshop(depot, Engine(depot, bounds, work), work)
        self._workshop.empty()

    def close(self) -> None:
        """Let the next one into the folder."""
        self._workshop.engine.close()
        os.close(self._lock)

    def do(self, number: int) -> Done:
        """One step; an error of ours is an answer."""
        try:
            return self._do(number, self._sheet.steps[number])
        except TrothError as error:
            failed = Done(number, error=error.code, detail=error.detail)
        except OSError as error:
            detail = f"The archive can't be written: {error.strerror or type(error).__name__}."
            failed = Done(number, error=Unavailable.code, detail=detail)
        self._workshop.empty()  # the disk may be full of what is half done
        return failed

    def _do(self, number: int, step: AnyStep) -> Done:
        match step:
            case PackSegment():
                packed = Packer(self._workshop).pack_segment(Path(step.path))
                return Done(number, packed.rows)
            case PackEvents():
                return Done(number, len(Packer(self._workshop).pack_events(step.events)))
            case CompactDay():
                compactor = Compactor(self._workshop)
                return Done(
                    number, compactor.compact_day(step.table, step.writer, step.day, step.apart)
                )
            case RollMonth():
                compactor = Compactor(self._workshop)
                return Done(number, compactor.roll_month(step.writer, step.month))
            case RedactEvents():
                return Done(number, Compactor(self._workshop).redact_events(step.positions))
            case DescribeDay():
                return self._describe(number, step)

    def _describe(self, number: int, step: DescribeDay) -> Done:
        held = self._workshop.depot.list_files(step.table, step.day, step.day)
        files, _ = choose_current(file for file, _ in held if step.writer in ("", file.writer))
        rows, segments = 0, []
        with self._workshop.engine.connect() as link:
            for file in files:
                label = read_label(link, file)
                rows += label.rows
                segments += [
                    Segment(file.writer, one.number, one.root, one.first, one.last, one.closed_at)
                    for one in label.segments
                ]
        return Done(number, rows, segments)


def main() -> None:
    """Do what is told, and say so after each step."""
    os.nice(NICE)
    os.umask(0o077)
    sheet = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Sheet)
    worker = Worker(sheet)
    for number in range(len(sheet.steps)):
        sys.stdout.buffer.write(msgspec.json.encode(worker.do(number)) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # DuckDB's binding complains of its own objects when the interpreter takes itself apart.
    os._exit(0)
