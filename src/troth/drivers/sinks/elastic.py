"""A sink that is an index or data stream of Elasticsearch, or of OpenSearch, by its bulk API.

Source: Elasticsearch, "Bulk index or delete documents". Each document is created under the
message's id: what is sent again is there already, and stays as it is.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from troth.core.clock import Clock
from troth.drivers.sinks import UNREADABLE, Away, Message, Rejected, Target
from troth.drivers.sinks.place import parse_place
from troth.drivers.sinks.post import LONGEST_REASON, Answer, Poster

MEDIA_TYPE = "application/x-ndjson"
_FILTER = "filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason"
_EXISTS = 409
_REFUSED = (400, 413)


class _Error(msgspec.Struct):
    type: str = ""
    reason: str = ""


class _Item(msgspec.Struct):
    status: int
    error: _Error | None = None


class _Created(msgspec.Struct):
    create: _Item


class _Reply(msgspec.Struct):
    errors: bool
    items: list[_Created]


def open_sink(target: Target, secret: str, clock: Clock) -> ElasticSink:
    """A sink for ``https://HOST:PORT/INDEX``. With a user the secret is a password, else an API
    key as Elasticsearch encodes it."""
    place = parse_place("elastic", target.url)
    headers = {"authorization": _authorize(target.user, secret)} if secret else {}
    return ElasticSink(Poster(target, place, headers), place.path)


class ElasticSink:
    """Implements `Sink`."""

    def __init__(self, poster: Poster, index: str) -> None:
        self._poster = poster
        self._path = f"/{index}/_bulk?{_FILTER}"

    async def deliver(self, batch: Sequence[Message]) -> None:
        """Create a document for each; what the index refuses is told apart by its place."""
        content = b"".join(map(_render, batch))
        answer = await self._poster.post(self._path, content, MEDIA_TYPE)
        if not answer.is_success:
            raise self._poster.refuse(answer)
        reply = self._read(answer, len(batch))
        if not reply.errors:
            return
        refused = {}
        for place, created in enumerate(reply.items):
            item = created.create
            if item.status < 300 or item.status == _EXISTS:
                continue
            reason = _describe(item)
            if item.status not in _REFUSED:
                raise Away(f"{self._poster.where} doesn't take all: {reason}")
            refused[place] = reason
        if refused:
            first = next(iter(refused.values()))
            raise Rejected(f"{self._poster.where} refused {len(refused)}: {first}", refused)

    async def close(self) -> None:
        """Close the connection."""
        await self._poster.close()

    def _read(self, answer: Answer, count: int) -> _Reply:
        try:
            reply = msgspec.json.decode(answer.body, type=_Reply)
        except UNREADABLE as error:
            raise Away(f"{self._poster.where} answers as no bulk API does.") from error
        if len(reply.items) != count:
            raise Away(f"{self._poster.where} told of {len(reply.items)} documents of {count}.")
        return reply


def _authorize(user: str, secret: str) -> str:
    if not user:
        return f"ApiKey {secret}"
    return f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}"


def _render(message: Message) -> bytes:
    action: dict[str, Any] = {"create": {"_id": message.id}}
    moment = message.at.isoformat().encode()
    # A data stream wants the time under this name.
    document = b'{"@timestamp":"%b",%b' % (moment, message.content.removeprefix(b"{"))
    return b"%b\n%b\n" % (msgspec.json.encode(action), document)


def _describe(item: _Item) -> str:
    error = item.error or _Error()
    return f"{item.status}: {error.type}: {error.reason}"[:LONGEST_REASON]
