"""The log and the journal: what is sealed becomes leaves, is signed, and can't be taken back."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import cast

import aics_tlog
import pytest
from sqlalchemy import text

from tests.fakes.house import DOMAIN, FakeHouse, in_house, open_house
from tests.fakes.stores import make_url
from troth.archive.place import Folder, Place
from troth.archive.tiles import CHECKPOINT, KEYS, SIZE, LogFolder
from troth.audit.checkpoint import open_checkpoint
from troth.audit.note import VerifierKey, parse_vkey
from troth.core.errors import Refused
from troth.operations.feed import FollowJournal
from troth.operations.log import CompareRows, WriteLog, read_checkpoint
from troth.operations.logkeys import name_origin
from troth.operations.recording import BACKGROUND, record_event
from troth.operations.trimming import TrimJournal
from troth.store.checkpoints import StoredCheckpoint
from troth.store.sealer import Sealer


class Meter:
    """Remembers what was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.forks = 0

    def observe_log(self, size: int, behind: int) -> None:
        self.seen.append((size, behind))

    def count_fork(self) -> None:
        self.forks += 1


class Works:
    """A house's feed and log."""

    def __init__(self, house: FakeHouse, *, alone: bool = True) -> None:
        p = house.parts
        self.meter = Meter()
        self.sealer = Sealer(p.store, clock=p.clock, holder=p.store.holder, memory=p.log)
        self.feed = FollowJournal(p.store, self.sealer, p.snapshot)
        self.write = WriteLog(
            p.store, p.clock, p.log, p.signer, self.sealer, alone=alone, meter=self.meter
        )

    async def run(self) -> None:
        await self.feed()
        await self.write()


async def note(house: FakeHouse, count: int = 1, word: str = "x") -> None:
    """So many events."""
    now = house.clock.now()

    def record(tx):
        for number in range(count):
            record_event(tx, BACKGROUND, "test.noted", f"{word}{number}", now, number=number)

    await house.parts.store.transact(record)


async def types(house: FakeHouse) -> list[str]:
    return [
        sealed.event.type
        for sealed in await house.parts.store.read(lambda tx: tx.journal.after(0, 10_000))
    ]


@in_house
async def test_what_is_sealed_is_signed_and_shown(house: FakeHouse) -> None:
    works = Works(house)
    await note(house, 300)
    await works.run()
    log, head = house.parts.log, await house.parts.store.read(lambda tx: tx.journal.head())
    assert log.size == head > 300
    assert works.meter.seen[-1] == (head, 0)
    keys = [parse_vkey(line) for line in log.read(KEYS).decode().splitlines()]
    assert tuple(keys) == house.parts.signer.keys
    found, _, signed = open_checkpoint(read_checkpoint(log), keys, name_origin(DOMAIN))
    assert (found.origin, found.size, found.root) == ("example.org/log", head, log.root)
    assert set(signed) == set(keys)
    stored = [event async for event in _events(house)]
    assert list(log.list_events(0, head)) == stored


async def _events(house: FakeHouse):
    for event in await house.parts.store.read(lambda tx: tx.journal.list_stored(0, 10_000)):
        yield event


@in_house
async def test_without_news_nothing_is_signed_again(house: FakeHouse) -> None:
    works = Works(house)
    await works.run()
    before = read_checkpoint(house.parts.log)
    await works.run()
    assert read_checkpoint(house.parts.log) == before
    await note(house)
    await works.run()
    assert read_checkpoint(house.parts.log) != before


@in_house
async def test_others_accept_the_log_and_refuse_it_with_a_byte_flipped(house: FakeHouse) -> None:
    """PyPI's aics-tlog, unmodified, reads the files."""
    works = Works(house)
    await note(house, 300)
    await works.run()
    folder = house.directory / "log"
    vkey = (folder / KEYS).read_text().splitlines()[0]
    read = aics_tlog.parse_note((folder / CHECKPOINT).read_bytes())
    assert aics_tlog.verify_checkpoint(read, aics_tlog.parse_vkey(vkey)).ok
    size, root = house.parts.log.size, house.parts.log.root
    aics_tlog.audit_tiles(aics_tlog.DirectoryTileStore(folder), size, root)
    entries = sorted((folder / "tile/entries").rglob("*"))
    for path in [one for one in entries if one.is_file()] + [folder / "tile/0/000"]:
        before = path.read_bytes()
        path.write_bytes(before[:30] + bytes([before[30] ^ 1]) + before[31:])
        with pytest.raises(Exception, match=r".+"):
            aics_tlog.audit_tiles(aics_tlog.DirectoryTileStore(folder), size, root)
        path.write_bytes(before)
    aics_tlog.audit_tiles(aics_tlog.DirectoryTileStore(folder), size, root)


