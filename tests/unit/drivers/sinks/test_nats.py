"""What counts as a stream's word, and what is somebody else's."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg

from tests.fakes.messages import make_messages, read_number
from tests.fakes.natsoperator import NatsOperator
from tests.fakes.natsserver import SUBJECT, NatsServer
from troth.core.clock import SystemClock
from troth.core.errors import Invalid
from troth.drivers.sinks import Away, Target
from troth.drivers.sinks.nats import open_sink
from troth.drivers.sinks.natscredentials import parse_credentials

STORED = b'{"stream":"TROTH","seq":7}'
NONE_OF_JETSTREAM = [
    b"{}",
    b"+OK",
    b"",
    b'{"ok":true}',
    b'{"seq":7}',
    b'{"stream":"TROTH"}',
    b'{"stream":"","seq":7}',
    b'{"stream":"TROTH","seq":0}',
]
"""The publish acknowledgement has the stream's name and the sequence (NATS, "Publish
Acknowledgement")."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path_factory.mktemp("nats") / "server")
    made.start()
    yield made
    made.stop()


def deliver(server: NatsServer, *answers: bytes) -> None:
    """To somebody who isn't a stream, and answers each message in turn."""

    async def main() -> None:
        client = await nats.connect(f"nats://localhost:{server.port}")
        left = list(answers)

        async def answer(message: Msg) -> None:
            await message.respond(left.pop(0))

        sink = open_sink(Target("siem", server.url, timeout=5.0), "", SystemClock())
        try:
            await client.subscribe(SUBJECT, cb=answer)
            await client.flush()
            await sink.deliver(make_messages(len(answers)))
        finally:
            await sink.close()
            await client.close()

    asyncio.run(main())


@pytest.mark.parametrize("answer", NONE_OF_JETSTREAM)
def test_an_answer_that_names_no_stream_stores_nothing(server: NatsServer, answer: bytes):
    with pytest.raises(Away, match="none of JetStream"):
        deliver(server, STORED, answer, STORED)


def test_one_that_names_it_does(server: NatsServer):
    deliver(server, STORED, b'{"stream":"TROTH","seq":7,"duplicate":true,"domain":"hub"}')


def test_credentials_are_a_login_and_a_wrong_seed_is_none(tmp_path: Path):
    operator, stranger = NatsOperator(), NatsOperator()
    server = NatsServer(tmp_path / "nats", operator=operator)
    server.start()

    async def send(secret: str) -> None:
        sink = open_sink(Target("siem", server.url, timeout=5.0), secret, SystemClock())
        try:
            await sink.deliver(make_messages(3))
        finally:
            await sink.close()

    try:
        server.add_stream()
        asyncio.run(send(operator.credentials))
        assert [read_number(one) for one in server.list_contents()] == [1, 2, 3]
        for odd in (
            stranger.credentials,
            operator.credentials.replace(operator.seed, stranger.seed),
        ):
            with pytest.raises(Away):
                asyncio.run(send(odd))
    finally:
        server.stop()


def test_a_seed_is_read_as_its_makers_write_it():
    seed = "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLM"  # nats-io/jwt
    operator = NatsOperator()
    found = parse_credentials(operator.credentials.replace(operator.seed, seed))
    raw = base64.b32decode(seed + "=" * 6)
    assert found.key.private_bytes_raw() == raw[2:-2]


def test_a_file_that_is_cut_off_is_no_file_of_credentials():
    whole = NatsOperator().credentials
    seed = NatsOperator().seed
    end = whole.index("------END USER")
    for odd in (
        whole[:end],
        whole[: end - 2] + whole[end - 1 :],
        whole.replace("BEGIN USER NKEY", "BEGIN ACCOUNT NKEY"),
        whole.replace("-----BEGIN USER NKEY SEED-----\n", "-----BEGIN USER NKEY SEED-----\nA"),
    ):
        with pytest.raises(Invalid) as raised:
            parse_credentials(odd)
        assert "eyJ" not in raised.value.detail
        assert seed not in raised.value.detail
    assert parse_credentials(whole.replace("\n", "\r\n")).token in whole
    assert "eyJ" not in repr(parse_credentials(whole))
