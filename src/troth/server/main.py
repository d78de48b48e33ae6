"""The server as a process: builds the house, opens its doors, runs until told to stop."""

from __future__ import annotations

import asyncio
import importlib
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import structlog
import uvloop

from troth import __version__
from troth.core.clock import Clock, SystemClock
from troth.core.endpoint import Endpoint
from troth.core.entropy import Entropy, SystemEntropy
from troth.core.heap import settle_heap
from troth.drivers.tracers import load_tracer
from troth.server.config import Config, settle_ports
from troth.server.installation import claim_directory, prepare_directories
from troth.server.localagent import LocalAgent

log = structlog.get_logger(__name__)

AGENT_SOCKET = "agent.sock"
AGENT_SECONDS = 10.0
AGENT_POLL = 0.02

MakeToken = Callable[[], Awaitable[str]]


def run_server(config: Config, *, agent: bool, announce: Callable[[Config], None]) -> int:
    """Serve until SIGTERM or SIGINT; `announce` is called once, when ready. Returns 0.

    Raises `TrothError` if it can't start as configured.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each connection is one
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, SystemClock(), SystemEntropy(), agent, announce))


async def _serve(
    config: Config,
    clock: Clock,
    entropy: Entropy,
    agent: bool,
    announce: Callable[[Config], None],
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    config = _pick_ports(config)
    prepare_directories(config)
    async with AsyncExitStack() as stack:
        stack.callback(os.close, claim_directory(config.data))
        built: asyncio.Future[MakeToken] = loop.create_future()
        if agent:
            # Started first: it is ready for its token by the time the server can make one.
            task = asyncio.create_task(_make_agent(config, built).run(), name="local agent")
            stack.push_async_callback(_cancel, task)
        tracer = load_tracer(
            config.telemetry,
            service="troth-server",
            version=__version__,
            clock=clock,
            entropy=entropy,
        )
        stack.push_async_callback(asyncio.to_thread, tracer.close)
        # A second of modules: meanwhile the agent loads its own.
        await asyncio.to_thread(importlib.import_module, "troth.server.serving")
        from troth.server.serving import make_local_token, open_house

        house = await open_house(stack, config, clock, entropy, tracer)
        built.set_result(partial(make_local_token, house))
        if agent:
            await _await_socket(config.data / AGENT_SOCKET, stop)
        announce(config)
        settle_heap()
        await stop.wait()
        log.info("server.stopping")
    return 0


def _make_agent(config: Config, built: asyncio.Future[MakeToken]) -> LocalAgent:
    async def make_token() -> str:
        make = await asyncio.shield(built)
        return await make()

    return LocalAgent(
        data=config.data,
        server_url=f"https://{config.public}",
        mutual_url=f"https://{config.mutual}",
        environ=config.agent_environ,
        make_token=make_token,
    )


async def _await_socket(path: Path, stop: asyncio.Event) -> None:
    """Wait until the local agent answers, at most a few seconds: it will come, now or later."""
    for _ in range(int(AGENT_SECONDS / AGENT_POLL)):
        if stop.is_set():
            return
        try:
            _, writer = await asyncio.open_unix_connection(str(path))
        except OSError:
            await asyncio.sleep(AGENT_POLL)
        else:
            writer.close()
            return
    log.warning("agent.late", socket=str(path))


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _pick_ports(config: Config) -> Config:
    """Settle ports left to the system before anything is issued that names them."""
    if config.public.port and config.mutual.port:
        return config
    return settle_ports(config, *map(_pick_port, (config.public, config.mutual)))


def _pick_port(address: Endpoint) -> int:
    if address.port:
        return address.port
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        probe.bind((address.host, 0))
        return int(probe.getsockname()[1])
