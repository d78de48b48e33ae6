"""Splunk's collector, Elasticsearch's bulk API and an OTLP receiver, as far as sinks need them.

What they take is read strictly. Each can be told to answer with an error, to hang, to refuse
messages by their numbers, and to go away and come back on the same port.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import AsyncIterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from tests.fakes.collector import read_request
from tests.fakes.messages import read_number

Reply = tuple[int, Any]
TOKEN = "hunter2-token"


def make_response(
    status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
) -> httpx.Response:
    """A response of a mocked transport, that comes as one over a connection does."""

    async def stream() -> AsyncIterator[bytes]:
        yield body

    return httpx.Response(status, headers=list(headers), content=stream())


class HttpReceiver:
    """A server on a port of its own."""

    path = "/"
    media_type = "application/json"
    authorization = ""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.requests: list[bytes] = []
        self.refused: set[int] = set()
        self.status = 0
        """Answered to everything, if it isn't 0."""
        self.headers: dict[str, str] = {}
        self.problems: list[str] = []
        self.hanging = threading.Event()
        self.released = threading.Event()
        self.cut = 0
        """After so many bytes of a body the connection is cut, if it isn't 0."""
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def take(self, body: bytes) -> Reply:
        """What is answered to a body; it is decoded here."""
        raise NotImplementedError

    def start(self) -> None:
        """Listen; again on the same port."""
        server = ThreadingHTTPServer(("127.0.0.1", self.port), self._make_handler())
        server.daemon_threads = True
        self._server, self.port = server, server.server_port
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Go away: nobody listens, and open connections are closed."""
        self.released.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join(20)
            assert not self._thread.is_alive()
            self._server.server_close()
            self._server = None
        assert not self.problems, self.problems

    def _make_handler(receiver) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                if receiver.cut:
                    self.rfile.read(min(size, receiver.cut))
                    self.close_connection = True
                    return
                body = self.rfile.read(size)
                if receiver.hanging.is_set():
                    receiver.released.wait(30)
                    self.close_connection = True
                    return
                self._answer(*self._judge(body))

            def _judge(self, body: bytes) -> Reply:
                if receiver.status:
                    return receiver.status, {"text": "forced", "code": -1}
                given = self.headers.get("authorization", "")
                if given != receiver.authorization:
                    return 401, {"text": "Invalid token", "code": 4}
                try:
                    assert re.fullmatch(receiver.path, self.path), self.path
                    assert self.headers["content-type"] == receiver.media_type
                    receiver.requests.append(body)
                    return receiver.take(body)
                except Exception as error:
                    receiver.problems.append(repr(error))
                    return 500, {}

            def _answer(self, status: int, answer: Any) -> None:
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


class FakeSplunk(HttpReceiver):
    """HEC: a batch with an event that it refuses isn't taken at all. With `acks` it tells later
    that a batch is indexed: at the second question."""

    path = r"/services/collector/(event|ack)"
    authorization = f"Splunk {TOKEN}"

    def __init__(self, *, acks: bool = False) -> None:
        super().__init__()
        self.acks = acks
        self._asked: dict[int, int] = {}

    def take(self, body: bytes) -> Reply:
        if body.startswith(b'{"acks"'):
            (number,) = json.loads(body)["acks"]
            self._asked[number] += 1
            return 200, {"acks": {str(number): self._asked[number] > 1}}
        events = [json.loads(line) for line in body.splitlines()]
        numbers = []
        for place, event in enumerate(events):
            assert event.keys() == {"time", "host", "source", "sourcetype", "fields", "event"}
            number = read_number(event["event"])
            if number in self.refused:
                return 400, {
                    "text": "Invalid data format",
                    "code": 6,
                    "invalid-event-number": place,
                }
            numbers.append(number)
        self.numbers += numbers
        if not self.acks:
            return 200, {"text": "Success", "code": 0}
        self._asked[len(self._asked)] = 0
        return 200, {"text": "Success", "code": 0, "ackId": len(self._asked) - 1}


class FakeElastic(HttpReceiver):
    """The bulk API of an index: what is there already is a conflict."""

    path = r"/troth/_bulk\?filter_path=.*"
    media_type = "application/x-ndjson"
    authorization = f"Basic {base64.b64encode(f'troth:{TOKEN}'.encode()).decode()}"

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.busy = False

    def take(self, body: bytes) -> Reply:
        lines = body.splitlines()
        assert body.endswith(b"\n")
        items = []
        for action, text in zip(lines[::2], lines[1::2], strict=True):
            id_ = json.loads(action)["create"]["_id"]
            document = json.loads(text)
            assert document.pop("@timestamp").startswith("2026-01-01T12:00:0")
            items.append({"create": self._create(id_, read_number(document))})
        return 200, {"errors": any(i["create"]["status"] > 201 for i in items), "items": items}

    def _create(self, id_: str, number: int) -> dict[str, Any]:
        if number in self.refused:
            error = {"type": "document_parsing_exception", "reason": f"no {number}"}
            return {"status": 400, "error": error}
        if self.busy and number % 3 == 0:
            return {"status": 429, "error": {"type": "es_rejected_execution_exception"}}
        if id_ in self.ids:
            return {"status": 409, "error": {"type": "version_conflict_engine_exception"}}
        self.ids.add(id_)
        self.numbers.append(number)
        return {"status": 201}


class FakeOtlp(HttpReceiver):
    """A collector that takes what it doesn't refuse, and says how many it didn't take."""

    path = r"/v1/logs"
    authorization = f"Bearer {TOKEN}"

    def take(self, body: bytes) -> Reply:
        rejected = 0
        for group in read_request(body, "logs").resource_logs:
            words = {a.key: a.value.string_value for a in group.resource.attributes}
            assert words["service.name"] == "troth-server"
            for scope in group.scope_logs:
                assert scope.scope.name == "troth"
                for record in scope.log_records:
                    number = read_number(record.body.string_value)
                    ids = [a for a in record.attributes if a.key == "log.record.uid"]
                    assert ids[0].value.string_value == f"{number}-{number:016x}"
                    assert record.severity_number
                    assert record.event_name == "identity.registered"
                    if number in self.refused:
                        rejected += 1
                    else:
                        self.numbers.append(number)
        if not rejected:
            return 200, {"partialSuccess": {}}
        reason = {"rejectedLogRecords": str(rejected), "errorMessage": "no room for it"}
        return 200, {"partialSuccess": reason}
