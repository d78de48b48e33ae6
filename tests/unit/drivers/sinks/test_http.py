from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from tests.fakes.httpreceivers import (
    TOKEN,
    FakeElastic,
    FakeOtlp,
    FakeSplunk,
    HttpReceiver,
    make_response,
)
from tests.fakes.messages import make_messages
from troth.core.clock import SystemClock, VirtualClock
from troth.core.entropy import SeededEntropy
from troth.drivers.sinks import Away, Rejected, Sink, Target, load_driver
from troth.drivers.sinks.place import parse_place
from troth.drivers.sinks.post import LARGEST_ANSWER, Poster
from troth.drivers.sinks.splunk import SplunkSink
from troth.operations.outlet import Outlet

Trial = Callable[[Sink], Coroutine[Any, Any, None]]


def use(driver: str, receiver: HttpReceiver, test: Trial, **fields: Any) -> None:
    receiver.start()
    url = receiver.url + ("/troth" if driver == "elastic" else "")
    target = Target("siem", url, timeout=5.0, **fields)

    async def main() -> None:
        sink = load_driver(driver)(target, TOKEN, SystemClock())
        try:
            await test(sink)
        finally:
            await sink.close()

    try:
        asyncio.run(main())
    finally:
        receiver.stop()


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 502, 503, 301])
@pytest.mark.parametrize(
    ("driver", "make"), [("splunk", FakeSplunk), ("elastic", FakeElastic), ("otlp", FakeOtlp)]
)
def test_what_isn_t_about_the_messages_is_waited_out(driver, make, status):
    receiver = make()
    receiver.status = status
    receiver.headers = {"retry-after": "17", "location": "http://elsewhere.example.org/"}

    async def test(sink: Sink) -> None:
        with pytest.raises(Away, match=str(status)) as raised:
            await sink.deliver(make_messages(2))
        assert raised.value.retry_after == 17.0

    use(driver, receiver, test, user="troth")


@pytest.mark.parametrize("status", [413, 422])
def test_what_is_about_the_batch_is_a_refusal_of_it_as_a_whole(status):
    receiver = FakeOtlp()
    receiver.status = status

    async def test(sink: Sink) -> None:
        with pytest.raises(Rejected) as raised:
            await sink.deliver(make_messages(2))
        assert raised.value.messages is None

    use("otlp", receiver, test)


def test_splunk_is_asked_until_a_batch_is_indexed():
    receiver = FakeSplunk(acks=True)

    async def test(sink: Sink) -> None:
        await sink.deliver(make_messages(2))
        await sink.deliver(make_messages(2, 3))

    use("splunk", receiver, test)
    assert receiver.numbers == [1, 2, 3, 4]
    assert len([one for one in receiver.requests if one.startswith(b'{"acks"')]) == 4


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (6, Rejected),
        (12, Rejected),
        (13, Rejected),
        (15, Rejected),
        (7, Away),
        (10, Away),
        (5, Away),
    ],
)
def test_splunk_s_codes_tell_messages_from_configuration(code, error, monkeypatch):
    receiver = FakeSplunk()
    monkeypatch.setattr(receiver, "take", lambda body: (400, {"text": "no", "code": code}))

    async def test(sink: Sink) -> None:
        with pytest.raises(error):
            await sink.deliver(make_messages(1))

    use("splunk", receiver, test)


def test_elastic_names_what_it_refuses_and_takes_the_rest():
    receiver = FakeElastic()
    receiver.refused = {2, 4}

    async def test(sink: Sink) -> None:
        with pytest.raises(Rejected) as raised:
            await sink.deliver(make_messages(5))
        assert raised.value.messages == {
            1: "400: document_parsing_exception: no 2",
            3: "400: document_parsing_exception: no 4",
        }

    use("elastic", receiver, test, user="troth")
    assert receiver.numbers == [1, 3, 5]


def test_elastic_that_is_busy_gets_it_again_and_has_it_once():
    receiver = FakeElastic()
    receiver.busy = True
    receiver.refused = {2}

    async def test(sink: Sink) -> None:
        with pytest.raises(Away, match="429"):
            await sink.deliver(make_messages(6))
        receiver.busy = False
        with pytest.raises(Rejected):
            await sink.deliver(make_messages(6))

    use("elastic", receiver, test, user="troth")
    assert sorted(receiver.numbers) == [1, 3, 4, 5, 6]


def test_an_api_key_is_shown_where_there_is_no_user():
    receiver = FakeElastic()
    receiver.authorization = f"ApiKey {TOKEN}"

    async def test(sink: Sink) -> None:
        await sink.deliver(make_messages(1))

    use("elastic", receiver, test)
    assert receiver.numbers == [1]


