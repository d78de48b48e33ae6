"""The log grows: sealed events become leaves, and the node that seals signs what there is.

Every server writes tiles of its own from the sealed rows; they are the same everywhere. The
checkpoint is state: signed by one server, over entries that it has on disk, and kept in the
database.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Protocol

import structlog

from troth.archive.tiles import CHECKPOINT, KEYS, LogFolder
from troth.audit.entry import StoredEvent, render_entry
from troth.audit.redaction import REDACTED, read_redacted
from troth.audit.tile import WIDTH
from troth.core.clock import Clock
from troth.core.errors import NotFound, Refused, TrothError, Unavailable
from troth.operations.logkeys import LogSigner
from troth.operations.recording import BACKGROUND, record_once
from troth.store.checkpoints import StoredCheckpoint
from troth.store.engine import Store
from troth.store.sealer import LEASE, Sealer
from troth.store.transaction import Transaction

log = structlog.get_logger(__name__)

BATCH = 8192
"""Events that are made durable in the tiles at once."""
PATIENCE = timedelta(seconds=30)
"""How long witnesses have for a checkpoint until the next is signed. The older one is forgotten
then: a log that never rests would otherwise never publish."""


class LogMeter(Protocol):
    """Told how the log is."""

    def observe_log(self, size: int, behind: int) -> None:
        """How many entries this server has, and how many sealed events it hasn't yet."""
        ...

    def count_fork(self) -> None:
        """The log was found to have two histories."""
        ...


@dataclass(slots=True)
class _Watch:
    """What is kept in mind between runs: the size of the last checkpoint that was compared,
    whether the keys lie beside the tiles, which checkpoint does, and which fork was told of."""

    compared: int = -1
    keyed: bool = False
    shown: str = ""
    told: str = ""


@dataclass(frozen=True, slots=True)
class WriteLog:
    """Background: tiles for what is sealed, and a checkpoint over them. Idempotent.

    With `alone` (no witness is asked) a checkpoint is published as it is signed.
    """

    store: Store
    clock: Clock
    folder: LogFolder
    signer: LogSigner
    sealer: Sealer
    alone: bool = True
    meter: LogMeter | None = None
    _watch: _Watch = field(default_factory=_Watch)

    async def __call__(self) -> None:
        """Catch up with the journal, sign if that is this node's part, show what is published."""
        if not self._watch.keyed:
            keys = self.signer.render_keys().encode()
            await asyncio.to_thread(self.folder.save, KEYS, keys)
            self._watch.keyed = True
        if not await self._check_same():
            return
        await self._grow()
        newest, head = await self.store.read(
            lambda tx: (tx.checkpoints.newest(), tx.journal.head())
        )
        if not await self._fits(newest, head):
            return
        if self.sealer.signs and self._is_due(newest):
            await self._sign()
        await self._publish()

    # The tiles

    async def _check_same(self) -> bool:
        """Whether the journal goes on from what the tiles hold.

        A journal that has fewer events gets them back from whoever seals; one that has others is a
        fork.
        """
        size = self.folder.size
        if not size:
            return True

        def look(tx: Transaction) -> tuple[StoredEvent | None, int]:
            head = tx.journal.head()
            return tx.journal.find_stored(min(size, head)), head

        last, head = await self.store.read(look)
        if last is not None:  # else it was moved to the archive
            entry, _ = await asyncio.to_thread(self.folder.find_entry, last.position)
            if render_entry(last)[0] != entry:
                what = f"the journal has another event at position {last.position} than the log has"
                await self._report_fork(what, size, self.folder.root, head)
                if not await self.store.read(is_trimmed):
                    await self._set_aside()
                return False
        if head < size:
            log.error("log.ahead", size=size, head=head)
            return False
        return True

    async def _grow(self) -> None:
        while True:
            size = self.folder.size
            events, head = await self.store.read(
                lambda tx: (tx.journal.list_stored(size, BATCH), tx.journal.head())  # noqa: B023 - run at once
            )
            if not events:
                self._tell(0)
                return
            if events[0].position != size + 1:
                raise Refused(
                    f"The log has {size} entries, and the database has no event at position "
                    f"{size + 1}: its old rows were trimmed. Stop the server and put the log's "
                    "files back, from another server or a backup."
                )
            self._tell(head - size)
            await asyncio.to_thread(self._append, events)
            if len(events) < BATCH:
                self._tell(0)
                return

    def _append(self, events: list[StoredEvent]) -> None:
        try:
            self.folder.append(events)
            # Before they count: a crash in between does it again.
            for event in events:
                if event.type == REDACTED:
                    self._redact(event)
            self.folder.settle()
        except BaseException:
            self.folder.abandon()
            raise

    def _redact(self, event: StoredEvent) -> None:
        position = read_redacted(event)
        if position:
            self.folder.redact(position)

    # Checkpoints

    async def _fits(self, newest: StoredCheckpoint | None, head: int) -> bool:
        """Whether what was signed last is of this very log. If it isn't, nothing is signed until
        somebody has looked (``checkpoint.abandon``)."""
        if newest is None or newest.size in (0, self._watch.compared):
            return True
        if newest.size > head:
            what = f"a checkpoint of {newest.size} entries was signed, and the journal has {head}"
        elif newest.size > self.folder.size:
            return False  # another one has more; it is caught up with
        else:
            root = await asyncio.to_thread(self.folder.compute_root, newest.size)
            if root == newest.root:
                self._watch.compared = newest.size
                return True
            what = f"the checkpoint of {newest.size} entries has another root than they have"
        await self._report_fork(what, newest.size, newest.root, head)
        return False

    def _is_due(self, newest: StoredCheckpoint | None) -> bool:
        if newest is None:
            return self.folder.size > 0
        if self.folder.size <= newest.size:
            return False
        waits = not self.alone and not newest.published
        return not waits or newest.signed_at + PATIENCE <= self.clock.now()

    async def _sign(self) -> None:
        now, size, root = self.clock.now(), self.folder.size, self.folder.root
        note = await asyncio.to_thread(self.signer.sign, size, root, now)
        made = StoredCheckpoint(size, root, note, now, published=self.alone)
        await self.store.transact(partial(self._keep, made))
        self._watch.compared = size

    def _keep(self, made: StoredCheckpoint, tx: Transaction) -> None:
        # Who lost the lease while it signed has lost nothing: the other one signs the same.
        if self.store.shared and tx.leases.find_holder(LEASE) != self.sealer.holder:
            return
        newest = tx.checkpoints.newest()
        if newest is None or newest.size < made.size:
            tx.checkpoints.add(made)

    async def _publish(self) -> None:
        found = await self.store.read(lambda tx: tx.checkpoints.newest_published())
        if found is None or found.size > self.folder.size:
            return
        shown = f"{found.size} {len(found.note)}"
        if shown != self._watch.shown:
            await asyncio.to_thread(self.folder.compute_root, found.size)
            await asyncio.to_thread(self.folder.save, CHECKPOINT, found.note.encode())
            self._watch.shown = shown

    # What must not be

    async def _report_fork(self, what: str, size: int, root: bytes, head: int) -> None:
        """Alarm, once: `size` and `root` are of the history that the journal's `head` isn't of."""
        mark = f"{size}/{root.hex()}"
        if self._watch.told == mark:
            return
        log.error("log.forked", what=what, size=size, root=root.hex())
        if self.meter is not None:
            self.meter.count_fork()
        await self.store.transact(
            lambda tx: record_once(
                tx,
                BACKGROUND,
                "log.forked",
                self.signer.origin,
                self.clock.now(),
                mark=mark,
                what=what,
                size=size,
                root=root.hex(),
                other=head,
            )
        )
        self._watch.told = mark

    async def _set_aside(self) -> None:
        """Keep the files of the other history as evidence; what the database says is written
        anew."""
        stamp = f"{self.clock.now():%Y%m%dT%H%M%SZ}"
        suffix = f"forked-{self.folder.size}-{stamp}"
        kept = await asyncio.to_thread(self.folder.set_aside, suffix)
        log.error("log.set_aside", kept=kept)
        self._watch.keyed, self._watch.compared, self._watch.shown = False, -1, ""

    def _tell(self, behind: int) -> None:
        if self.meter is not None:
            self.meter.observe_log(self.folder.size, behind)


