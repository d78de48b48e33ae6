"""The server as a process: builds the house, opens its doors, runs until told to stop."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog
import uvloop

from troth import __version__
from troth.core.clock import Clock, SteadyWatch, SystemClock
from troth.core.endpoint import Endpoint
from troth.core.entropy import Entropy, SystemEntropy
from troth.core.heap import settle_heap
from troth.drivers.tracers import load_tracer
from troth.operations.anchor import RefreshAnchors
from troth.operations.call import Caller
from troth.operations.servercert import RenewServer, ServerPair
from troth.server.background import Background, Task
from troth.server.config import Config, settle_ports
from troth.server.gauges import CountIdentities, ShowState
from troth.server.http.app import build_app
from troth.server.http.callers import accept_anybody, require_certificate, require_uid
from troth.server.http.listeners import Listener, TcpBinding, UnixBinding
from troth.server.installation import claim_directory
from troth.server.localagent import LocalAgent
from troth.server.sinkwiring import close_channels
from troth.server.tls import ServerTls
from troth.server.wiring import FEED, House, build_house, prepare_directories
from troth.store.engine import Store
from troth.wire.api.nodes import CreateJoinToken
from troth.wire.pem import render_pem_certificates

log = structlog.get_logger(__name__)

ROOT_READABLE = 0o644
LOCAL_TOKEN_SECONDS = 300
AGENT_SOCKET = "agent.sock"
AGENT_SECONDS = 10.0
AGENT_POLL = 0.02
REGISTERS = ("identity.registered", "identity.changed", "identity.retired")
"""After which other certificates may be registered."""
CONSOLE = Caller("troth", frozenset({"admin"}), source="local agent")


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
        built: asyncio.Future[House] = loop.create_future()
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
        house = await build_house(config, clock, entropy, tracer)
        stack.callback(house.store.close)
        stack.push_async_callback(asyncio.to_thread, house.decisions.close)
        stack.push_async_callback(asyncio.to_thread, house.archive.close)
        await _open_admin(stack, config, house, clock)
        tls = await _open_doors(stack, config, house, clock)
        await _start_background(stack, config, house, clock, tls)
        built.set_result(house)
        if agent:
            await _await_socket(config.data / AGENT_SOCKET, stop)
        announce(config)
        settle_heap()
        await stop.wait()
        log.info("server.stopping")
    return 0


async def _open_admin(stack: AsyncExitStack, config: Config, house: House, clock: Clock) -> None:
    app = build_app(
        house.dispatcher,
        house.publication,
        require_uid(house.callers),
        house.metrics,
        limits=config.limits,
        point=house.point,
        log=house.log,
    )
    binding = UnixBinding(config.admin_socket, config.admin_socket_mode)
    listener = Listener(app, name="admin", binding=binding, clock=clock, limits=config.limits)
    await _open(stack, listener, house)


class _Doors:
    """The TLS contexts and the pair that they hold now."""

    def __init__(self, data: Path, pair: ServerPair, store: Store, clock: Clock) -> None:
        self._data = data
        self.anchor = RefreshAnchors(store, clock, self._trust_clients)
        self.tls = ServerTls(pair.chain_pem, pair.key_pem, pair.roots)
        self._pair = pair
        self._publish(pair)

    @property
    def pair(self) -> ServerPair:
        """What is served now."""
        return self._pair

    def install(self, pair: ServerPair) -> None:
        """Serve `pair` from the next handshake on."""
        self.tls.install(pair.chain_pem, pair.key_pem, pair.roots)
        self._pair = pair
        self._publish(pair)

    async def _trust_clients(self, certificates: frozenset[bytes]) -> None:
        await asyncio.to_thread(self.tls.trust_clients, certificates)

    def _publish(self, pair: ServerPair) -> None:
        target = self._data / "ca.pem"
        fresh = target.with_suffix(".new")
        fresh.write_bytes(render_pem_certificates(list(pair.roots)))
        fresh.chmod(ROOT_READABLE)
        fresh.replace(target)


async def _open_doors(stack: AsyncExitStack, config: Config, house: House, clock: Clock) -> _Doors:
    doors = _Doors(config.data, await house.certify(), house.store, clock)
    await doors.anchor()
    published = house.publication
    listeners = (
        ("public", config.public, accept_anybody, doors.tls.public, published.origin),
        (
            "mutual",
            config.mutual,
            require_certificate(house.callers),
            doors.tls.mutual,
            published.mutual_origin,
        ),
    )
    for name, address, authenticate, context, base in listeners:
        app = build_app(
            house.dispatcher,
            house.publication,
            authenticate,
            house.metrics,
            limits=config.limits,
            open_metrics=config.open_metrics,
            point=replace(house.point, base=base),
            log=house.log,
        )
        binding = TcpBinding(address.host, address.port, context)
        listener = Listener(app, name=name, binding=binding, clock=clock, limits=config.limits)
        await _open(stack, listener, house)
    if config.grpc is not None:
        await _open(stack, _make_grpc(config.grpc, config, house, clock, doors.tls.grpc), house)
    return doors


def _make_grpc(
    address: Endpoint, config: Config, house: House, clock: Clock, context: ssl.SSLContext
) -> Door:
    # Loaded where it is configured: Envoy's messages take a tenth of a second.
    from troth.server.grpc.authorization import AuthorizationService
    from troth.server.grpc.listener import GrpcListener

    return GrpcListener(
        AuthorizationService(house.dispatcher, house.callers).methods(),
        name="grpc",
        binding=TcpBinding(address.host, address.port, context),
        clock=clock,
        limits=config.limits,
    )


class Door(Protocol):
    """Where the server answers."""

    name: str

    async def start(self) -> None:
        """Bind and listen."""
        ...

    async def stop(self) -> None:
        """Accept nothing more, and close what is open."""
        ...

    def count_connections(self) -> int:
        """How many connections are open."""
        ...

    def count_requests(self) -> int:
        """How many requests are being answered now."""
        ...


async def _open(stack: AsyncExitStack, listener: Door, house: House) -> None:
    await listener.start()
    metrics, name = house.metrics, listener.name
    metrics.follow("troth_connections", listener.count_connections, name)
    metrics.follow("troth_requests_under_way", listener.count_requests, name)
    stack.push_async_callback(listener.stop)


async def _start_background(
    stack: AsyncExitStack, config: Config, house: House, clock: Clock, doors: _Doors
) -> None:
    renew = RenewServer(house.certify, house.store, clock, lambda: doors.pair, doors.install)

    show = ShowState(house.store, clock, house.metrics, lambda: doors.pair.not_after)
    tasks = [
        *house.tasks,
        Task("server.renew", 60.0, renew, wakes=("authority.",)),
        Task("server.anchor", 60.0, doors.anchor, wakes=REGISTERS, quiet=True),
        Task("metrics.show", 5.0, show, quiet=True),
        Task("metrics.count", 60.0, CountIdentities(house.store, house.metrics), quiet=True),
    ]
    steady = SteadyWatch(clock).is_steady
    background = Background(tasks, house.metrics, steady, clock, house.dispatcher.tracer)
    house.store.on_commit(lambda: background.wake(FEED))
    house.store.on_news(lambda: background.wake(FEED))
    background.start()
    stack.push_async_callback(close_channels, house.channels)
    stack.push_async_callback(background.stop)


def _make_agent(config: Config, built: asyncio.Future[House]) -> LocalAgent:
    async def make_token() -> str:
        house = await asyncio.shield(built)
        body = CreateJoinToken(node=house.local_node, ttl=LOCAL_TOKEN_SECONDS)
        request_id = house.dispatcher.new_request_id()
        made = await house.dispatcher.call("token.join", CONSOLE, request_id, body)
        return str(made.token)

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
