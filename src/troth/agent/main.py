"""The agent as a process: runs until told to stop."""

from __future__ import annotations

import asyncio
import signal

import structlog
import uvloop

from troth.agent.node import AgentSettings, NodeAgent
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy

log = structlog.get_logger(__name__)


def run_agent(settings: AgentSettings) -> int:
    """Run the node agent until SIGTERM or SIGINT; returns 0.

    Raises `TrothError` if it can't work as configured.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings))


async def _run(settings: AgentSettings) -> int:
    agent = NodeAgent().run(settings, SystemClock(), SystemEntropy(), lambda: None)
    running = asyncio.create_task(agent, name="agent")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        log.info("agent.stopped")
    return 0