@pytest.mark.parametrize("secret", ["hunter2\nhunter3", "hunter2\x00x", "hunter2\tx", "hunter2é"])
@pytest.mark.parametrize("driver", ["splunk", "elastic", "otlp"])
def test_a_secret_that_is_no_header_is_told_nowhere(driver, secret, caplog, capsys):
    url = "http://localhost:1/troth" if driver == "elastic" else "http://localhost:1"
    target = Target("siem", url, timeout=5.0)
    outlet = Outlet(target, driver, VirtualClock(), SeededEntropy(), lambda: secret)
    outcome = asyncio.run(outlet.send(make_messages(1)))
    assert "can't be an HTTP header" in outcome.trouble
    told = outcome.trouble + caplog.text + "".join(capsys.readouterr())
    assert "hunter2" not in told
    assert "Traceback" not in told


ODD = [b" ", b"<html>", b"[]", b'{"partialSuccess":1}', b"\xff"]
"""OTLP ignores fields that it doesn't know, as its specification demands."""


@pytest.mark.parametrize(
    ("driver", "body"),
    [(driver, body) for driver in ("splunk", "elastic", "otlp") for body in ODD]
    + [("splunk", b""), ("elastic", b"")]
    + [("splunk", b'{"code":1}'), ("splunk", b"{}"), ("elastic", b'{"errors":false}')]
    + [("elastic", b'{"errors":false,"items":[]}')],
)
def test_an_answer_of_something_else_is_no_delivery(driver, body):
    def answer(request: httpx.Request) -> httpx.Response:
        return make_response(200, body)

    async def main() -> None:
        sink = make_sink(driver, httpx.MockTransport(answer))
        with pytest.raises(Away):
            await sink.deliver(make_messages(2))
        await sink.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b""), (204, b""), (202, b"{}"), (202, b""), (200, b'{"partialSuccess":{}}')],
)
def test_an_otlp_receiver_may_answer_any_success_and_say_nothing(status, body):
    def answer(request: httpx.Request) -> httpx.Response:
        return make_response(status, body)

    async def main() -> None:
        sink = make_sink("otlp", httpx.MockTransport(answer))
        await sink.deliver(make_messages(2))
        await sink.close()

    asyncio.run(main())


def make_sink(driver: str, transport: httpx.AsyncBaseTransport) -> Any:
    from troth.drivers.sinks.elastic import ElasticSink
    from troth.drivers.sinks.otlp import OtlpSink

    target = Target("siem", "http://localhost:1", timeout=5.0)
    poster = Poster(target, parse_place("otlp", target.url), {}, transport)
    if driver == "elastic":
        return ElasticSink(poster, "troth")
    return SplunkSink(target, poster) if driver == "splunk" else OtlpSink(target, poster)


def test_an_answer_without_end_is_given_up():
    sent = 0

    async def stream() -> Any:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield b"x" * (1 << 16)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=stream())

    async def main() -> None:
        sink = make_sink("otlp", httpx.MockTransport(answer))
        with pytest.raises(Away, match="without end"):
            await sink.deliver(make_messages(1))
        await sink.close()

    asyncio.run(main())
    assert sent <= LARGEST_ANSWER + (2 << 16)


def test_a_connection_that_is_cut_is_no_delivery():
    receiver = FakeSplunk()
    receiver.cut = 100

    async def test(sink: Sink) -> None:
        with pytest.raises(Away):
            await sink.deliver(make_messages(50))

    use("splunk", receiver, test)
    assert receiver.numbers == []


def test_what_a_receiver_says_is_shown_in_one_printable_line():
    receiver = FakeOtlp()
    receiver.status = 503

    async def test(sink: Sink) -> None:
        with pytest.raises(Away) as raised:
            await sink.deliver(make_messages(1))
        assert raised.value.detail.isprintable()
        assert len(raised.value.detail) < 500
        assert TOKEN not in raised.value.detail

    use("otlp", receiver, test)


def test_every_document_for_splunk_has_its_time_and_id():
    receiver = FakeSplunk()

    async def test(sink: Sink) -> None:
        await sink.deliver(make_messages(2))

    use("splunk", receiver, test, host="troth.example.org")
    first, second = (json.loads(line) for line in receiver.requests[0].splitlines())
    assert first["time"] == 1767268800.124456
    assert first["host"] == "troth.example.org"
    assert first["source"] == "troth:journal"
    assert [one["fields"]["troth_id"] for one in (first, second)] == [
        one.id for one in make_messages(2)
    ]