@in_house
async def test_who_doesnt_seal_writes_the_same_and_signs_nothing(house: FakeHouse) -> None:
    works = Works(house)
    await note(house, 10)
    await works.run()
    p = house.parts
    other = Sealer(p.store, clock=p.clock, holder="other")
    second = LogFolder(Folder(house.directory / "second"))
    write = WriteLog(p.store, p.clock, second, p.signer, other)
    await write()
    assert (second.size, second.root) == (p.log.size, p.log.root)
    assert read_checkpoint(second) == read_checkpoint(p.log)


def test_whoever_lost_the_lease_while_it_signed_keeps_nothing(tmp_path: Path) -> None:
    """On a shared database: a file has one server."""
    url = make_url("postgresql", tmp_path)

    async def main() -> None:
        async with open_house(tmp_path, url=url) as house:
            works, p = Works(house), house.parts
            await note(house)
            await works.feed()
            assert works.sealer.signs
            await p.store.transact(lambda tx: tx.leases.release("sealer", p.store.holder))
            await works.write()
            assert await p.store.read(lambda tx: tx.checkpoints.newest()) is None
            await works.run()
            assert await p.store.read(lambda tx: tx.checkpoints.newest()) is not None

    asyncio.run(main())


@in_house
async def test_with_witnesses_a_checkpoint_waits_to_be_published(house: FakeHouse) -> None:
    works = Works(house, alone=False)
    await works.run()
    newest = await house.parts.store.read(lambda tx: tx.checkpoints.newest())
    assert newest is not None
    assert not newest.published
    assert not (house.directory / "log" / CHECKPOINT).exists()
    await house.parts.store.transact(
        lambda tx: tx.checkpoints.save_note(newest.size, newest.note, published=True)
    )
    await works.run()
    assert read_checkpoint(house.parts.log).decode() == newest.note


def test_a_restored_backup_gets_back_what_it_lacks(tmp_path: Path) -> None:
    """The log remembers what the database forgot, and goes on from there: no fork."""

    async def before() -> tuple[int, bytes, tuple[VerifierKey, ...]]:
        async with open_house(tmp_path) as house:
            works = Works(house)
            await note(house, 5, "kept")
            await works.run()
            backup(tmp_path)
            await note(house, 40, "lost")
            await works.run()
            return house.parts.log.size, read_checkpoint(house.parts.log), house.parts.signer.keys

    async def after(size: int, note_before: bytes, keys: tuple[VerifierKey, ...]) -> None:
        async with open_house(tmp_path) as house:
            works = Works(house)
            await works.sealer.put_back_lost()  # as a server does before anything else
            await note(house, 3, "new")
            await works.run()
            await works.run()
            stored = [event async for event in _events(house)]
            log = house.parts.log
            assert list(log.list_events(0, log.size)) == stored
            assert [e.subject for e in stored if e.subject.startswith("lost")] == [
                f"lost{n}" for n in range(40)
            ]
            assert "log.restored" in await types(house)
            assert works.meter.forks == 0
            old, _, _ = open_checkpoint(note_before, keys)
            assert old.size == size
            assert log.compute_root(size) == old.root
            new, _, _ = open_checkpoint(read_checkpoint(log), house.parts.signer.keys)
            assert new.size == log.size > size

    def backup(folder: Path) -> None:
        source = sqlite3.connect(folder / "troth.db")
        target = sqlite3.connect(folder / "backup.db")
        source.backup(target)
        source.close()
        target.close()

    seen = asyncio.run(before())
    for tail in ("", "-wal", "-shm"):
        (tmp_path / f"troth.db{tail}").unlink(missing_ok=True)
    shutil.move(tmp_path / "backup.db", tmp_path / "troth.db")
    (tmp_path / "troth.db").chmod(0o600)
    asyncio.run(after(*seen))


async def alter(house: FakeHouse, position: int, **values: str) -> None:
    columns = ", ".join(f"{name} = :{name}" for name in values)
    statement = text(f"UPDATE journal SET {columns} WHERE position = :position")
    await house.parts.store.transact(
        lambda tx: tx._session.execute(statement, {**values, "position": position})
    )


