"""200 simultaneous FetchX509SVID streams through a rotation of the signing authority.

Processes of their own, each with several connections, hold the streams. The new authority is
prepared, activated by force, and the old one tainted: from asking the server to activate it until
the last stream has a certificate that it signed. The
reference, from the same run, is the time from asking until the first X.509-SVID for all 200 at
once: what it takes to serve them when nothing has to be found out. Beside it: what an idle stream
weighs in the agent, and how many JWT-SVIDs a second come through the socket.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from cryptography import x509
from google.protobuf import struct_pb2
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod

from benchmarks.installation import Installation, run_server, weigh
from benchmarks.report import print_result, say
from troth.issuance.der import read_signer
from troth.wire.api.authorities import (
    ForceAuthority,
    ListAuthorities,
    MoveAuthority,
    PrepareAuthority,
)
from troth.wire.protobuf import build_messages
from troth.wire.workload import MESSAGES, SECURITY_HEADER, SERVICE

PROCESSES = 5
STREAMS = 40
SECONDS = 2.0
STREAM_KB = 60
SETTLE_SECONDS = 3.0
JWT_CALLS = 100
METADATA = {SECURITY_HEADER: "true"}
REASON = "a benchmark rotates"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds streams, and the line to it."""

    process: SpawnProcess
    line: Connection

    def ask(self, *words: Any) -> None:
        """Send an order."""
        self.line.send(words)

    def hear(self) -> Any:
        """Its answer; an error if none comes."""
        if not self.line.poll(60):
            raise RuntimeError("a process that holds streams doesn't answer")
        return self.line.recv()


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    with run_server(agent=True, pinned=False) as server:
        agent = int((server.folder / "agent" / "agent.lock").read_text().split()[0])
        register(server)
        holders = [start_holder(server.folder / "agent.sock") for _ in range(PROCESSES)]
        try:
            measure(server, agent, holders)
        finally:
            for holder in holders:
                holder.line.close()
                holder.process.join(10)
                holder.process.kill()


def measure(server: Installation, agent: int, holders: list[Holder]) -> None:
    """All four measurements, on one installation, and the last line."""
    warm_up(holders)
    empty = weigh(agent)
    began = time.monotonic()
    for holder in holders:
        holder.ask("open")
    first = max(holder.hear() for holder in holders) - began
    time.sleep(SETTLE_SECONDS)
    stream_kb = (weigh(agent) - empty) / (PROCESSES * STREAMS) / 1000
    say(f"streams open in {first:.2f} s, {stream_kb:.1f} kB each")
    rotated, key = rotate(server, holders)
    ends = [holder.hear() for holder in holders]
    value = max(ends) - rotated
    say(f"all renewed by {key[:8]} {value:.3f} s after the rotation")
    tokens, cached = measure_tokens(holders, fresh=True), measure_tokens(holders, fresh=False)
    print_result(
        "workload-api",
        value=value,
        unit="s",
        reference=first,
        digits=3,
        targets={"seconds": SECONDS, "idle_stream_kb": STREAM_KB},
        met=value <= SECONDS and stream_kb <= STREAM_KB,
        streams=PROCESSES * STREAMS,
        processes=PROCESSES,
        connections=PROCESSES * STREAMS,
        reference_is="seconds until all streams, opened at once, have their first answer",
        first_process_s=round(min(ends) - rotated, 3),
        idle_stream_kb=round(stream_kb, 1),
        jwt_fetches_per_s=round(tokens, 1),
        jwt_fetches_again_per_s=round(cached, 1),
        agent_rss_mb=round(weigh(agent) / 1e6, 1),
    )


def register(server: Installation) -> None:
    """One service for this uid, on the node of the local agent."""
    server.register("bench", selectors=[f"unix:uid:{os.getuid()}"], nodes=["local"])


def start_holder(socket: Path) -> Holder:
    """A process of its own, waiting for orders."""
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=hold, args=(str(socket), theirs), daemon=True
    )
    process.start()
    theirs.close()
    return Holder(process, mine)


def warm_up(holders: list[Holder]) -> None:
    """Each process gets one answer, so that its certificate is made and code is loaded."""
    for holder in holders:
        holder.ask("warm")
        holder.hear()


