"""Reading what clients send: bodies within bounds of size, time and nesting, queries, paths."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from litestar import Request

from troth.core.errors import Invalid
from troth.server.http.intake import read_whole, too_large
from troth.server.http.problems import Rejected

MAX_DEPTH = 64
MAX_QUERY_FIELDS = 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Total: a string that isn't closed ends with the body, so that no part of it is looked at twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_OPENING = frozenset(b"[{")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


async def read_body(request: Request[Any, Any, Any], limit: int, seconds: float) -> bytes:
    """The whole JSON body, at most `limit` bytes within `seconds`.

    Raises `TooLarge`, `Rejected` (408, 415) or `Invalid`; what was announced doesn't matter, what
    arrives is counted.
    """
    headers = request.headers
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise too_large(limit)
    try:
        async with asyncio.timeout(seconds):
            body = await read_whole(request.receive, limit)
    except TimeoutError as error:
        raise Rejected(408) from error
    if body:
        _check_media_type(headers.get("content-type", ""), headers.get("content-encoding", ""))
        check_depth(body)
    return body


def refuse_body(request: Request[Any, Any, Any]) -> None:
    """Raise `Invalid` for a GET with a body: who sends one means something that isn't done."""
    headers = request.headers
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise Invalid("A GET has no body here: put the fields into the query.")


def parse_query(raw: bytes) -> dict[str, str]:
    """The fields of a query string; raises `Invalid` for bad UTF-8 and for a field given twice."""
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_QUERY_FIELDS,
        )
    except ValueError as error:  # UnicodeDecodeError among them
        raise Invalid(
            f"The query is not name=value pairs in UTF-8, {MAX_QUERY_FIELDS} at most."
        ) from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid(f"The query has {twice[:80]!r} twice; give it once.")
    return fields


def decode_segments(segments: dict[str, Any]) -> dict[str, str]:
    """Path fields without percent-encoding; raises `Invalid` for bad UTF-8 and control bytes."""
    decoded: dict[str, str] = {}
    for name, raw in segments.items():
        try:
            text = unquote_to_bytes(str(raw)).decode()
        except UnicodeDecodeError as error:
            raise Invalid(f"'{name}' in the path is not UTF-8.") from error
        if _CONTROL.search(text):
            raise Invalid(f"'{name}' in the path has a control character.")
        decoded[name] = text
    return decoded


def check_depth(body: bytes) -> None:
    """Raise `Invalid` for JSON nested deeper than anything that means something."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    if b"\\" in body:
        bare = _STRING.sub(b"", body)
    else:
        bare = b"".join(body.split(b'"')[::2])  # every other piece stands between quotes
    if _deepest(bare.translate(None, _NO_BRACKETS)) > MAX_DEPTH:
        raise Invalid(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _deepest(brackets: Sequence[int]) -> int:
    depth = deepest = 0
    for bracket in brackets:
        if bracket in _OPENING:
            depth += 1
            if depth > deepest:
                deepest = depth
                if deepest > MAX_DEPTH:
                    break
        else:
            depth -= 1
    return deepest


def _check_media_type(media_type: str, encoding: str) -> None:
    kind, _, parameters = media_type.partition(";")
    charset = parameters.strip().lower()
    if (
        kind.strip().lower() != "application/json"
        or (charset and charset not in ("charset=utf-8", 'charset="utf-8"'))
        or encoding.strip().lower() not in ("", "identity")
    ):
        raise Rejected(415)
