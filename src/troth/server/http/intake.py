"""Bodies: read whole, within bounds of size and time, without a framework's request in between."""

from __future__ import annotations

import asyncio
from typing import Any

from troth.core.errors import Invalid, TooLarge


async def read_all(receive: Any, seconds: float, limit: int) -> bytes:
    """The whole body, at most `limit` bytes within `seconds`; 0 where it is known to be there: a
    timer costs more than to read it."""
    if seconds <= 0:
        message = await receive()
    else:
        try:
            async with asyncio.timeout(seconds):
                message = await receive()
        except TimeoutError as error:
            raise _too_slow() from error
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        return body
    try:
        async with asyncio.timeout(seconds):
            return await read_whole(receive, limit, message)
    except TimeoutError as error:
        raise _too_slow() from error


async def read_whole(receive: Any, limit: int, message: Any = None) -> bytes:
    """The whole body, at most `limit` bytes; `message` is its first part if that was received.

    Raises `TooLarge`, or `Invalid` if it ends before it is complete. The caller bounds the time.
    """
    body = bytearray()
    while True:
        message = message or await receive()
        if message["type"] != "http.request":
            raise Invalid("The body ended before it was complete.")
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)
        message = None


def too_large(limit: int) -> TooLarge:
    """The error for a body of more than `limit` bytes."""
    return TooLarge(f"The body has more than {limit:,} bytes; send less at once.")


def _too_slow() -> Invalid:
    return Invalid("The body took too long to arrive; send it again, faster.")
