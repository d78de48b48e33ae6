"""What counts as a stream's word, and what is somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import nats
import pytest
from nats.aio.msg import Msg

from tests.fakes.messages import make_messages
from tests.fakes.natsserver import SUBJECT, NatsServer
from troth.core.clock import SystemClock
from troth.drivers.sinks import Away, Target
from troth.drivers.sinks.nats import open_sink

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
