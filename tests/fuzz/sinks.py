"""What stands around sinks: URLs of receivers, their answers, and what is kept of dead letters."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import msgspec
from hypothesis import strategies as st
from nats.aio.msg import Msg

from tests.fakes.decisions import make_record
from tests.fakes.httpreceivers import make_response
from tests.fakes.messages import NOW, make_messages
from tests.fuzz.harness import answer, check_refusal, fuzz
from tests.fuzz.mutations import mutated, mutated_text
from troth.archive.record import encode_record
from troth.audit.entry import StoredEvent
from troth.drivers.sinks import Away, Rejected, Sink, Target
from troth.drivers.sinks.elastic import ElasticSink
from troth.drivers.sinks.file import parse_path
from troth.drivers.sinks.nats import NatsSink
from troth.drivers.sinks.natscredentials import parse_credentials
from troth.drivers.sinks.otlp import OtlpSink
from troth.drivers.sinks.place import KINDS, parse_place
from troth.drivers.sinks.post import Poster
from troth.drivers.sinks.splunk import SplunkSink
from troth.operations.journalsource import keep_event, revive_event
from troth.operations.sink import view_letter
from troth.store.dead_letters import DeadLetter

LEDGER: dict[str, str] = {
    "sink-url": """
        drivers.sinks.file.parse_path
        drivers.sinks.place._parse_host
        drivers.sinks.place.parse_place
    """,
    "sink-answer": """
        drivers.sinks.elastic.ElasticSink._read
        drivers.sinks.post._read_seconds
        drivers.sinks.splunk._read
        wire.otlp_logs.read_rejections
    """,
    "index-answer": """
        drivers.sinks.splunk.SplunkSink._await_index
    """,
    "stream-answer": """
        drivers.sinks.nats.NatsSink._take
    """,
    "nats-credentials": """
        drivers.sinks.natscredentials._read_seed
        drivers.sinks.natscredentials.parse_credentials
    """,
    "dead-letter": """
        operations.journalsource.revive_event
        operations.sink._read_decision
        operations.sink._read_event
    """,
}

TARGET = Target("siem", "http://localhost:1", timeout=5.0)
BATCH = make_messages(3)
_, ENTRY = encode_record(make_record(3))
EVENT = keep_event(StoredEvent(1, "a.bed", 1, "s", "a", 5, "req", '{"b":1}', bytes(16), None))
SPLUNK = (
    b'{"text":"Success","code":0}',
    b'{"text":"Success","code":0,"ackId":7}',
    b'{"acks":{"7":true}}',
    b'{"text":"Invalid data format","code":6,"invalid-event-number":1}',
)
ELASTIC = tuple(
    msgspec.json.encode(
        {"errors": wrong, "items": [{"create": {"status": one, "error": error}}] * 3}
    )
    for wrong, one, error in (
        (False, 201, None),
        (True, 409, {"type": "version_conflict_engine_exception", "reason": "there"}),
        (True, 400, {"type": "document_parsing_exception", "reason": "no"}),
        (True, 429, {"type": "es_rejected_execution_exception"}),
    )
)
OTLP = (b"{}", b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"full"}}')
JETSTREAM = (
    b'{"stream":"TROTH","seq":1}',
    b'{"error":{"code":400,"err_code":10070,"description":"wrong last msg ID: z"},"seq":0}',
)
CREDENTIALS = (
    "-----BEGIN NATS USER JWT-----\neyJ0.eyJq.c2ln\n------END NATS USER JWT------\n\n"
    "-----BEGIN USER NKEY SEED-----\n"
    "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLM\n"
    "------END USER NKEY SEED------\n"
)
"""The seed is that of nats-io/jwt, v2/creds_utils.go."""


@fuzz(
    st.tuples(
        st.sampled_from(sorted(KINDS)),
        mutated_text("file:///var/log/a%20b.jsonl", *(kind.example for kind in KINDS.values())),
    )
)
def fuzz_sink_url(given: tuple[str, str]) -> None:
    driver, url = given
    place = answer(parse_place, driver, url)
    if place is not None:
        assert place.hosts
        assert all(host and 0 < port < 65_536 for host, port in place.hosts)
    path = answer(parse_path, url)
    assert path is None or path.is_absolute()


def make_sink(driver: str, given: httpx.Response) -> Sink:
    """A sink whose receiver answers so; and from then on, that what was sent is indexed."""
    answers = iter([given])

    def respond(request: httpx.Request) -> httpx.Response:
        return next(answers, None) or make_response(200, b'{"acks":{"7":true}}')

    poster = Poster(TARGET, parse_place("otlp", TARGET.url), {}, httpx.MockTransport(respond))
    if driver == "splunk":
        return SplunkSink(TARGET, poster)
    return ElasticSink(poster, "troth") if driver == "elastic" else OtlpSink(TARGET, poster)


@fuzz(
    st.tuples(
        st.sampled_from(["splunk", "elastic", "otlp"]),
        st.sampled_from([200, 200, 200, 201, 400, 413, 429, 503]),
        st.sampled_from(["", "5", "-1", "99999999", "soon", "\u0663"]),
        mutated(*SPLUNK, *ELASTIC, *OTLP),
    )
)
def fuzz_sink_answer(given: tuple[str, int, str, bytes]) -> None:
    """It is delivered, refused or away; what is told of it is short."""
    driver, status, later, body = given
    places: set[int] = set()
    headers = [(b"retry-after", later.encode())]

    async def deliver() -> None:
        nonlocal places
        sink = make_sink(driver, make_response(status, body, headers))
        try:
            async with asyncio.timeout(0.3):  # a number that is never indexed is asked for again
                await sink.deliver(BATCH)
        except TimeoutError:
            assert driver == "splunk"
        except Rejected as error:
            check_refusal(error)
            places = set(error.messages or ())
        except Away as error:
            check_refusal(error)
        finally:
            await sink.close()

    asyncio.run(deliver())
    assert places <= {0, 1, 2}


@fuzz(mutated(b'{"acks":{"7":true}}', b'{"acks":{"7":false}}'))
def fuzz_index_answer(body: bytes) -> None:
    """Until it is said to be indexed, it isn't."""

    async def wait() -> None:
        sink: Any = make_sink("splunk", make_response(200, body))
        try:
            async with asyncio.timeout(1.0):
                await sink._await_index(7)
        except Away as error:
            check_refusal(error)
        finally:
            await sink.close()

    asyncio.run(wait())