def rotate(server: Installation, holders: list[Holder]) -> tuple[float, str]:
    """Make a new authority sign and distrust the old; when that was asked, and its key id."""
    with server.open_admin() as admin:
        items = admin.call("authority.ls", ListAuthorities()).items
        old = next(i for i in items if (i.use, i.state) == ("x509-svid", "active"))
        made = admin.call("authority.prepare", PrepareAuthority(use="x509-svid", reason=REASON))
        time.sleep(SETTLE_SECONDS)  # everybody learns of the new root before anything needs it
        for holder in holders:
            holder.ask("follow", made.key_id)
        rotated = time.monotonic()
        admin.call("authority.activate", ForceAuthority(id=made.id, reason=REASON, force=True))
        admin.call("authority.taint", MoveAuthority(id=old.id, reason=REASON))
    return rotated, made.key_id


def measure_tokens(holders: list[Holder], *, fresh: bool) -> float:
    """FetchJWTSVID calls a second, all processes at once; each for an audience of its own if
    `fresh`, so that none is in the agent's cache."""
    for holder in holders:
        holder.ask("tokens", fresh)
    seconds: float = max(holder.hear() for holder in holders)
    return PROCESSES * JWT_CALLS / seconds


def hold(socket: str, line: Connection) -> None:
    """What a holder's process does: follow the orders that come down the line, until it ends."""
    asyncio.run(_Streams(socket, line).run())


class _Streams:
    """The streams of one process: who signed the last certificate of each."""

    def __init__(self, socket: str, line: Connection) -> None:
        self._socket = socket
        self._line = line
        self._types = build_messages("troth/workload.proto", MESSAGES, (struct_pb2.DESCRIPTOR,))
        self._signers: dict[int, str] = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Carry out order after order."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                order, *words = await loop.run_in_executor(None, self._line.recv)
            except (EOFError, OSError):
                return
            match order:
                case "warm":
                    self._line.send(await self._fetch_tokens(1, "warm"))
                case "open":
                    self._tasks = [asyncio.create_task(self._stream(n)) for n in range(STREAMS)]
                    self._line.send(await self._wait(bool))
                case "follow":
                    self._line.send(await self._wait(str(words[0]).__eq__))
                case "tokens":
                    name = f"bench-{os.getpid()}" if words[0] else "bench"
                    self._line.send(await self._fetch_tokens(JWT_CALLS, name, fresh=words[0]))

    async def _stream(self, number: int) -> None:
        channel = Channel(path=self._socket)
        method = UnaryStreamMethod[Any, Any](
            channel,
            f"/{SERVICE}/FetchX509SVID",
            self._types["X509SVIDRequest"],
            self._types["X509SVIDResponse"],
        )
        async with method.open(metadata=METADATA) as stream:
            await stream.send_message(self._types["X509SVIDRequest"](), end=True)
            while (reply := await stream.recv_message()) is not None:
                leaf = x509.load_der_x509_certificate(reply.svids[0].x509_svid)
                self._signers[number] = read_signer(leaf)
                self._changed.set()

    async def _wait(self, fits: Callable[[str], bool]) -> float:
        """When the last of the streams had what fits."""
        while not all(fits(self._signers.get(number, "")) for number in range(STREAMS)):
            for task in self._tasks:
                if task.done():
                    task.result()
                    raise RuntimeError("a stream ended")
            self._changed.clear()
            await self._changed.wait()
        return time.monotonic()

    async def _fetch_tokens(self, calls: int, name: str, *, fresh: bool = False) -> float:
        """Seconds for that many calls, eight at a time."""
        channel = Channel(path=self._socket)
        method = UnaryUnaryMethod[Any, Any](
            channel,
            f"/{SERVICE}/FetchJWTSVID",
            self._types["JWTSVIDRequest"],
            self._types["JWTSVIDResponse"],
        )
        gate = asyncio.Semaphore(8)

        async def fetch(number: int) -> None:
            audience = f"{name}-{number}" if fresh else name
            async with gate:
                reply = await method(
                    self._types["JWTSVIDRequest"](audience=[audience]), metadata=METADATA
                )
            if not reply.svids:
                raise RuntimeError("the agent gave no token")

        began = time.perf_counter()
        try:
            await asyncio.gather(*(fetch(number) for number in range(calls)))
        finally:
            channel.close()
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
