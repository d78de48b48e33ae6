"""What the agent tells about itself: its metrics file, and calls as they are seen from outside."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.fakes.issuer import NOW
from tests.fakes.server import FakeServer, make_entry
from tests.fakes.virtualtime import VirtualTime
from troth.agent.cache import Cache
from troth.agent.metrics import AgentMetrics, MetricsFile
from troth.agent.observation import ObservedService
from troth.agent.refusals import Refusals
from troth.agent.sync import Sync
from troth.core.entropy import SeededEntropy
from troth.core.errors import Denied
from troth.core.tracing import NO_TRACER


class Meter:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float]] = []

    def observe_call(self, method: str, outcome: str, seconds: float) -> None:
        self.calls.append((method, outcome, seconds))


class Call:
    """As much of a call as an observer sees."""

    uid = 1001
    on_answer: Any = None

    async def send(self, message: bytes) -> None:
        if self.on_answer is not None:
            told, self.on_answer = self.on_answer, None
            told()


def watch(handler: Any, time: VirtualTime) -> tuple[Any, Meter]:
    class Service:
        def methods(self) -> Any:
            return {"/Package.Service/Fetch": handler}

    meter = Meter()
    observed = ObservedService(Service(), time.clock, NO_TRACER, meter)
    return observed.methods()["/Package.Service/Fetch"], meter


def test_a_stream_counts_with_its_first_answer():
    async def main() -> None:
        time = VirtualTime(NOW)

        async def stream(call: Call) -> None:
            await time.sleep(0.5)
            await call.send(b"one")
            await time.sleep(3600)
            await call.send(b"two")
            raise Denied("cut off")

        handler, meter = watch(stream, time)
        running = asyncio.create_task(handler(Call()))
        await time.advance(1)
        assert meter.calls == [("Fetch", "ok", 0.5)]
        await time.advance(3600)
        with pytest.raises(Denied):
            await running
        assert len(meter.calls) == 1

    asyncio.run(main())


def test_a_refusal_is_counted_by_its_code_and_logged_without_words():
    async def refuse(call: Call) -> None:
        raise Denied("no identity for secret-program")

    handler, meter = watch(refuse, VirtualTime(NOW))
    with capture_logs() as logs, pytest.raises(Denied):
        asyncio.run(handler(Call()))
    assert meter.calls == [("Fetch", "permission_denied", 0.0)]
    assert logs == [
        {
            "event": "call.finished",
            "log_level": "debug",
            "operation": "Fetch",
            "outcome": "permission_denied",
            "seconds": 0.0,
            "caller": "uid:1001",
        }
    ]


def test_the_file_is_whole_replaced_and_says_how_the_agent_is(tmp_path: Path):
    async def main() -> None:
        time = VirtualTime(NOW)
        server = FakeServer(time)
        server.put(make_entry("payments"))
        sync = Sync(server, time.clock, SeededEntropy(), time.sleep)
        following = asyncio.create_task(sync.run())
        await time.settle()
        metrics = AgentMetrics()
        metrics.observe_call("FetchX509SVID", "ok", 0.004)
        path = tmp_path / "troth.prom"
        trap = tmp_path / ".troth.prom.new"
        trap.symlink_to(tmp_path / "elsewhere")
        file = MetricsFile(path, metrics, sync, Cache(), Refusals(), time.clock)
        file.look()
        file._write(metrics.render())
        assert not (tmp_path / "elsewhere").exists(), "a link that waits there isn't followed"
        assert path.stat().st_mode & 0o777 == 0o644
        text = path.read_text()
        assert "troth_agent_identities 1.0" in text
        assert "troth_agent_silence_seconds 0.0" in text
        assert 'troth_agent_call_seconds_count{method="FetchX509SVID",outcome="ok"} 1.0' in text
        assert "payments" not in text
        assert os.listdir(tmp_path) == ["troth.prom"]
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following

    asyncio.run(main())


def test_a_file_that_can_not_be_written_is_told_once(tmp_path: Path):
    async def main() -> None:
        time = VirtualTime(NOW)
        sync = Sync(FakeServer(time), time.clock, SeededEntropy(), time.sleep)
        path = tmp_path / "gone" / "troth.prom"
        file = MetricsFile(path, AgentMetrics(), sync, Cache(), Refusals(), time.clock)
        looks = 0

        async def sleep(seconds: float) -> None:
            nonlocal looks
            looks += 1
            if looks == 3:
                raise asyncio.CancelledError

        with capture_logs() as logs, suppress(asyncio.CancelledError):
            await file.run(sleep)
        assert [entry["event"] for entry in logs] == ["metrics.not_written"]

    asyncio.run(main())