@fuzz(st.tuples(mutated(*JETSTREAM), st.booleans()))
def fuzz_stream_answer(given: tuple[bytes, bool]) -> None:
    """Whatever comes, whoever asked is told something."""
    data, nobody = given

    async def ask() -> None:
        sink = NatsSink(TARGET, parse_place("nats", "nats://localhost/a"))
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sink._asked["inbox.1"] = waiting
        headers = {"Status": "503"} if nobody else None
        await sink._take(Msg(None, "inbox.1", "", data, headers))  # type: ignore[arg-type]
        assert waiting.done()
        if waiting.exception() is None:
            try:
                sink._judge([waiting.result()])
            except (Away, Rejected) as error:
                check_refusal(error)
        await sink._take(Msg(None, "inbox.2", "", data, None))  # type: ignore[arg-type]

    asyncio.run(ask())


@fuzz(mutated_text(CREDENTIALS))
def fuzz_nats_credentials(text: str) -> None:
    found = answer(parse_credentials, text)
    if found is not None:
        assert found.show_token().isascii()
        found.key.public_key().verify(
            base64.urlsafe_b64decode(found.sign("nonce") + b"=="), b"nonce"
        )


@fuzz(st.tuples(st.sampled_from(["journal", "decisions/here"]), mutated(EVENT, ENTRY, b"")))
def fuzz_dead_letter(given: tuple[str, bytes]) -> None:
    source, content = given
    shown = answer(view_letter, DeadLetter("siem", source, 7, NOW, "no room", content))
    assert shown is not None
    assert shown.size == len(content)
    event = answer(revive_event, content)
    if event is not None:
        assert isinstance(event, StoredEvent)
