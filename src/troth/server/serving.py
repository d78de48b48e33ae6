"""The server's house with its doors open: the listeners, and the work in the background."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from troth.core.clock import Clock, SteadyWatch
from troth.core.endpoint import Endpoint
from troth.core.entropy import Entropy
from troth.core.tracing import Tracer
from troth.operations.anchor import RefreshAnchors
from troth.operations.call import Caller
from troth.operations.servercert import RenewServer, ServerPair
from troth.server.background import Background, Task
from troth.server.config import Config
from troth.server.gauges import CountIdentities, ShowState
from troth.server.http.app import build_app
from troth.server.http.callers import accept_anybody, require_certificate, require_uid
from troth.server.http.listeners import Listener, TcpBinding, UnixBinding
from troth.server.sinkwiring import close_channels
from troth.server.tls import ServerTls
from troth.server.wiring import FEED, House, build_house
from troth.store.engine import Store
from troth.wire.api.nodes import CreateJoinToken
from troth.wire.pem import render_pem_certificates

ROOT_READABLE = 0o644
LOCAL_TOKEN_SECONDS = 300
REGISTERS = ("identity.registered", "identity.changed", "identity.retired")
"""After which other certificates may be registered."""
CONSOLE = Caller("troth", frozenset({"admin"}), source="local agent")


async def open_house(
    stack: AsyncExitStack, config: Config, clock: Clock, entropy: Entropy, tracer: Tracer
) -> House:
    """Build the house, open its doors and start what it does by itself; `stack` ends all that."""
    house = await build_house(config, clock, entropy, tracer)
    stack.callback(house.store.close)
    stack.push_async_callback(asyncio.to_thread, house.decisions.close)
    stack.push_async_callback(asyncio.to_thread, house.archive.close)
    await _open_admin(stack, config, house, clock)
    tls = await _open_doors(stack, config, house, clock)
    await _start_background(stack, config, house, clock, tls)
    return house


async def make_local_token(house: House) -> str:
    """A join token for the agent beside the server."""
    body = CreateJoinToken(node=house.local_node, ttl=LOCAL_TOKEN_SECONDS)
    request_id = house.dispatcher.new_request_id()
    made = await house.dispatcher.call("token.join", CONSOLE, request_id, body)
    return str(made.token)


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
