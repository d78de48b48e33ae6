"""The decision log as the server builds it: in its data directory, and in the table of work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from tests.fakes.decisions import EVER, make_records
from troth.archive.segment import FOOTER_SIZE
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.server.config import load_config
from troth.server.installation import prepare_directories
from troth.server.wiring import FEED, House, build_house


@asynccontextmanager
async def open_server(data: Path, clock: VirtualClock) -> AsyncIterator[House]:
    environ = {"TROTH_KEYSTORE_DRIVER": "memory", "TROTH_DECISIONS_KEEP_DAYS": "2"}
    config = load_config(data=data, environ=environ)
    prepare_directories(config)
    house = await build_house(config, clock, SeededEntropy())
    try:
        yield house
    finally:
        house.decisions.close()
        house.store.close()


async def run_tasks(house: House) -> list[tuple[str, int, int]]:
    """Type, segment and size of each event about the decision log so far."""
    tasks = {task.name: task for task in house.tasks}
    assert tasks["decisions.remove"].irreversible
    for name in ("decisions.close", "decisions.remove", FEED):
        await tasks[name].run()
    found = await house.store.read(lambda tx: tx.journal.page(type_prefix="decisions."))
    return [(one.event.type, one.event.body["segment"], one.event.body["size"]) for one in found]


def read_metric(house: House, name: str) -> float:
    lines = house.metrics.render(full=False).decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def test_a_killed_server_journals_its_decisions_after_the_next_start(tmp_path: Path) -> None:
    clock = VirtualClock()
    folder = tmp_path / "data" / "decisions"

    async def first() -> bytes:
        async with open_server(tmp_path / "data", clock) as house:
            await house.decisions.append(make_records(3))
            assert await run_tasks(house) == []
            assert read_metric(house, "troth_decision_log_records_total") == 3
            assert read_metric(house, "troth_decision_log_waiting") == 0
            (path,) = folder.iterdir()
            assert read_metric(house, "troth_decision_log_bytes") == path.stat().st_size
            return path.read_bytes()

    async def second() -> None:
        async with open_server(tmp_path / "data", clock) as house:
            once = [("decisions.closed", 1, 3)]
            assert await run_tasks(house) == once
            assert await run_tasks(house) == once
            assert list(house.decisions.scan(*EVER)) == make_records(3)
            assert house.decisions.server == (tmp_path / "data" / "installation").read_text()[:8]
            clock.advance(timedelta(days=2, seconds=1))
            assert await run_tasks(house) == [*once, ("decisions.removed", 1, 3)]
            assert list(folder.iterdir()) == []

    left = asyncio.run(first())
    assert folder.stat().st_mode & 0o777 == 0o700
    (path,) = folder.iterdir()
    assert path.stat().st_size == len(left) + FOOTER_SIZE
    path.write_bytes(left)  # what a kill would have left
    asyncio.run(second())
