"""A tiny server that speaks the API over a Unix socket or TCP, with answers made by a test.

It reads requests with the same table of routes as everybody; what it answers is a value, an error
to raise, or a function of the request. Every request is kept in `requests`.
"""

from __future__ import annotations

import re
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from troth.core.errors import NotFound, TrothError
from troth.wire.api.problems import MEDIA_TYPE, Problem
from troth.wire.api.routes import JSON_LINES, ROUTES, Route, parse_request

Answer = Any | Callable[[Any], Any]
STATUS = {
    "invalid_request": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "conflict": 409,
    "failed_precondition": 412,
    "rate_limited": 429,
    "unavailable": 503,
}


class FakeApi:
    """Answers by operation name; `raw` answers (status, body) bypass the table of routes."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.raw: tuple[int, bytes] | None = None
        self.requests: list[tuple[str, Any]] = []
        self.streams: dict[str, list[bytes]] = {}

    def named(self, name: str) -> list[Any]:
        """The requests of one operation, in order."""
        return [request for called, request in self.requests if called == name]

    def answer(self, name: str, request: Any) -> Any:
        if name not in self.answers:
            raise NotFound(f"The fake knows no answer to {name}.")
        answer = self.answers[name]
        value = answer(request) if callable(answer) else answer
        if isinstance(value, TrothError):
            raise value
        return value


def find_route(method: str, path: str) -> tuple[Route, dict[str, str]]:
    for route in ROUTES:
        pattern = re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", route.path)
        if route.method == method and (match := re.fullmatch(pattern, path)):
            return route, {key: unquote(value) for key, value in match.groupdict().items()}
    raise NotFound(f"There is no route {method} {path}.")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers.get("content-length", "0"))))

    def _serve(self, body: bytes) -> None:
        api: FakeApi = self.server.api
        if api.raw is not None:
            self._send(api.raw[0], api.raw[1], "application/octet-stream")
            return
        try:
            parts = urlsplit(self.path)
            route, fields = find_route(self.command, parts.path)
            request = parse_request(route, fields, dict(parse_qsl(parts.query)), body)
            api.requests.append((route.name, request))
            if route.stream and route.name in api.streams:
                self._stream(api.streams[route.name])
                return
            value = api.answer(route.name, request)
            self._send(200, msgspec.json.encode(value), "application/json")
        except TrothError as error:
            status = STATUS.get(error.code, 500)
            problem = Problem(
                title=error.code,
                status=status,
                detail=error.detail,
                code=error.code,
                request_id="req_1",
                retryable=error.retryable,
            )
            self._send(status, msgspec.json.encode(problem), MEDIA_TYPE)

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, chunks: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("content-type", JSON_LINES)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


class _TcpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True


@contextmanager
def serve_unix(api: FakeApi, path: Path) -> Iterator[FakeApi]:
    """Serve `api` on the Unix socket `path` while the block runs."""
    with _UnixServer(str(path), _Handler) as server, _running(server, api):
        yield api


@contextmanager
def serve_tls(api: FakeApi, context: ssl.SSLContext) -> Iterator[str]:
    """Serve `api` with TLS on a port of the system's choice; gives the URL."""
    with _TcpServer(("127.0.0.1", 0), _Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        with _running(server, api):
            yield f"https://localhost:{server.server_address[1]}"


@contextmanager
def _running(server: Any, api: FakeApi) -> Iterator[None]:
    server.api = api
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
