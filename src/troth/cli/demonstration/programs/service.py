"""An HTTP service on a Unix socket: it answers with the SPIFFE ID that its Envoy saw on the caller.

With --through it is a client as well: it calls another service through the socket of its own
Envoy, all the time, on connections that it keeps, and counts what comes back.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  (http.client loads it late, when it may not be readable)
import http.client
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

from troth.cli.demonstration.programs.life import Voice, become, hear, make_parser

CLIENTS = 3
PAUSE = 0.01
"""Seconds that each client waits after each answer: about 200 requests a second in all."""

_CALLER = re.compile(r"(?:^|;)URI=([^;,]+)")


class Handler(BaseHTTPRequestHandler):
    """Answers whatever is asked with the name of this service and of the caller."""

    protocol_version = "HTTP/1.1"
    service = ""

    def do_GET(self) -> None:
        """The caller stands in a header that only our Envoy can set."""
        found = _CALLER.search(self.headers.get("x-forwarded-client-cert", ""))
        answer = {"service": self.service, "caller": found.group(1) if found else None}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """The same: who may do what isn't decided here."""
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Thousands of requests are counted, not printed."""


class Server(ThreadingMixIn, UnixStreamServer):
    """A thread for each connection of our Envoy."""

    daemon_threads = True
    request_queue_size = 128

    def get_request(self) -> tuple[Any, Any]:
        """The HTTP handler wants an address, which a Unix socket's peer doesn't have."""
        connection, _ = super().get_request()
        return connection, ("envoy", 0)


class SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Traffic:
    """Calls the other service without end and keeps count."""

    def __init__(self, path: str, voice: Voice) -> None:
        self._path = path
        self._voice = voice
        self._lock = threading.Lock()
        self._counts: dict[str, Any] = {
            "answered": 0,
            "failed": 0,
            "last_answered": 0.0,
            "last_failed": 0.0,
            "failure": "",
            "peer": None,
        }

    def start(self) -> None:
        """Begin, with `CLIENTS` connections."""
        for _ in range(CLIENTS):
            threading.Thread(target=self._call_on, daemon=True).start()

    def report(self) -> dict[str, Any]:
        """The counts now."""
        with self._lock:
            return dict(self._counts)

    def _call_on(self) -> None:
        connection = SocketConnection(self._path, timeout=5)
        while True:
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                body = answer.read()
                self._count(answer.status, body)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._note_failure(f"{type(error).__name__}: {error}")
            time.sleep(PAUSE)

    def _count(self, status: int, body: bytes) -> None:
        if status != 200:
            self._note_failure(f"{status} {body.decode(errors='replace')[:300]}")
            return
        with self._lock:
            self._counts["answered"] += 1
            self._counts["last_answered"] = self._voice.now()
            self._counts["peer"] = json.loads(body)

    def _note_failure(self, reason: str) -> None:
        with self._lock:
            self._counts["failed"] += 1
            self._counts["last_failed"] = self._voice.now()
            self._counts["failure"] = reason


def main() -> None:
    """Serve; commands: `start` begins to call, `report` tells the counts."""
    parser = make_parser(__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--through", default="")
    options = parser.parse_args()
    become(options.uid)
    voice = Voice()
    Handler.service = options.name
    Path(options.socket).unlink(missing_ok=True)
    server = Server(options.socket, Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    traffic = Traffic(options.through, voice)
    voice.tell("ready")
    for word in hear():
        if word == "start":
            traffic.start()
            voice.tell("started")
        elif word == "report":
            voice.tell("report", **traffic.report())


if __name__ == "__main__":
    main()
