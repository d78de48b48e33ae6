"""The node's connection to the server's API: HTTP/1.1 over TLS 1.3, the server's roots pinned.

The credential can be replaced at any time: new requests use the new one, requests under way finish
on the old, and streams end with `Unavailable` so that they are opened anew.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from troth.agent.credential import Credential
from troth.core.errors import Internal, Invalid, Passing, TrothError, Unavailable
from troth.core.ids import SpiffeId
from troth.core.tracing import NO_TRACER, TRACEPARENT, Kind, Tracer, render_traceparent
from troth.wire.api.routes import find_route, parse_failure, parse_result, render_request

MAX_ANSWER = 8 << 20
"""Bytes of one answer: 256 certificate chains take less than 1 MiB."""

MAX_LINE = 64 << 20
"""Bytes of one line of a stream: a snapshot with 100,000 identities takes some 50 MiB."""

MAX_FAILURE = 64 << 10
SERVER_PATH = "/troth/server"
ANY_SERVER = re.compile(r"spiffe://[a-z0-9._-]+" + SERVER_PATH)
"""Before joining, the trust domain isn't known; the pinned roots stand for it."""

LONGEST_RETRY = 60.0
"""Seconds for which a server can send us away; it may be wrong about itself."""
CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 20.0
SILENCE_TIMEOUT = 15.0
"""Seconds without a byte on a stream, thrice the heartbeat, after which it counts as dead."""


class Api(Protocol):
    """The server's operations, called by name."""

    async def call(self, name: str, request: msgspec.Struct) -> Any:
        """The result of operation `name`; raises a kind of `TrothError`."""
        ...

    def stream(self, name: str, request: msgspec.Struct) -> AsyncIterator[Any]:
        """The values of subscription `name`; raises a kind of `TrothError` to end."""
        ...


class Unreachable(Unavailable):
    """No answer came, or none from our server."""


class Untrusted(Unreachable):
    """The server's certificate doesn't lead to a pinned root: perhaps it is another server."""


class CredentialChanged(Unavailable):
    """The stream was opened with a credential that has a successor now: open it anew."""


@dataclass(slots=True)
class _Line:
    """One HTTP client, what it is used for now, and whether it has been replaced."""

    client: httpx.AsyncClient
    users: int = 0
    replaced: bool = False


