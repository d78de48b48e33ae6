"""A sink that is Splunk's HTTP Event Collector (HEC).

Source: Splunk Enterprise, "Getting Data In": "Format events for HTTP Event Collector",
"Troubleshoot HTTP Event Collector" (codes) and "About HTTP Event Collector Indexer Acknowledgment".
Where acknowledgment is on, a batch is delivered once it is indexed; else once the collector took
it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import msgspec

from troth.core.clock import Clock
from troth.drivers.sinks import UNREADABLE, Away, Message, Target
from troth.drivers.sinks.place import parse_place
from troth.drivers.sinks.post import Answer, Poster

PATH = "/services/collector/event"
ACK_PATH = "/services/collector/ack"
MEDIA_TYPE = "application/json"
POLL_SECONDS = 0.25
REFUSED_EVENTS = frozenset({6, 12, 13, 15})
"""Codes that are about an event: its format, and its fields."""


class _Reply(msgspec.Struct):
    """What the collector answers; what else it says doesn't matter."""

    code: int = -1
    text: str = ""
    ack_id: int | None = msgspec.field(default=None, name="ackId")


class _Acks(msgspec.Struct):
    acks: dict[str, bool]


def open_sink(target: Target, secret: str, clock: Clock) -> SplunkSink:
    """A sink for the collector at ``https://HOST:PORT``; the secret is its token."""
    place = parse_place("splunk", target.url)
    headers = {"authorization": f"Splunk {secret}", "x-splunk-request-channel": _name(target)}
    poster = Poster(target, place, headers)
    return SplunkSink(target, poster, f"/{place.path}" if place.path else PATH)


class SplunkSink:
    """Implements `Sink`."""

    def __init__(self, target: Target, poster: Poster, path: str = PATH) -> None:
        self._host = target.host
        self._poster = poster
        self._path = path

    async def deliver(self, batch: Sequence[Message]) -> None:
        """Post it, and wait until it is indexed if the collector promises to tell."""
        content = b"\n".join(map(self._render, batch))
        answer = await self._poster.post(self._path, content, MEDIA_TYPE)
        reply = _read(answer)
        if not answer.is_success:
            if reply is not None and answer.status == 400 and reply.code not in REFUSED_EVENTS:
                # An unknown index, a missing channel: whatever is sent, it will say so.
                raise Away(f"{self._poster.where} answered {answer.describe()}")
            raise self._poster.refuse(answer)
        if reply is None or reply.code != 0:
            raise Away(f"{self._poster.where} answers as no event collector: {answer.describe()}")
        if reply.ack_id is not None:
            await self._await_index(reply.ack_id)

    async def close(self) -> None:
        """Close the connection."""
        await self._poster.close()

    async def _await_index(self, number: int) -> None:
        """Ask until it is indexed; whoever calls doesn't wait for ever."""
        question = msgspec.json.encode({"acks": [number]})
        while True:
            answer = await self._poster.post(ACK_PATH, question, MEDIA_TYPE)
            if not answer.is_success:
                raise Away(f"{self._poster.where} answered {answer.describe()}")
            try:
                found = msgspec.json.decode(answer.body, type=_Acks)
            except UNREADABLE as error:
                raise Away(f"{self._poster.where} answered {answer.describe()}") from error
            if found.acks.get(str(number)):
                return
            await asyncio.sleep(POLL_SECONDS)

    def _render(self, message: Message) -> bytes:
        head = msgspec.json.encode(
            {
                "time": round(message.at.timestamp(), 6),
                "host": self._host,
                "source": f"troth:{message.source}",
                "sourcetype": "_json",
                "fields": {"troth_id": message.id},
            }
        )
        return b'%b,"event":%b}' % (head[:-1], message.content)


def _read(answer: Answer) -> _Reply | None:
    try:
        return msgspec.json.decode(answer.body, type=_Reply)
    except UNREADABLE:
        return None


def _name(target: Target) -> str:
    """The channel: a GUID, the same for this sink always."""
    text = hashlib.sha256(f"{target.host} {target.name} {target.url}".encode()).hexdigest()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}"
