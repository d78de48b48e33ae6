"""RFC 9457 problem documents, with a stable `code` and a `request_id`."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from troth.core.errors import Unavailable

MEDIA_TYPE = "application/problem+json"


class Problem(Struct, frozen=True, kw_only=True):
    """What went wrong (RFC 9457, section 3.1); `detail` says what to change."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    code: str = "internal"
    request_id: str = ""
    retryable: bool = False


class Unreachable(Unavailable):
    """Nothing answered: nobody listens there, is not trusted, or the connection broke."""


def parse_problem(body: bytes) -> Problem | None:
    """The problem in `body`, or None if it isn't one."""
    try:
        return msgspec.json.decode(body, type=Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
