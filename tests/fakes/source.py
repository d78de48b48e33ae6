"""A source of identities that says what a test tells it to, and a socket that serves it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from joserfc import jwt

from tests.fakes.tiny_ca import TinyCa
from troth.agent.quota import Limits
from troth.agent.sds import SecretDiscovery
from troth.agent.socket import AgentSocket
from troth.agent.tombstone import Tombstone
from troth.agent.view import Caller, JwtSvid, View
from troth.agent.workload_api import WorkloadApi
from troth.core.clock import VirtualClock
from troth.core.errors import Invalid, TrothError
from troth.drivers.attestors import Peer


class FakeSource:
    """One view for every caller; `publish` and `fail` reach every stream."""

    def __init__(self, ca: TinyCa, view: View) -> None:
        self.ca = ca
        self.view = view
        self.refusal: Exception | None = None
        self.failure: Exception | None = None
        self.ended = False
        self.strangers: set[int] = set()
        self.peers: list[Peer] = []
        self.watching = 0
        self.attest_gate: asyncio.Event | None = None
        self._changed = asyncio.Condition()
        self._version = 0

    async def wait_until_ready(self) -> None:
        pass

    async def attest(self, peer: Peer) -> Caller:
        self.peers.append(peer)
        if self.attest_gate is not None:
            await self.attest_gate.wait()
        if self.refusal is not None:
            raise self.refusal
        return Caller(peer, (f"unix:uid:{peer.uid}", "unix:path:/usr/bin/test"), "key")

    async def watch(self, caller: Caller) -> AsyncIterator[View]:
        self.watching += 1
        seen = -1
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._version != seen)  # noqa: B023
                    seen = self._version
                if self.failure is not None:
                    raise self.failure
                if self.ended:
                    return
                yield (
                    View((), self.view.bundles) if caller.peer.uid in self.strangers else self.view
                )
        finally:
            self.watching -= 1

    async def fetch_jwt_svids(
        self, caller: Caller, audiences: tuple[str, ...], spiffe_id: str | None
    ) -> tuple[JwtSvid, ...]:
        ids = [svid.spiffe_id for svid in self.view.svids]
        wanted = ids if spiffe_id is None else [one for one in ids if one == spiffe_id]
        return tuple(
            self.ca.token(one.removeprefix(f"spiffe://{self.ca.trust_domain}"), audiences)
            for one in wanted
        )

    async def validate_jwt_svid(self, caller: Caller, audience: str, token: str):
        try:
            claims = jwt.decode(token, self.ca.jwk).claims
        except Exception as error:
            raise Invalid("The token doesn't hold.") from error
        if audience not in claims["aud"]:
            raise Invalid("The token is meant for somebody else.")
        return claims["sub"], claims

    async def publish(self, view: View) -> None:
        self.view = view
        await self._wake()

    async def fail(self, error: TrothError) -> None:
        self.failure = error
        await self._wake()

    async def end(self) -> None:
        self.ended = True
        await self._wake()

    async def _wake(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()


class Node:
    """What a test holds: the source, the socket and its path."""

    def __init__(
        self, path: Path, source: FakeSource, socket: AgentSocket, clock: VirtualClock
    ) -> None:
        self.path = path
        self.source = source
        self.socket = socket
        self.clock = clock


@asynccontextmanager
async def serve_node(
    folder: Path, *paths: str, limits: Limits | None = None, services: tuple = ()
) -> AsyncIterator[Node]:
    """A served socket whose callers have the identities `paths` of one tiny authority."""
    ca = TinyCa()
    svids = tuple(ca.issue(path) for path in paths)
    source = FakeSource(ca, View(svids, (ca.bundle(),)))
    clock = VirtualClock()
    socket = AgentSocket(clock, limits)
    path = folder / "agent.sock"
    await socket.start(path, WorkloadApi(source), SecretDiscovery(source, Tombstone()), *services)
    try:
        yield Node(path, source, socket, clock)
    finally:
        await socket.stop(grace=1)


def in_loop(test):
    """Run an async test in a loop of its own, for at most 30 s."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        async def bounded():
            async with asyncio.timeout(30):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


def switchboard(node: Node):
    """The inside of the socket, to look at what it counts."""
    return node.socket._switchboard


def connections(node: Node) -> int:
    """How many connections the socket holds."""
    return len(switchboard(node).connections)


async def until(condition, what: str = "the condition", seconds: float = 10) -> None:
    """Let the loop turn until `condition()` holds. A failure takes `seconds`, success doesn't."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    turns = 0
    while not condition():
        if loop.time() > end:
            raise AssertionError(f"{what} never held")
        turns += 1
        await asyncio.sleep(0 if turns < 100 else 0.001)
