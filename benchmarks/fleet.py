"""A fleet of devices that enrol or renew all at once, each over a TLS connection of its own.

In one process and without the client's files, so that thousands fit on one machine. Each does what
the client does: it keeps its key and asks again with the same request when there was no answer.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 120.0
PASSING = (429, 503)
"""Statuses after which a device comes again."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What one device got, and how often it had to ask."""

    answer: dict[str, Any]
    attempts: int


async def enrol_fleet(
    url: str, roots: bytes, codes: Sequence[str], csrs: Sequence[bytes], *, at_once: int
) -> list[Enrolled]:
    """Enrol device n with `codes[n]` and `csrs[n]` (DER), at most `at_once` connected."""
    context = trust_only(roots)

    async def enrol(code: str, csr: bytes) -> Enrolled:
        body = {"method": "code", "evidence": code, "csr": b64encode(csr).decode()}
        return await line.ask(context, "/v1/devices/enroll", body)

    line = _Line(url, at_once)
    async with asyncio.timeout(PATIENCE):
        return list(await asyncio.gather(*map(enrol, codes, csrs)))


async def renew_fleet(
    url: str, contexts: Sequence[ssl.SSLContext], csrs: Sequence[bytes], *, at_once: int
) -> list[Enrolled]:
    """Renew device n, which shows the certificate in `contexts[n]`, with `csrs[n]` (DER)."""

    async def renew(context: ssl.SSLContext, csr: bytes) -> Enrolled:
        return await line.ask(context, "/v1/devices/renew", {"csr": b64encode(csr).decode()})

    line = _Line(url, at_once)
    async with asyncio.timeout(PATIENCE):
        return list(await asyncio.gather(*map(renew, contexts, csrs)))


def trust_only(roots: bytes) -> ssl.SSLContext:
    """For TLS 1.3 to a server that these roots (PEM) vouch for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=roots.decode())
    return context


class _Line:
    """All devices in front of one listener; each comes again until it has its certificate."""

    def __init__(self, url: str, at_once: int) -> None:
        self._url = url
        self._gate = asyncio.Semaphore(at_once)
        self._jitter = Random(1)  # spreads retries; nothing secret

    async def ask(self, context: ssl.SSLContext, path: str, body: dict[str, Any]) -> Enrolled:
        """The answer that is no passing refusal; any other refusal is an error."""
        attempts = 0
        while True:
            attempts += 1
            async with self._gate:
                try:
                    status, answer = await post(self._url, context, path, body)
                except (OSError, EOFError, asyncio.IncompleteReadError):
                    status, answer = 503, {}
            if status == 200:
                return Enrolled(answer, attempts)
            if status not in PASSING:
                raise RuntimeError(f"{status}: {answer}")
            await asyncio.sleep(min(0.1 * 2**attempts, 5.0) * (0.5 + self._jitter.random() / 2))


async def post(
    url: str, context: ssl.SSLContext, path: str, body: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """One request on a fresh connection."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    try:
        content = json.dumps(body).encode()
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        lengths = [
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        ]
        answer = await reader.readexactly(int(lengths[0].partition(b":")[2]))
        return status, json.loads(answer)
    finally:
        writer.transport.abort()
