"""Subscriptions as JSON Lines: one complete value a line, flushed at once, with a reasoned end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from troth.core.clock import Clock
from troth.core.errors import Internal, TrothError, Unavailable
from troth.server.http.exchange import Connection, connection_of, request_id_of
from troth.wire.api.nodes import StreamEnd
from troth.wire.api.routes import JSON_LINES

log = structlog.get_logger(__name__)

START_SECONDS = 1.0
"""After this long without a first value the answer begins, so that a client knows it is heard."""

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_ENDED = Unavailable("The stream ended; open it again from where you are.")
_STOPPING = Unavailable("The server is stopping; open the stream again in a moment.")
_EXPIRED = Unavailable(
    "The certificate of this connection has expired; open the stream again with a new one."
)


class _Gone(Exception):
    """Nobody reads any more."""


@dataclass(slots=True)
class LineStream:
    """An ASGI application that sends the values of one subscription.

    `check` raises when the caller may no longer follow: it is asked before each value. So who is
    cut off gets no value more, and learns why with the next one; subscriptions send a heartbeat
    every 5 s, which is the bound.

    `values` is closed at the end. An error before the answer has begun is raised, to become a
    problem document with its status; a later one becomes the last line, a `StreamEnd`. The stream
    also ends when the client goes, when it doesn't read for `write_seconds`, when its certificate
    expires and when the server stops.
    """

    values: AsyncIterator[Any]
    check: Callable[[], Awaitable[None]]
    clock: Clock
    write_seconds: float
    started: bool = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Send values until the end."""
        connection = connection_of(scope)
        try:
            await self._finish(await self._run(scope, connection, receive, send), send)
        except _Gone:
            if connection is not None:
                connection.abort()

    async def _run(
        self, scope: Any, connection: Connection | None, receive: Receive, send: Send
    ) -> TrothError:
        """Send values; returns the reason for the end."""
        try:
            try:
                return await self._pump(connection, receive, send)
            finally:
                if isinstance(self.values, AsyncGenerator):
                    await self.values.aclose()
        except TrothError as error:
            return error
        except Exception as error:  # an unknown one may not break the framing
            if isinstance(error, _Gone) or not self.started:
                raise
            log.error("stream.broken", request_id=request_id_of(scope), exc_info=error)
            return Internal("The stream broke; the server's log has the reason.")

    async def _pump(
        self, connection: Connection | None, receive: Receive, send: Send
    ) -> TrothError:
        """Send what comes; returns why nothing more does, or raises what the subscription raises.

        Values are taken in this very task, since a generator may hold timeouts of its own; reasons
        to stop from outside interrupt it by moving one deadline to now.
        """
        reasons: list[TrothError | None] = []
        deadline = asyncio.timeout(self._lifetime(connection))

        def stop(reason: TrothError | None) -> None:
            reasons.append(reason)
            deadline.reschedule(0)

        try:
            async with deadline:
                watchers = [
                    asyncio.create_task(_watch_client(receive, stop)),
                    asyncio.create_task(self._start_soon(send)),
                ]
                if connection is not None:
                    watchers.append(asyncio.create_task(_watch_stop(connection, stop)))
                try:
                    async for value in self.values:
                        await self.check()
                        await self._send_line(value, send)
                finally:
                    for watcher in watchers:
                        watcher.cancel()
        except TimeoutError:
            if not deadline.expired():
                raise
            reason = reasons[0] if reasons else _EXPIRED
            if reason is None:
                raise _Gone from None
            return reason
        return _ENDED

    def _lifetime(self, connection: Connection | None) -> float | None:
        if connection is None or connection.not_after is None:
            return None
        return max(0.0, (connection.not_after - self.clock.now()).total_seconds())

    async def _finish(self, reason: TrothError, send: Send) -> None:
        end = StreamEnd(code=reason.code, detail=reason.detail, retryable=reason.retryable)
        if not self.started:
            raise reason
        await self._send_line(end, send, more=False)

    async def _start_soon(self, send: Send) -> None:
        await asyncio.sleep(START_SECONDS)
        await self._start(send)

    async def _start(self, send: Send) -> None:
        if not self.started:
            self.started = True
            await send(_START)

    async def _send_line(self, value: Any, send: Send, *, more: bool = True) -> None:
        line = msgspec.json.encode(value) + b"\n"
        try:
            async with asyncio.timeout(self.write_seconds):
                await self._start(send)
                await send({"type": "http.response.body", "body": line, "more_body": more})
        except TimeoutError as error:
            raise _Gone from error


_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", JSON_LINES.encode())],
}


async def _watch_client(receive: Receive, stop: Callable[[TrothError | None], None]) -> None:
    """Tell when the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    stop(None)


async def _watch_stop(connection: Connection, stop: Callable[[TrothError | None], None]) -> None:
    """Tell when the listener stops."""
    await connection.stopping.wait()
    stop(_STOPPING)
