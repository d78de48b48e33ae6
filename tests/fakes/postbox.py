"""A web server that takes whatever is posted, and answers what a test says, or worse."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Respond = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Postbox:
    """What came: request heads and bodies. `respond` writes the answer to each."""

    respond: Respond
    port: int = 0
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(
                line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line
            )
            body = await reader.readexactly(int(fields.get("content-length", "0")))
            self.heads.append(head)
            self.bodies.append(body)
            await self.respond(body, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def say(status: int, body: bytes = b"", **headers: str) -> Respond:
    """One whole answer; names of headers have ``_`` for ``-``."""
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode()

    async def respond(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head + body)
        await writer.drain()

    return respond


def flood(size: int) -> Respond:
    """An answer without a length, of so many bytes."""

    async def respond(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        for _piece in range(size >> 16):
            writer.write(bytes(1 << 16))
            await writer.drain()

    return respond


async def hang(_: bytes, writer: asyncio.StreamWriter) -> None:
    """Take the request and say nothing, until the client goes."""
    await writer.wait_closed()


async def drip(_: bytes, writer: asyncio.StreamWriter) -> None:
    """Say a little, now and then, without end."""
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def babble(_: bytes, writer: asyncio.StreamWriter) -> None:
    """Say what is no HTTP."""
    writer.write(b"\x00\x01 not HTTP at all\r\n\r\n")
    await writer.drain()


async def drop(_: bytes, writer: asyncio.StreamWriter) -> None:
    """Cut the connection in the middle of an answer."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await writer.drain()


@asynccontextmanager
async def open_postbox(
    respond: Respond, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Postbox]:
    """A server on a port of its own while the context lasts."""
    box = Postbox(respond)
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await box.serve(reader, writer)
        finally:
            running.discard(task)

    server = await asyncio.start_server(serve, "localhost", 0, ssl=tls)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
