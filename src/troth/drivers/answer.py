"""Answers of somebody else's HTTP server: taken whole, within bounds, as they were asked for."""

from __future__ import annotations

import httpx

from troth.core.errors import Invalid, TooLarge

LONGEST_REASON = 200


async def read_answer(response: httpx.Response, limit: int) -> bytes:
    """The body as it was sent, at most `limit` bytes, some KiB; the caller bounds the time.

    Raises `Invalid` for a redirect, which nobody follows, and for an encoding, which could make a
    large body of a small one; `TooLarge` for more.
    """
    if response.is_redirect:
        raise Invalid("It answers with a redirect, which isn't followed: write the final URL.")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise Invalid("It answers in a content encoding that wasn't asked for.")
    found = bytearray()
    async for piece in response.aiter_raw():
        found += piece
        if len(found) > limit:
            raise TooLarge(f"It answers with more than {limit >> 10} KiB.")
    return bytes(found)


def tell_reason(error: Exception) -> str:
    """Why there is no answer, in one printable line."""
    reason = str(error) or type(error).__name__
    return "".join(c if c.isprintable() else " " for c in reason)[:LONGEST_REASON]
