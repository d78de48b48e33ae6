"""The typed, synchronous client of the API: one call an operation, over the admin socket or TLS.

It knows the table of routes and nothing else: a request goes in, its result comes out, and a
refusal is raised as the error that the server named.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from troth.core.errors import Denied, Internal, Invalid, TooLarge, Unavailable, error_of
from troth.wire.api import nodes
from troth.wire.api.problems import Unreachable as Unreachable
from troth.wire.api.routes import find_route, parse_failure, parse_result, render_request

MAX_ANSWER = 64 << 20
"""The most bytes that one answer, or one line of a stream, may have."""

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
QUIET_SECONDS = 90.0
"""How long a stream may be silent: servers send a heartbeat far more often than that."""


class Untrusted(Unreachable):
    """What answers doesn't prove to be the server that the CA file vouches for."""


class ApiClient:
    """Calls operations and follows subscriptions by name. Close it, or use it in `with`.

    `where` names the server in messages. All calls raise `Unreachable` when nothing answers, and
    otherwise the kind of `TrothError` that the answer's problem document carries (RFC 9457).
    """

    def __init__(self, http: httpx.Client, where: str) -> None:
        self._http = http
        self._where = where

    @classmethod
    def over_socket(cls, path: str) -> ApiClient:
        """A client of the admin socket at `path`, where the caller's uid is its credential."""
        transport = httpx.HTTPTransport(uds=path)
        return cls(_make_http("http://localhost", transport), path)

    @classmethod
    def over_https(
        cls, url: str, ca_file: str, certificate: tuple[str, str] | None = None
    ) -> ApiClient:
        """A client of `url`, trusting the roots in `ca_file` alone.

        `certificate` is a PEM chain and its key for mutual TLS. Raises `Invalid` for a URL that
        isn't ``https://host[:port]`` and for files that can't be used.
        """
        checked = check_url(url)
        transport = httpx.HTTPTransport(verify=_trust_only(ca_file, certificate))
        return cls(_make_http(checked, transport), checked)

    def call(self, name: str, request: msgspec.Struct) -> Any:
        """Carry out operation `name` and return its typed result."""
        method, path, body = render_request(name, request)
        try:
            with self._http.stream(method, path, content=body, headers=_headers(body)) as answer:
                content = _read_all(answer)
                return parse_result(find_route(name), answer.status_code, content)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise self._explain(error) from error

    def stream(self, name: str, request: msgspec.Struct) -> Iterator[Any]:
        """Follow subscription `name`: complete values, heartbeats among them, until it ends.

        It never ends well: the server's reason is raised, or `Unreachable` if it gave none.
        """
        method, path, body = render_request(name, request)
        decoder = msgspec.json.Decoder(find_route(name).result)
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, read=QUIET_SECONDS)
        try:
            with self._http.stream(
                method, path, content=body, headers=_headers(body), timeout=timeout
            ) as answer:
                if answer.status_code != 200:
                    raise parse_failure(answer.status_code, _read_all(answer))
                for line in _read_lines(answer):
                    yield _parse_line(name, decoder, line)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise self._explain(error) from error
        raise Unreachable(f"The server at {self._where} closed the stream without a reason.")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _explain(self, error: httpx.RequestError) -> Unavailable | Denied:
        """What went wrong on the way, in words; the advice depends on how far the call came."""
        story = str(error)
        if "Errno 13" in story or "Permission denied" in story:
            return Denied(f"You may not open {self._where}; call as the server's user or as root.")
        if "CERTIFICATE_VERIFY_FAILED" in story:
            return Untrusted(
                f"The server at {self._where} is not the one that your CA file vouches for "
                f"({_reason(story)}); give the ca.pem of that server's data directory."
            )
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return Unreachable(f"No server answers at {self._where}.")
        if isinstance(error, httpx.ReadTimeout):
            return Unreachable(f"The server at {self._where} took too long to answer; try again.")
        return Unreachable(
            f"The connection to {self._where} broke ({_reason(story)}). Try again; a mutual-TLS "
            "listener breaks it off for want of a client certificate."
        )


def check_url(url: str) -> str:
    """`url` without a slash at its end; raises `Invalid` unless it is ``https://host[:port]``."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    else:
        sound = sound and not (parts.path.strip("/") or parts.query or parts.fragment)
    if not sound or "@" in url:
        raise Invalid(f"{url[:200]!r} is not the server's URL; it looks like https://host:8443.")
    return url.rstrip("/")


def _make_http(url: str, transport: httpx.HTTPTransport) -> httpx.Client:
    """No proxies, netrc or CA settings from the environment: what is trusted is said above."""
    return httpx.Client(
        base_url=url,
        transport=transport,
        trust_env=False,
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        headers={"accept": "application/json", "accept-encoding": "identity"},
    )


def _trust_only(ca_file: str, certificate: tuple[str, str] | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise Invalid(
            f"The CA file {ca_file} can't be used ({_reason(str(error))}); give the ca.pem of the "
            "server's data directory."
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate is not None:
        try:
            context.load_cert_chain(*certificate)
        except OSError as error:
            raise Invalid(
                f"The client certificate {certificate[0]} with key {certificate[1]} can't be used "
                f"({_reason(str(error))}); give a PEM chain and its unencrypted key."
            ) from error
    return context


def _headers(body: bytes | None) -> dict[str, str]:
    return {} if body is None else {"content-type": "application/json"}


def _read_all(answer: httpx.Response) -> bytes:
    content = bytearray()
    for chunk in answer.iter_bytes():
        content += chunk
        if len(content) > MAX_ANSWER:
            raise TooLarge(f"The answer has more than {MAX_ANSWER:,} bytes; ask for less.")
    return bytes(content)


def _read_lines(answer: httpx.Response) -> Iterator[bytes]:
    """Lines end with a line feed alone: JSON may hold the other characters Unicode breaks at."""
    rest = bytearray()
    for chunk in answer.iter_bytes():
        rest += chunk
        *lines, last = rest.split(b"\n")
        rest = bytearray(last)
        if len(rest) > MAX_ANSWER:
            raise TooLarge(f"A line of the stream has more than {MAX_ANSWER:,} bytes.")
        yield from (bytes(line) for line in lines if line.strip())


def _parse_line(name: str, decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
    try:
        value = decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Internal(f"A line of the server's {name} stream was not understood.") from error
    if isinstance(value, nodes.StreamEnd):
        raise error_of(value.code, value.detail)
    return value


def _reason(story: str) -> str:
    """The reason without the interpreter's decoration such as ``(_ssl.c:992)``."""
    return story.split("] ", 1)[-1].split(" (_ssl", 1)[0].strip() or "no reason given"
