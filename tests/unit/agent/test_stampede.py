"""A thousand agents that lose their server at the same moment, in virtual time.

Bounds: in no second do more than 400 come, twice what comes if they are spread evenly over the
five seconds that the server names for a thousand nodes; and all are back within 15 s.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.fakes.issuer import NOW
from tests.fakes.server import FakeServer, make_entry, make_process, run_node
from tests.fakes.source import in_loop
from tests.fakes.virtualtime import VirtualTime
from troth.agent.sync import Sync
from troth.core.entropy import SeededEntropy
from troth.core.errors import Unavailable
from troth.core.ids import NodeId
from troth.operations.call import Caller
from troth.operations.node import MAX_SPREAD, NODES_PER_SECOND
from troth.operations.pacing import Pacing
from troth.wire.api.nodes import Heartbeat

AGENTS = 1_000
MOST_IN_A_SECOND = 400
ALL_BACK_SECONDS = 15.0


class Crowd:
    """A server with a thousand agents, of which it knows when each comes."""

    def __init__(self) -> None:
        self.time = VirtualTime(NOW)
        fake = FakeServer(self.time)
        spread = min(AGENTS // NODES_PER_SECOND, MAX_SPREAD)
        self.value = msgspec.structs.replace(fake.snapshot(), spread=spread)
        self.pacing = Pacing(self.time.clock, 200, 10)
        self.away = False
        self.came: list[float] = []
        self.served: list[float] = []
        self.streams: list[asyncio.Future[None]] = []
        self.agents = [
            Sync(Line(self, number), self.time.clock, SeededEntropy(number), self.time.sleep)
            for number in range(AGENTS)
        ]

    def end(self) -> None:
        """Every stream breaks at once."""
        streams, self.streams = self.streams, []
        for stream in streams:
            stream.set_exception(Unavailable("The server went away."))


class Line:
    """One agent's connection."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd = crowd
        self._caller = Caller("node", frozenset({"node"}), NodeId(f"nod_{number}"))

    async def call(self, name: str, request: Any) -> Any:
        raise AssertionError(name)

    async def stream(self, name: str, request: Any) -> AsyncIterator[Any]:
        crowd = self._crowd
        now = crowd.time.clock.monotonic()
        crowd.came.append(now)
        if crowd.away:
            raise Unavailable("Nobody listens there.")
        crowd.pacing.admit(name, self._caller, request)
        crowd.served.append(now)
        yield crowd.value
        yield Heartbeat(epoch=crowd.value.epoch)
        stream: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        crowd.streams.append(stream)
        await stream


def count_busiest_second(moments: list[float]) -> int:
    ordered = sorted(moments)
    return max(bisect_right(ordered, at + 1.0) - n for n, at in enumerate(ordered))


@pytest.mark.parametrize("seconds", [0, 3, 20])
def test_after_an_outage_a_thousand_agents_come_back_spread_out(seconds: int) -> None:
    @in_loop
    async def test() -> None:
        crowd = Crowd()
        tasks = [asyncio.ensure_future(agent.run()) for agent in crowd.agents]
        await crowd.time.advance(20)
        assert len(crowd.streams) == AGENTS
        crowd.away = seconds > 0
        crowd.end()
        await crowd.time.advance(seconds)
        crowd.away = False
        back = crowd.time.clock.monotonic()
        crowd.came.clear()
        crowd.served.clear()
        await crowd.time.advance(ALL_BACK_SECONDS)
        assert len(crowd.streams) == AGENTS
        assert count_busiest_second(crowd.came) <= MOST_IN_A_SECOND
        assert max(crowd.served) - back <= ALL_BACK_SECONDS
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with capture_logs():  # a thousand agents have much to tell
        test()


@in_loop
async def test_even_agents_that_come_all_at_once_are_let_in_one_after_another() -> None:
    """As when all machines of a site start at the same moment: nothing has spread them yet."""
    crowd = Crowd()
    tasks = [asyncio.ensure_future(agent.run()) for agent in crowd.agents]
    await crowd.time.settle()
    assert len(crowd.came) == AGENTS
    await crowd.time.advance(ALL_BACK_SECONDS)
    assert len(crowd.streams) == AGENTS
    assert count_busiest_second(crowd.served) <= 600  # what may pass at once, and one second's
    assert len(crowd.came) < 3 * AGENTS
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@in_loop
async def test_what_a_tainted_key_signed_is_replaced_within_the_spread_on_each_node() -> None:
    moments = []
    for seed in range(20):
        async with run_node(make_entry("web")) as node:
            node.entropy = SeededEntropy(seed)
            node.workloads._entropy = node.entropy
            watcher = node.watch(make_process(1))
            await node.settle()
            node.server.spread = 5
            start = node.time.clock.monotonic()
            node.server.taint()
            while len(watcher.views) < 3:  # the first, the new roots, the new certificate
                await node.time.advance(0.05)
                assert node.time.clock.monotonic() - start < 5.5
            moments.append(node.time.clock.monotonic() - start)
    assert min(moments) < 1
    assert max(moments) > 4