def is_trimmed(tx: Transaction) -> bool:
    """Whether old rows have left the journal, so that the log can't be written anew from it."""
    return tx.journal.last_of("journal.trimmed") > 0


def read_checkpoint(folder: LogFolder) -> bytes:
    """The published checkpoint; `Unavailable` until there is one. Blocks."""
    try:
        return folder.read(CHECKPOINT)
    except NotFound:
        raise Unavailable("There is no checkpoint yet: ask again in a moment.") from None


@dataclass(slots=True)
class RowWatch:
    """How far rows were compared with the log."""

    position: int = 0


@dataclass(frozen=True, slots=True)
class CompareRows:
    """Background: look whether the journal's rows are still what the log says of them.

    Some at a time, round and round; an altered one is alarmed and journaled, and told of by
    `WriteLog`'s leaves as it was.
    """

    store: Store
    clock: Clock
    folder: LogFolder
    most: int = 10_000
    meter: LogMeter | None = None
    _watch: RowWatch = field(default_factory=RowWatch)

    async def __call__(self) -> None:
        """Compare the next ones."""
        after, size = self._watch.position, self.folder.size
        rows = await self.store.read(lambda tx: tx.journal.list_stored(after, self.most))
        rows = [row for row in rows if row.position <= size]
        altered = await asyncio.to_thread(self._list_altered, rows)
        for position in altered:
            log.error("journal.altered", position=position)
            await self.store.transact(partial(self._record, position))
        self._watch.position = rows[-1].position if rows else 0

    def _list_altered(self, rows: list[StoredEvent]) -> list[int]:
        # Where rows were trimmed, few bundles have one.
        found, by_position = [], {row.position: row for row in rows}
        for bundle in sorted({(row.position - 1) // WIDTH for row in rows}):
            first = bundle * WIDTH
            try:
                until = min(first + WIDTH, self.folder.size)
                for position, entry in self.folder.list_entries(first, until):
                    row = by_position.get(position)
                    if row is not None and render_entry(row)[0] != entry:
                        found.append(position)
            except TrothError as error:
                log.error("log.damaged", detail=error.detail)
        return found

    def _record(self, position: int, tx: Transaction) -> None:
        """Once a position: whoever alters a row again is told of in the server's log alone."""
        mark, now = str(position), self.clock.now()
        record_once(tx, BACKGROUND, "journal.altered", mark, now, mark=mark, position=position)
