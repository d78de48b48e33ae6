"""A sink that is a topic of Kafka, or of whatever speaks its protocol.

Source: Apache Kafka documentation, "Producer Configs" (``acks``, ``enable.idempotence``) and
"Protocol" (error codes). The producer is idempotent and waits for all replicas in step. All
messages of a source have one key and so one partition, in which they are in order; where the
number of partitions is changed, a new order begins in another one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from troth.core.clock import Clock
from troth.drivers.sinks import Away, Message, Rejected, Slow, Target
from troth.drivers.sinks.place import Place, parse_place
from troth.drivers.sinks.tls import make_context

ID = "troth_id"
"""The header with the message's id."""
STOP_SECONDS = 1.0
LARGEST = 17 << 20
"""Bytes that the client itself allows a message; the broker may allow less."""
REFUSED = (InvalidTimestampError, MessageSizeTooLargeError, RecordListTooLargeError)
"""Errors that are about a message, and not about the broker."""


def open_sink(target: Target, secret: str, clock: Clock) -> KafkaSink:
    """A sink for ``kafka+tls://HOST:PORT,HOST:PORT/TOPIC``. User and secret are for SASL/PLAIN."""
    return KafkaSink(target, parse_place("kafka", target.url), secret)


class KafkaSink:
    """Implements `Sink`."""

    def __init__(self, target: Target, place: Place, secret: str = "") -> None:
        self._target = target
        self._place = place
        self._secret = secret
        self._producer: AIOKafkaProducer | None = None
        self._ending: set[asyncio.Future[None]] = set()

    async def deliver(self, batch: Sequence[Message]) -> None:
        """Send all, and wait until every replica in step has them."""
        try:
            async with asyncio.timeout(self._target.timeout):
                producer = await self._connect()
                # In the order of these calls; what is under way at once, the client bounds.
                waits = [await self._send(producer, message) for message in batch]
                await producer.flush()
            for error in filter(None, [wait.exception() for wait in waits]):
                raise error  # the first: those behind it follow from it
        except TimeoutError as error:
            raise Slow(f"{self._where} doesn't answer.") from error
        except REFUSED as error:
            await self.close()  # its numbers have a gap, after which the broker takes nothing
            raise Rejected(f"{self._where} refused it: {_describe(error)}") from error
        except (KafkaError, OSError) as error:
            raise Away(f"{self._where} doesn't take it: {_describe(error)}.") from error

    async def close(self) -> None:
        """Close the connections; what is under way is given up."""
        producer, self._producer = self._producer, None
        if producer is not None:
            # It waits for what it can't send, until that is too old: that long, nobody else does.
            ending = asyncio.ensure_future(_stop(producer))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            await asyncio.wait([ending], timeout=STOP_SECONDS)

    @property
    def _where(self) -> str:
        return ", ".join(self._place.render_hosts())

    async def _connect(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._place.render_hosts(),
                client_id=f"troth-{self._target.name}",
                acks="all",
                enable_idempotence=True,
                max_request_size=LARGEST,
                request_timeout_ms=int(self._target.timeout * 1000),
                retry_backoff_ms=500,
                **self._identify(),
            )
            self._producer = producer
            await producer.start()
        return self._producer

    def _identify(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "security_protocol": "SSL" if self._place.secure else "PLAINTEXT"
        }
        if self._place.secure:
            options["ssl_context"] = self._make_tls()
        if self._target.user:
            options["security_protocol"] = "SASL_SSL" if self._place.secure else "SASL_PLAINTEXT"
            options["sasl_mechanism"] = "PLAIN"
            options["sasl_plain_username"] = self._target.user
            options["sasl_plain_password"] = self._secret
        return options

    def _make_tls(self) -> ssl.SSLContext:
        return make_context(self._target)

    async def _send(self, producer: AIOKafkaProducer, message: Message) -> asyncio.Future[Any]:
        sent: asyncio.Future[Any] = await producer.send(
            self._place.path,
            message.content,
            key=message.source.encode(),
            timestamp_ms=int(message.at.timestamp() * 1000),
            headers=[(ID, message.id.encode())],
        )
        sent.add_done_callback(_look)
        return sent


def _look(sent: asyncio.Future[Any]) -> None:
    """Take note of an error that may come when nobody waits any more."""
    if not sent.cancelled():
        sent.exception()


async def _stop(producer: AIOKafkaProducer) -> None:
    with suppress(KafkaError, OSError):
        await producer.stop()


def _describe(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return " ".join(text.split())[:300]
