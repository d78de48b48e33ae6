"""A sink that is a subject of NATS JetStream, in whose stream a message stays.

Source: nats-io/nats-architecture-and-design, ADR-4 (headers), and the NATS documentation,
"JetStream wire API reference" (error codes), "Publish Acknowledgement" and "JetStream headers".

The messages of a batch are on their way together, and each names the one before it, which must be
the stream's last: so none is stored if that before it was lost. In a stream that others publish to
as well that isn't so, and then each message waits for the last one's answer. What the stream has
already, it knows by the message's id, for as long as its duplicate window lasts.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from troth.core.clock import Clock
from troth.drivers.sinks import UNREADABLE, Away, Message, Rejected, Slow, Target
from troth.drivers.sinks.natscredentials import BEGINNING, parse_credentials
from troth.drivers.sinks.place import Place, parse_place
from troth.drivers.sinks.tls import make_context

MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_LAST = "Nats-Expected-Last-Msg-Id"
NO_RESPONDERS = "503"
"""The status of an answer to what nobody takes (ADR-4)."""
NOT_LAST = 10_070
"""The error code where another message stands last than was expected."""
TOO_LARGE = 10_054
"""The one for what is larger than the stream takes."""
WINDOW = 128
"""Messages that are on their way at once."""
HEADERS = 1024
"""Bytes that headers may take of what the server takes in all."""


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    """To one message: an error, or where it is stored."""

    error: _Error | None = None
    stream: str = ""
    seq: int = 0

    @property
    def is_stored(self) -> bool:
        """Whether a stream says so; others may listen to the subject and answer as well."""
        return self.error is None and bool(self.stream) and self.seq > 0


_STRANGE = _Error(description="an answer that is none of JetStream")


def open_sink(target: Target, secret: str, clock: Clock) -> NatsSink:
    """A sink for ``tls://HOST:PORT/SUBJECT``. With a user the secret is a password, else a token,
    or the content of a credentials file."""
    return NatsSink(target, parse_place("nats", target.url), secret)


class NatsSink:
    """Implements `Sink`. Its connection isn't renewed by itself: whoever calls opens another."""

    def __init__(self, target: Target, place: Place, secret: str = "") -> None:
        self._target = target
        self._place = place
        self._secret = secret
        self._credentials = parse_credentials(secret) if BEGINNING in secret else None
        self._client: Client | None = None
        self._inbox = ""
        self._asked: dict[str, asyncio.Future[_Answer]] = {}
        self._count = 0
        self._alone = True
        """Whether nobody else seems to publish to the stream."""

    async def deliver(self, batch: Sequence[Message]) -> None:
        """Publish all, and wait until the stream has stored them."""
        client = await self._connect()
        self._check_sizes(client, batch)
        start, last = 0, ""
        while start < len(batch):
            part = batch[start : start + (WINDOW if self._alone else 1)]
            if await self._publish(client, part, last):
                start += len(part)
                last = part[-1].id
            else:
                self._alone = False  # again, one by one

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(nats.errors.Error, OSError, TimeoutError):
                await asyncio.wait_for(client.close(), self._target.timeout)

    @property
    def _where(self) -> str:
        return ", ".join(self._place.render_hosts())

    async def _connect(self) -> Client:
        if self._client is not None and self._client.is_connected:
            return self._client
        await self.close()
        client = self._client = Client()
        scheme = "tls" if self._place.secure else "nats"
        try:
            async with asyncio.timeout(self._target.timeout):
                await client.connect(
                    servers=[f"{scheme}://{host}" for host in self._place.render_hosts()],
                    name=f"troth sink {self._target.name}",
                    tls=self._make_tls(),
                    allow_reconnect=False,
                    max_reconnect_attempts=1,  # of the first connection; 0 would be for ever
                    reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds, fractions too
                    error_cb=_ignore,
                    closed_cb=self._lose,
                    disconnected_cb=self._lose,
                    **self._identify(),
                )
                self._inbox = client.new_inbox()
                await client.subscribe(f"{self._inbox}.*", cb=self._take)
        except TimeoutError as error:
            raise Away(f"{self._where} doesn't answer.") from error
        except (OSError, nats.errors.Error) as error:
            raise Away(f"{self._where} can't be reached: {_describe(error)}.") from error
        return client

    def _make_tls(self) -> ssl.SSLContext | None:
        return make_context(self._target) if self._place.secure else None

    def _identify(self) -> dict[str, Any]:
        if not self._secret:
            return {}
        if self._target.user:
            return {"user": self._target.user, "password": self._secret}
        if self._credentials is not None:
            known = self._credentials
            return {"user_jwt_cb": known.show_token, "signature_cb": known.sign}
        return {"token": self._secret}

    def _check_sizes(self, client: Client, batch: Sequence[Message]) -> None:
        """Before anything is sent: the server closes the connection of who sends more."""
        most = client.max_payload - HEADERS
        if all(len(message.content) <= most for message in batch):
            return
        if len(batch) > 1:
            raise Rejected("Something in it is too large.")
        size = len(batch[0].content)
        raise Rejected(f"It has {size} bytes, and {self._where} takes at most {most}.")

    async def _publish(self, client: Client, part: Sequence[Message], last: str) -> bool:
        """Whether all are stored; False if one doesn't follow the one before it."""
        answers: list[asyncio.Future[_Answer]] = []
        try:
            async with asyncio.timeout(self._target.timeout):
                for message in part:
                    headers = {MESSAGE_ID: message.id}
                    if last and self._alone:
                        headers[EXPECTED_LAST] = last
                    answers.append(await self._ask(client, message.content, headers))
                    last = message.id
                await asyncio.gather(*answers)
        except TimeoutError as error:
            waited = self._target.timeout
            raise Slow(f"{self._where} stood still for {waited:g} seconds.") from error
        except (OSError, nats.errors.Error) as error:
            raise Away(f"{self._where} went away: {_describe(error)}.") from error
        finally:
            for answer in answers:
                answer.cancel()
            self._asked.clear()
        return self._judge([answer.result() for answer in answers])

    async def _ask(
        self, client: Client, content: bytes, headers: dict[str, str]
    ) -> asyncio.Future[_Answer]:
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._count += 1
        reply = f"{self._inbox}.{self._count}"
        self._asked[reply] = answer
        await client.publish(self._place.path, content, reply, headers)
        return answer

    def _judge(self, answers: Sequence[_Answer]) -> bool:
        """By the first error: those behind it follow from it."""
        failed = next((one for one in answers if not one.is_stored), None)
        if failed is None:
            return True
        error = failed.error or _STRANGE
        if error.err_code == NOT_LAST:
            return False
        reason = f"{self._where} answered: {error.description} ({error.err_code})."
        raise Rejected(reason) if error.err_code == TOO_LARGE else Away(reason)

    async def _take(self, message: Msg) -> None:
        """An answer came in."""
        answer = self._asked.get(message.subject)
        if answer is None or answer.done():
            return
        if (message.headers or {}).get("Status") == NO_RESPONDERS:
            answer.set_exception(nats.errors.NoRespondersError())
            return
        try:
            answer.set_result(msgspec.json.decode(message.data, type=_Answer))
        except UNREADABLE:
            answer.set_result(_Answer(_STRANGE))

    async def _lose(self) -> None:
        """The connection is gone, and with it whatever was asked."""
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(nats.errors.ConnectionClosedError())


async def _ignore(error: Exception) -> None:
    """Errors reach whoever publishes; there is nobody else to be told."""


def _describe(error: Exception) -> str:
    if isinstance(error, nats.errors.NoRespondersError):
        return "no stream takes this subject"
    return str(error).removeprefix("nats: ") or type(error).__name__