class Connection:
    """Implements `Api` against one base URL."""

    def __init__(
        self,
        url: str,
        roots: tuple[bytes, ...],
        credential: Credential | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._url = check_url(url)
        self._tracer = tracer
        self._line = _Line(_open_client(url, roots, credential))
        self._closing: set[asyncio.Task[None]] = set()

    def use(self, credential: Credential) -> None:
        """From now on prove ourselves with `credential` and trust its roots."""
        old, self._line = self._line, _Line(_open_client(self._url, credential.roots, credential))
        old.replaced = True
        if old.users == 0:
            self._close_later(old)

    async def close(self) -> None:
        """End everything under way."""
        self._line.replaced = True
        await self._line.client.aclose()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def call(self, name: str, request: msgspec.Struct) -> Any:
        """Carry out operation `name` on the server."""
        route = find_route(name)
        with self._tracer.within(name, Kind.CLIENT) as span:
            async with self._open(name, request, ANSWER_TIMEOUT) as (_, response):
                span.note(http_response_status_code=response.status_code)
                body = await _read_body(response, MAX_ANSWER)
                if response.is_success:
                    return parse_result(route, response.status_code, body)
                raise _read_failure(response, body)

    async def stream(self, name: str, request: msgspec.Struct) -> AsyncIterator[Any]:
        """Follow subscription `name`; a line that isn't understood ends it with `Internal`."""
        decoder = msgspec.json.Decoder(find_route(name).result)
        async with self._open(name, request, SILENCE_TIMEOUT) as (line, response):
            if response.status_code != httpx.codes.OK:
                failure = await _read_body(response, MAX_FAILURE)
                raise _read_failure(response, failure)
            async for text in _split_lines(response):
                if line.replaced:
                    raise CredentialChanged(
                        "The node's credential changed; following again with it."
                    )
                try:
                    value = decoder.decode(text)
                except (msgspec.MsgspecError, RecursionError, ValueError) as error:
                    raise Internal(
                        f"The server's {name} stream was not understood: is it a newer version?"
                    ) from error
                yield value

    @asynccontextmanager
    async def _open(
        self, name: str, request: msgspec.Struct, silence: float
    ) -> AsyncIterator[tuple[_Line, httpx.Response]]:
        method, path, body = render_request(name, request)
        line = self._line
        line.users += 1
        headers = {"content-type": "application/json"} if body is not None else {}
        place = self._tracer.current()
        if place is not None:
            headers[TRACEPARENT] = render_traceparent(place)
        timeout = httpx.Timeout(CONNECT_TIMEOUT, read=silence)
        try:
            async with line.client.stream(
                method, path, content=body, headers=headers, timeout=timeout
            ) as response:
                yield line, response
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise _explain_failure(self._url, error) from error
        finally:
            line.users -= 1
            if line.replaced and line.users == 0:
                self._close_later(line)

    def _close_later(self, line: _Line) -> None:
        task = asyncio.get_running_loop().create_task(line.client.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def check_url(url: str) -> str:
    """`url` without a slash at its end; raises `Invalid` unless it is ``https://host[:port]``."""
    problem = Invalid(f"{url[:200]!r} is not the server's URL; it looks like https://host:8443.")
    try:
        parts = urlsplit(url)
        sound = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise problem from error
    if not sound or parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise problem
    return url.rstrip("/")


def _open_client(
    url: str, roots: tuple[bytes, ...], credential: Credential | None
) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=url,
        verify=make_context(roots, credential),
        trust_env=False,  # neither proxies nor certificates from the environment
        follow_redirects=False,
        limits=httpx.Limits(max_connections=16, max_keepalive_connections=8),
        headers={"accept": "application/json", "accept-encoding": "identity"},
    )


def make_context(roots: tuple[bytes, ...], credential: Credential | None) -> ssl.SSLContext:
    """TLS 1.3 alone, `roots` and nothing else trusted, with our certificate.

    The server must prove its host name and its SPIFFE ID. A workload's certificate leads to the
    same roots and may carry any DNS name, so the name alone would let it pass for the server; the
    ID is reserved. Raises `Invalid` for what OpenSSL refuses.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    expected = ANY_SERVER
    if credential is not None:
        domain = SpiffeId.parse(credential.spiffe_id).trust_domain
        expected = re.compile(re.escape(str(SpiffeId.of(domain, SERVER_PATH))))
    context.sslobject_class = _demand_server(expected)
    try:
        context.load_verify_locations(cadata=b"".join(roots))
        if credential is not None:
            _load_credential(context, credential)
    except ssl.SSLError as error:
        reason = error.reason or "not readable"
        raise Invalid(f"The roots or our own certificate can't be used: {reason}.") from error
    return context


def _demand_server(expected: re.Pattern[str]) -> type[ssl.SSLObject]:
    """A TLS object whose handshake fails unless the peer's one URI name is as `expected`."""

    class ServerCheck(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            names = (self.getpeercert() or {}).get("subjectAltName", ())
            uris = [str(name[1]) for name in names if name[0] == "URI"]
            if len(uris) != 1 or not expected.fullmatch(uris[0]):
                error = ssl.SSLCertVerificationError("not the server's certificate")
                error.verify_message = "it is not the certificate of a troth server"
                raise error

    return ServerCheck


def _load_credential(context: ssl.SSLContext, credential: Credential) -> None:
    """The ssl module reads keys from files only; this one lives in memory and nowhere else."""
    key = load_der_private_key(credential.key, None)
    parts = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]
    for der in credential.chain:
        parts.append(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
    descriptor = os.memfd_create("troth-node", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"".join(parts))
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")


def _read_failure(response: httpx.Response, body: bytes) -> TrothError:
    """The error in an answer, and when the server wants us back (RFC 9110, section 10.2.3)."""
    error = parse_failure(response.status_code, body)
    wanted = response.headers.get("retry-after", "")
    if isinstance(error, Passing) and re.fullmatch(r"[0-9]{1,6}", wanted, re.ASCII):
        error.retry_after = min(float(wanted), LONGEST_RETRY)
    return error


async def _read_body(response: httpx.Response, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > limit:
            raise Internal(f"The server's answer is larger than {limit} bytes.")
        parts.append(part)
    return b"".join(parts)


async def _split_lines(response: httpx.Response) -> AsyncIterator[bytes]:
    pending = bytearray()
    async for part in response.aiter_raw():
        searched = len(pending)
        pending += part
        while (end := pending.find(b"\n", searched)) >= 0:
            text = bytes(pending[:end])
            del pending[: end + 1]
            searched = 0
            if text.strip():
                yield text
        if len(pending) > MAX_LINE:
            raise Internal(f"A line of the server's stream is longer than {MAX_LINE} bytes.")


def _explain_failure(url: str, error: Exception) -> Unreachable:
    """Which of the many ways to fail it was, in a sentence."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Untrusted(
                f"The server at {url} shows a certificate that the pinned roots don't vouch for "
                f"({cause.verify_message}). Check the URL, and that the CA file is this server's."
            )
        cause = cause.__cause__ or cause.__context__
    match error:
        case httpx.ConnectTimeout():
            reason = f"didn't answer within {CONNECT_TIMEOUT:.0f} s"
        case httpx.ConnectError():
            reason = f"can't be reached ({error})"
        case httpx.TimeoutException():
            reason = "stopped answering"
        case _:
            reason = f"broke the connection off ({type(error).__name__})"
    return Unreachable(f"The server at {url} {reason}.")
