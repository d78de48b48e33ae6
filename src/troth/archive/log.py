"""The decision log: appended by many at once, durable together, read while it grows."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import structlog

from troth.archive.jobs import Job, deliver
from troth.archive.proof import DecisionProof, find_record, make_proof, prove_decision
from troth.archive.record import DecisionRecord, encode_record
from troth.archive.segment import (
    DRAFT,
    HEAD_SIZE,
    PACKED,
    SALT_SIZE,
    ClosedSegment,
    DamagedSegment,
    Header,
    Segment,
    list_packed,
    list_segments,
    name_segment,
)
from troth.archive.unpacked import Unpacked
from troth.archive.writing import Disk, Entry, OpenSegment, recover_segment, sync_folder
from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Conflict, NotFound, Refused, TrothError, Unavailable

log = structlog.get_logger(__name__)

SEGMENT_BYTES = 64 << 20
SEGMENT_SPAN = timedelta(hours=1)
"""A segment is closed when it is so large or so old: until then no entry of it can be proved."""

GROUP = 1024
"""The most appends that share one fsync."""
GROUP_BYTES = 4 << 20
"""Bytes of a group after which no append joins it."""
QUEUE = 8192
"""The most appends that may wait; beyond it callers are told to come back."""


class Edge(NamedTuple):
    """The open segment's number (0: none is open) and up to where it is durable; the number of the
    last segment."""

    number: int
    durable: int
    last: int


class LogMeter(Protocol):
    """Told how long appends wait."""

    def observe_decisions(self, outcome: str, count: int, seconds: float) -> None:
        """One group of `count` records is done, of which the first had waited so long."""
        ...


class DecisionLog:
    """All segments in one folder, which belongs to this process alone; one thread writes.

    `append` answers once the records survive a crash and a loss of power.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        entropy: Entropy,
        server: str,
        *,
        after: int = 0,
        disk: Disk | None = None,
        meter: LogMeter | None = None,
        largest: int = SEGMENT_BYTES,
    ) -> None:
        """Take `folder` (made if it is missing, 0700), and close what a crash left open.

        `server` is at most 16 ASCII characters. New segments are numbered above `after`, whatever
        is in the folder. Raises `Conflict` if another process has it.
        """
        self._folder = folder
        self._clock = clock
        self._entropy = entropy
        self._server = server
        self._disk = disk or Disk()
        self._meter = meter
        self._largest = largest
        folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = _claim_folder(folder)
        try:
            self._bytes, self._number = self._settle(after)
        except BaseException:
            os.close(self._lock)
            raise
        self._segment: OpenSegment | None = None
        self._opened = 0.0
        self._edge = (0, 0)
        """Number of the open segment and where it is durable: set as a whole, read by others."""
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._waking = False
        self._thread = threading.Thread(target=self._run, name="troth-decisions", daemon=True)
        self._thread.start()

    @property
    def server(self) -> str:
        """Whose segments these are."""
        return self._server

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self._folder

    @property
    def edge(self) -> Edge:
        """How far this goes at the moment; looking costs nothing."""
        last = self._number  # before the other: what is opened meanwhile lies behind it
        number, durable = self._edge
        return Edge(number, durable, last)

    @property
    def waiting(self) -> int:
        """Appends that are not durable yet."""
        return len(self._jobs)

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return self._bytes + self._edge[1]

    @property
    def is_due(self) -> bool:
        """Whether a segment is open that is old enough to be closed."""
        age = self._clock.monotonic() - self._opened
        return bool(self._edge[0]) and age >= SEGMENT_SPAN.total_seconds()

    async def append(self, records: Sequence[DecisionRecord]) -> None:
        """Make these durable, all or none; they stay in their order.

        `Unavailable` when they can't be written (the disk is full, too many wait): then nothing
        may be answered that rests on them. A crash, or a disk that fails again while a failed write
        is taken back, may leave some of them in the log all the same. `Invalid` or `TooLarge` for
        a record that can't be kept.
        """
        if records:
            entries = [encode_record(record) for record in records]
            await self._submit(entries, sum(len(entry) + HEAD_SIZE for _, entry in entries))

    async def close_segment(self) -> ClosedSegment | None:
        """Close the open segment, which makes its entries provable; None if there is none.

        The next append opens another.
        """
        found: ClosedSegment | None = await self._submit([], 0)
        return found

    def close(self) -> None:
        """Take nothing new, write what is queued, close the segment; blocks. Again is no error."""
        with self._changed:
            ended, self._closed = self._closed, True
            self._changed.notify()
        self._thread.join()
        if not ended:
            os.close(self._lock)

    def scan(
        self,
        since: datetime,
        until: datetime,
        *,
        subject: str = "",
        resource: str = "",
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[DecisionRecord]:
        """Records from `since` to before `until`, in the order in which they were written.

        Of one subject's id, or one resource's name, if given. It reads files: not for the event
        loop. Holds a few megabytes, whatever there is. What is damaged is told to `on_damage` in
        words and left out; without that, `DamagedSegment` ends the scan there.
        """
        unpacked = self.unpacked
        words = [(word.encode(),) for word in (subject, resource) if word]
        for _, _, record in unpacked.scan(
            unpacked.list_numbers(), since, until, words, on_damage=on_damage or _raise_damage
        ):
            if _fits(record, subject, resource):
                yield record

    def list_closed(self, after: int = 0) -> list[ClosedSegment]:
        """The closed segments with higher numbers than `after` that aren't packed, in their order;
        reads files."""
        return self._read_closed(
            (number, path)
            for number, path in list_segments(self._folder)
            if number > after and number != self._edge[0]
        )

    def _read_closed(self, files: Iterable[tuple[int, Path]]) -> list[ClosedSegment]:
        found = []
        for number, path in files:
            try:
                with Segment(path) as segment:
                    if segment.footer is not None:
                        name = segment.header.server
                        found.append(ClosedSegment(name, number, segment.size, segment.footer))
            except FileNotFoundError:
                continue  # removed meanwhile
            except DamagedSegment as error:
                log.error("decisions.damaged", detail=error.detail)
        return found

    def find_proof(self, decision: str) -> DecisionProof:
        """That the decision with this id is in the log; reads files, all of them at worst.

        `NotFound` if it isn't, `Refused` while its segment is open.
        """
        for segment, end in self._list_holding(decision):
            if (found := prove_decision(segment, decision, end)) is not None:
                return found
        raise _miss(decision)

    def find(self, decision: str) -> tuple[DecisionRecord, DecisionProof | None]:
        """The decision with this id, with its proof unless its segment is open; as `find_proof`."""
        for segment, end in self._list_holding(decision):
            if end is None and (proof := prove_decision(segment, decision, end)) is not None:
                return proof.record, proof
            if end is not None and (record := find_record(segment, decision, end)) is not None:
                return record, None
        raise _miss(decision)

    def _list_holding(self, decision: str) -> Iterator[tuple[Segment, int | None]]:
        """Segments in which this id stands somewhere, the newest first; with the end of what is
        durable of the one that is open."""
        needle = decision.encode()
        if not needle:
            raise NotFound("A decision without an id is nowhere.")
        for number, path in reversed(list_segments(self._folder)):
            open_number, durable = self._edge
            end = durable if number == open_number else None
            try:
                with Segment(path) as segment:
                    if segment.contains(needle, end):
                        yield segment, end
            except FileNotFoundError:
                continue  # removed meanwhile

    def prove(self, number: int, index: int) -> DecisionProof:
        """The same for a place: record `index`, from 0 on, of segment `number`."""
        path = self._folder / name_segment(number)
        if number == self._edge[0]:
            raise Refused(f"Segment {number} is still open: ask again within the hour.")
        try:
            with Segment(path) as segment:
                return make_proof(segment, index)
        except FileNotFoundError:
            raise NotFound(f"There is no segment {number} in this server's log.") from None

    def find_path(self, number: int) -> Path:
        """The file of a segment that isn't packed."""
        return self._folder / name_segment(number)

    def mark_packed(self, number: int) -> None:
        """The archive has a closed segment's records: it isn't read any more but by those who are
        at it, and may be removed. Again is no error."""
        path = self.find_path(number)
        try:
            path.rename(path.with_name(path.name + PACKED))
        except FileNotFoundError:
            return
        sync_folder(self._folder)

    def list_packed(self) -> list[ClosedSegment]:
        """The segments that may be removed, since the archive has them; reads files."""
        return self._read_closed(list_packed(self._folder))

    @property
    def unpacked(self) -> Unpacked:
        """What the archive hasn't got yet."""
        return Unpacked(self._folder, lambda: self._edge)

    def remove(self, number: int) -> None:
        """Delete a closed segment, packed or not; one that is gone already is no error."""
        if number == self._edge[0]:
            raise Refused(f"Segment {number} is open.")
        path = self.find_path(number)
        for one in (path, path.with_name(path.name + PACKED)):
            try:
                size = one.stat().st_size
                one.unlink()
            except FileNotFoundError:
                continue
            sync_folder(self._folder)
            with self._changed:
                self._bytes -= size

    # The thread that writes

    def _settle(self, after: int) -> tuple[int, int]:
        """Bytes in the folder and the last number that is taken, once all segments are closed."""
        for draft in self._folder.glob(f"*{DRAFT}"):
            draft.unlink()
        size, last = 0, after
        for number, path in list_segments(self._folder):
            last = max(last, number)
            try:
                self._close_left(path)
            except DamagedSegment as error:
                log.error("decisions.damaged", detail=error.detail)
            if path.exists():
                size += path.stat().st_size
        for number, path in list_packed(self._folder):
            last, size = max(last, number), size + path.stat().st_size
        return size, last

    def _close_left(self, path: Path) -> None:
        with Segment(path) as segment:
            if segment.footer is not None:
                return
        footer = recover_segment(path, self._clock, self._disk)
        if footer is not None:
            log.warning(
                "decisions.recovered",
                segment=path.name,
                records=footer.count,
                cut=footer.cut,
                damaged=footer.damaged,
            )

    async def _submit(self, entries: list[Entry], size: int) -> Any:
        loop = asyncio.get_running_loop()
        job = Job(entries, size, self._clock.monotonic(), loop.create_future(), loop)
        with self._changed:
            if self._closed:
                raise Unavailable("The decision log is closed; the server is stopping.")
            if len(self._jobs) >= QUEUE:
                raise Unavailable("Too many decisions wait to be written. Try again in a moment.")
            self._jobs.append(job)
        if not self._waking:
            # Once the loop has done what it has to do now: others join until then, and the thread
            # doesn't stand in the way of what makes them.
            self._waking = True
            loop.call_soon(self._wake)
        return await job.future

    def _wake(self) -> None:
        self._waking = False
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        while group := self._take():
            value: Any = None
            error: TrothError | None = None
            try:
                value = self._serve(group)
            except BaseException as broken:  # noqa: BLE001 - the thread outlives whatever it was
                error = self._explain(broken)
            deliver(group, value, error)
            self._tell(group, error)
        try:
            self._finish_segment()
        except OSError:
            pass  # it stays open, and is closed at the next start

    def _tell(self, group: list[Job], error: TrothError | None) -> None:
        """Log and count what became of a group."""
        try:
            if error is not None:
                log.error("decisions.write_failed", appends=len(group), exc_info=error.__cause__)
            self._measure(group, error)
        except Exception:  # noqa: BLE001, S110 - where the disk is full, logs may fail as well
            pass

    def _take(self) -> list[Job]:
        """The next group, or one wish to close; nothing when the thread is to end."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            group: list[Job] = []
            size = 0
            while self._jobs and len(group) < GROUP and size < GROUP_BYTES:
                if not self._jobs[0].entries:
                    return group or [self._jobs.popleft()]
                group.append(self._jobs.popleft())
                size += group[-1].size
            return group

    def _serve(self, group: list[Job]) -> ClosedSegment | None:
        if not group[0].entries:
            return self._finish_segment()
        entries = [entry for job in group for entry in job.entries]
        size = sum(job.size for job in group)
        if self.is_due or (self._segment and self._segment.durable + size > self._largest):
            self._finish_segment()
        segment = self._segment or self._open_segment()
        segment.write(entries)
        self._edge = (segment.header.number, segment.durable)
        return None

    def _open_segment(self) -> OpenSegment:
        salt = self._entropy.token(SALT_SIZE)
        header = Header(self._server, self._number + 1, self._clock.now(), salt)
        self._segment = segment = OpenSegment(self._folder, header, self._disk)
        self._number += 1
        self._opened = self._clock.monotonic()
        self._edge = (header.number, segment.durable)
        return segment

    def _finish_segment(self) -> ClosedSegment | None:
        segment = self._segment
        if segment is None:
            return None
        if segment.count:
            footer = segment.finish(self._clock)
        else:
            footer = None  # its first write failed: it is of no use
            segment.path.unlink()
            segment.release()
        self._segment = None
        kept = segment.durable if footer else 0
        with self._changed:
            self._bytes += kept
        self._edge = (0, 0)
        if footer is None:
            return None
        return ClosedSegment(self._server, segment.header.number, kept, footer)

    def _explain(self, error: BaseException) -> Unavailable:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            mend = "there is no room for them: make some"
        elif isinstance(error, OSError):
            mend = f"the system says {error.strerror or error.errno}; look at the disk"
        else:
            mend = "the server's log says why"
        words = f"Decisions can't be written to {self._folder}, so none is given: {mend}."
        found = Unavailable(words)
        found.__cause__ = error
        return found

    def _measure(self, group: list[Job], error: TrothError | None) -> None:
        if self._meter is not None and group[0].entries:
            count = sum(len(job.entries) for job in group)
            seconds = self._clock.monotonic() - group[0].asked_at
            self._meter.observe_decisions("ok" if error is None else error.code, count, seconds)


def _miss(decision: str) -> NotFound:
    return NotFound(f"No decision {decision[:80]!r} is in this server's log.")


def _raise_damage(detail: str) -> None:
    raise DamagedSegment(detail)


def _fits(record: DecisionRecord, subject: str, resource: str) -> bool:
    return (not subject or record.subject == subject) and (
        not resource or record.resource == resource
    )


def _claim_folder(folder: Path) -> int:
    """Lock the folder; the kernel takes the lock back from a process that crashed."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise Conflict(
            f"Another process writes decisions to {folder}; stop it, or choose another directory."
        ) from None
    return handle