@in_house
async def test_an_altered_row_is_told_of_once(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    await note(house, 20)
    await works.run()
    compare = CompareRows(p.store, p.clock, p.log, most=7)
    for _ in range(6):
        await compare()
    assert "journal.altered" not in await types(house)
    await alter(house, 5, actor="uid:31337")
    for _ in range(12):
        await compare()
    await works.run()
    assert [event.body["position"] for event in await house.events("journal.altered")] == [5]


@in_house
async def test_another_history_is_a_fork_and_the_old_one_is_kept(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    await note(house, 20)
    await works.run()
    size, root = p.log.size, p.log.root
    await alter(house, size, subject="somebody else")
    await works.write()
    assert works.meter.forks == 1
    (kept,) = house.directory.glob("log.forked-*")
    old = LogFolder(Folder(kept))
    assert (old.size, old.root) == (size, root)
    # The database's checkpoint is of the old history too: nothing is signed, and it is told once.
    for _ in range(3):
        await note(house, 300)
        await works.run()
    newest = await p.store.read(lambda tx: tx.checkpoints.newest())
    assert newest is not None
    assert (newest.size, newest.root) == (size, root)
    assert works.meter.forks == 1
    assert len(await house.events("log.forked")) == 1
    assert len([*house.directory.glob("log.forked-*")]) == 1
    assert p.log.size == await p.store.read(lambda tx: tx.journal.head())

    # It is the same for a server that was started since.
    again = Works(house)
    await again.run()
    assert len(await house.events("log.forked")) == 1


@in_house
async def test_a_journal_that_is_shorter_and_another_is_a_fork_at_once(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    await note(house, 20)
    await works.run()
    size = p.log.size
    await alter(house, size - 10, subject="somebody else")
    statement = text("DELETE FROM journal WHERE position > :position")
    await p.store.transact(lambda tx: tx._session.execute(statement, {"position": size - 10}))
    await works.write()
    await works.write()
    assert works.meter.forks == 1
    assert p.log.size == size - 9, "with the event that tells of it"
    newest = await p.store.read(lambda tx: tx.checkpoints.newest())
    assert newest is not None
    assert newest.size == size
    assert len([*house.directory.glob("log.forked-*")]) == 1


@in_house
async def test_a_checkpoint_of_more_than_there_is_is_told_of(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    await note(house, 5)
    await works.run()
    note_ = p.signer.sign(10_000, b"\1" * 32, p.clock.now())
    lying = StoredCheckpoint(10_000, b"\1" * 32, note_, p.clock.now(), published=True)
    await p.store.transact(lambda tx: tx.checkpoints.add(lying))
    for _ in range(3):
        await note(house, 5)
        await works.run()
    assert works.meter.forks == 1
    (found,) = await house.events("log.forked")
    assert found.body["size"] == 10_000
    assert not [*house.directory.glob("log.forked-*")], "there is nothing wrong with the files"


@in_house
async def test_a_fork_of_a_log_that_was_trimmed_keeps_its_files(house: FakeHouse) -> None:
    """They can't be written anew: they are all that there is."""
    works, p = Works(house), house.parts
    await note(house, 300)
    await works.run()
    house.clock.advance(timedelta(days=91))
    await note(house, 3)
    await works.run()
    trim = TrimJournal(p.store, p.clock, p.log, lambda tx: 10**9, timedelta(days=90))
    await trim()
    await works.run()
    size, root = p.log.size, p.log.root
    await alter(house, size, subject="somebody else")
    for _ in range(3):
        await note(house, 5)
        await works.run()
    assert (p.log.size, p.log.root) == (size, root)
    assert works.meter.forks == 1
    assert len(await house.events("log.forked")) == 1


@in_house
async def test_a_damaged_tile_doesnt_stop_what_comes(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    await note(house, 600)
    await works.run()
    tile = house.directory / "log" / "tile/entries/000"
    tile.write_bytes(tile.read_bytes()[:-1])
    await note(house, 5)
    await works.run()
    assert p.log.size == await p.store.read(lambda tx: tx.journal.head())
    compare = CompareRows(p.store, p.clock, p.log)
    await compare()  # told of in the server's log, without an end to the task


@in_house
async def test_what_was_archived_and_isnt_in_the_files_is_asked_for(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    await note(house, 5)
    await works.run()
    (house.directory / "log" / SIZE).unlink()
    fresh = LogFolder(Folder(house.directory / "log"))
    await p.store.transact(
        lambda tx: tx._session.execute(text("DELETE FROM journal WHERE position < 4"))
    )
    write = WriteLog(p.store, p.clock, fresh, p.signer, works.sealer)
    with pytest.raises(Refused, match=r"no event at position 1: .* put the log's files back"):
        await write()


@in_house
async def test_only_bundles_that_have_rows_are_compared(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    await note(house, 2000)
    await works.run()
    house.clock.advance(timedelta(days=91))
    await note(house, 1)
    await works.run()
    await TrimJournal(p.store, p.clock, p.log, lambda tx: 10**9, timedelta(days=90))()
    read: list[str] = []
    place = p.log.place
    p.log.place = cast(Place, Noting(place, read))
    await CompareRows(p.store, p.clock, p.log)()
    p.log.place = place
    assert "tile/entries/000" in read  # the first rows stay
    assert "tile/entries/003" not in read


class Noting:
    """A place that notes what is read."""

    def __init__(self, place: Place, read: list[str]) -> None:
        self._place, self._names = place, read

    def read(self, name: str) -> bytes:
        self._names.append(name)
        return self._place.read(name)

    def __getattr__(self, name: str) -> object:
        return getattr(self._place, name)
