"""HTTP/2 and gRPC bytes against the agent's living socket, from a caller who needn't be anybody."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from hpack import Encoder
from hypothesis import strategies as st

from tests.fakes.callers import call_once, open_channel
from tests.fakes.source import Node, connections, serve_node, switchboard, until
from tests.fuzz.harness import fuzz
from tests.fuzz.mutations import mutated
from tests.fuzz.workload import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame

_QUIET = 0.01
"""Seconds without an answer after which the caller leaves."""

FETCH = "/SpiffeWorkloadAPI/FetchX509SVID"
_OPENING = PREFACE + frame(SETTINGS, 0, 0, b"")
_METHODS = (
    FETCH,
    "/SpiffeWorkloadAPI/FetchX509Bundles",
    "/SpiffeWorkloadAPI/FetchJWTSVID",
    "/SpiffeWorkloadAPI/ValidateJWTSVID",
    "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
    "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/",
    "*",
)


def call_method(method: str, number: int, extra: list[tuple[str, str]], message: bytes) -> bytes:
    """One call with one message; a table of headers of its own would need the others' first."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("workload.spiffe.io", "true"),
        *extra,
    ]
    body = b"\0" + len(message).to_bytes(4, "big") + message
    return frame(HEADERS, END_HEADERS, number * 2 + 1, Encoder().encode(headers)) + frame(
        DATA, END_STREAM, number * 2 + 1, body
    )


_TEXT = st.text(st.characters(max_codepoint=0x24F, exclude_characters="\0"), max_size=12)
_EXTRA = st.lists(
    st.tuples(
        st.sampled_from(["grpc-timeout", "grpc-encoding", "workload.spiffe.io", "x-bin", "cookie"]),
        _TEXT | st.sampled_from(["1S", "99999999H", "gzip", "false"]),
    ),
    max_size=2,
)
_CALLS = st.builds(
    call_method,
    st.sampled_from(_METHODS) | _TEXT,
    st.integers(0, 3),
    _EXTRA,
    st.binary(max_size=20),
)
_FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.integers(0, 5),
    st.binary(max_size=40) | st.just(b"\x83\x86\x84") | st.binary(min_size=4, max_size=6),
)
_MESSAGES = (b"", b"", b"\x0a\x01a", b"\x0a\x01a\x12\x05a.b.c", b"", b"")
_GOOD = b"".join(
    call_method(method, number, [], message)
    for number, (method, message) in enumerate(zip(_METHODS, _MESSAGES, strict=False))
)


@contextmanager
def open_socket() -> Iterator[tuple[asyncio.Runner, Node]]:
    with TemporaryDirectory() as folder, asyncio.Runner() as runner:
        opening = serve_node(Path(folder), "/web")
        node = runner.run(opening.__aenter__())
        try:
            yield runner, node
        finally:
            runner.run(opening.__aexit__(None, None, None))


@fuzz(
    st.lists(_FRAMES | _CALLS, max_size=30).map(lambda parts: _OPENING + b"".join(parts))
    | mutated(_OPENING + _GOOD, b"GET / HTTP/1.1\r\n\r\n"),
    examples=60,
    stage=open_socket,
)
def fuzz_agent_socket(data: bytes, stage: tuple[asyncio.Runner, Node]) -> None:
    """Whatever a caller sends costs it its connection at most, and nobody else anything."""
    runner, node = stage
    node.clock.advance(timedelta(minutes=1))  # what a caller may send in a time is bounded
    runner.run(_play(node, data))


async def _play(node: Node, data: bytes) -> None:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_unix_connection(str(node.path))
        try:
            writer.write(data)
            with suppress(TimeoutError):  # what hangs up at once is never carried out
                while await asyncio.wait_for(reader.read(1 << 16), _QUIET):
                    pass
            writer.write_eof()
            while await reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()
        await until(lambda: connections(node) == 0, "the connection's end")
        account = switchboard(node).quota._account(os.getuid())
        await until(lambda: (account.connections, account.streams) == (0, 0), "the calls' end")
        await until(lambda: node.source.watching == 0, "the streams' end")
        async with open_channel(node.path) as channel:
            assert await call_once(channel, FETCH, b"")
        await until(lambda: connections(node) == 0, "our own connection's end")
