"""How a server begins with a log whose files are damaged."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakes.house import FakeHouse, in_house
from tests.unit.operations.test_log import Works, note
from troth.archive.tiles import SIZE, DamagedLog
from troth.audit.tile import name_entries, name_tile
from troth.operations.log import read_checkpoint
from troth.operations.trimming import TrimJournal
from troth.server.logwiring import open_log

KEPT = timedelta(days=90)


async def start(house: FakeHouse) -> Works:
    """What a server does that starts on the house's files and database."""
    place = str(house.directory / "log")
    config: Any = SimpleNamespace(audit=SimpleNamespace(place=place))
    log = await open_log(config, house.parts.store, house.clock)
    house.parts = replace(house.parts, log=log)
    return Works(house)


async def trim(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    house.clock.advance(KEPT + timedelta(seconds=1))
    await note(house, 3, "young")
    await works.run()
    await TrimJournal(p.store, p.clock, p.log, lambda tx: 10**9, KEPT)()
    await works.run()


@in_house
async def test_a_damaged_edge_is_written_anew(house: FakeHouse) -> None:
    await check_edge(house, trimmed=False)


@in_house
async def test_so_it_is_where_the_rows_before_it_are_gone(house: FakeHouse) -> None:
    await check_edge(house, trimmed=True)


async def check_edge(house: FakeHouse, *, trimmed: bool) -> None:
    works = Works(house)
    await note(house, 700)
    await works.run()
    if trimmed:
        await trim(house)
    log = house.parts.log
    size, root, before = log.size, log.root, read_checkpoint(log)
    damaged = house.directory / "log" / name_entries(size // 256, size % 256)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    works = await start(house)
    assert house.parts.log.size == size // 256 * 256
    await works.write()
    assert works.meter.forks == 0
    assert house.parts.log.compute_root(size) == root
    assert read_checkpoint(house.parts.log) != before, "with the event that tells of it"
    (event,) = await house.events("log.damaged")
    assert damaged.name in event.body["detail"]
    assert event.body["kept"] == ""


@in_house
async def test_files_that_cant_be_cut_back_are_set_aside(house: FakeHouse) -> None:
    works = Works(house)
    await note(house, 700)
    await works.run()
    size, root = house.parts.log.size, house.parts.log.root
    (house.directory / "log" / SIZE).write_bytes(b"{")
    works = await start(house)
    assert house.parts.log.size == 0
    await works.run()
    assert house.parts.log.compute_root(size) == root
    assert works.meter.forks == 0
    (event,) = await house.events("log.damaged")
    (kept,) = house.directory.glob("log.damaged-*")
    assert event.body["kept"] == str(kept)


@in_house
async def test_without_the_rows_a_server_says_what_to_do(house: FakeHouse) -> None:
    works = Works(house)
    await note(house, 700)
    await works.run()
    await trim(house)
    log = house.directory / "log"
    (log / name_tile(0, 0)).unlink()
    (log / name_entries(2, house.parts.log.size % 256)).unlink()
    with pytest.raises(DamagedLog, match=r"can't be written anew: put the files back"):
        await start(house)
    assert not [*house.directory.glob("log.damaged-*")], "nothing was moved"
