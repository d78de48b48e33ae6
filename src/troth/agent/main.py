"""The agent as a process: runs until told to stop."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Callable

import structlog
import uvloop

from troth import __version__
from troth.agent.node import AgentSettings, NodeAgent
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy
from troth.core.heap import settle_heap
from troth.drivers.tracers import load_tracer

log = structlog.get_logger(__name__)


def run_agent(settings: AgentSettings, ready: Callable[[], None] = lambda: None) -> int:
    """Run the node agent until SIGTERM or SIGINT; returns 0. `ready` is called once it serves.

    Raises `TrothError` if it can't work as configured.
    """
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, ready))


def raise_file_limit() -> None:
    """Allow as many open files as the system lets us: each caller is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(settings: AgentSettings, ready: Callable[[], None]) -> int:
    clock, entropy = SystemClock(), SystemEntropy()
    tracer = load_tracer(
        settings.telemetry,
        service="troth-agent",
        version=__version__,
        clock=clock,
        entropy=entropy,
    )

    def tell_ready() -> None:
        ready()
        settle_heap()

    agent = NodeAgent().run(settings, clock, entropy, tell_ready, tracer=tracer)
    running = asyncio.create_task(agent, name="agent")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        log.info("agent.stopped")
    finally:
        await asyncio.to_thread(tracer.close)
    return 0
