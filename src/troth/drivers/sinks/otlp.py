"""A sink that is an OpenTelemetry collector, or whatever takes OTLP logs: over HTTP, in JSON.

Source: OTLP Specification 1.x, "OTLP/HTTP". A collector that takes a part of a batch says how many
records it refused and not which. So the batch is cut and sent again in parts, until it is known
which one it was; what it has already, it knows by ``log.record.uid``. A status that the
specification calls final, but that is about the collector and not about the records, is waited out:
an audit trail has no records to drop.
"""

from __future__ import annotations

from collections.abc import Sequence

from troth.core.clock import Clock
from troth.core.errors import Invalid
from troth.drivers.sinks import Away, Message, Rejected, Target
from troth.drivers.sinks.place import parse_place
from troth.drivers.sinks.post import LONGEST_REASON, Poster
from troth.wire import otlp_logs
from troth.wire.otlp import MEDIA_TYPE

HEADER = "authorization"


def open_sink(target: Target, secret: str, clock: Clock) -> OtlpSink:
    """A sink for the collector at ``https://HOST:PORT``. The secret is a bearer token, if there is
    one."""
    place = parse_place("otlp", target.url)
    headers = {HEADER: f"Bearer {secret}"} if secret else {}
    return OtlpSink(target, Poster(target, place, headers), place.path)


class OtlpSink:
    """Implements `Sink`."""

    def __init__(self, target: Target, poster: Poster, path: str = "") -> None:
        self._poster = poster
        self._path = f"/{path}" if path else otlp_logs.PATH
        self._resource = {
            "service.name": "troth-server",
            "service.version": target.version,
            "host.name": target.host,
        }

    async def deliver(self, batch: Sequence[Message]) -> None:
        """Post it."""
        content = otlp_logs.render_records(
            list(map(_render, batch)), scope="troth", resource=self._resource
        )
        answer = await self._poster.post(self._path, content, MEDIA_TYPE)
        if not answer.is_success:
            raise self._poster.refuse(answer)
        if not answer.body:
            # The specification wants 200 and a message, and leaves all else to HTTP, by which any
            # 2xx is a success. Receivers exist that answer 204, or an empty message in protobuf.
            return
        try:
            count, words = otlp_logs.read_rejections(answer.body)
        except Invalid as error:
            raise Away(f"{self._poster.where} answers as no OTLP receiver does.") from error
        if count:
            reason = words[:LONGEST_REASON] or "no reason given"
            raise Rejected(f"{self._poster.where} refused {count} of {len(batch)}: {reason}")

    async def close(self) -> None:
        """Close the connection."""
        await self._poster.close()


def _render(message: Message) -> otlp_logs.LogRecord:
    return otlp_logs.render_record(
        message.at,
        message.severity,
        message.type,
        message.content.decode("utf-8", "replace"),
        message.id,
        {"troth.source": message.source},
    )
