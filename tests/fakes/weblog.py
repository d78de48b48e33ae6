"""A log behind HTTP, as a bucket or a web server shows its files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class WebLog:
    """Serves `files` below ``/log/``; `statuses` are answered instead, by name."""

    files: dict[str, bytes]
    url: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        log: WebLog = self.server.log
        name = self.path.removeprefix("/log/")
        log.asked.append(name)
        body = log.files.get(name, b"")
        status = log.statuses.get(name, 200 if name in log.files else 404)
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serve_log(files: dict[str, bytes]) -> Iterator[WebLog]:
    """A server on a port of the system's choice."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.log = WebLog(files, f"http://127.0.0.1:{server.server_port}/log")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.log
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
