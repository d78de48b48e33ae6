"""The log for anybody: checkpoint, tiles and entries (C2SP tlog-tiles), and its public keys.

Details aren't served here: entries commit to them and tell nothing of persons.
"""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from troth.archive.tiles import KEYS, LogFolder
from troth.audit.tile import Kind, parse_name
from troth.core.errors import Invalid, NotFound
from troth.operations.log import read_checkpoint
from troth.server.http.documents import answer_document, serve_document

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
MUTABLE_AGE = 1
"""Seconds ("its headers SHOULD prevent caching beyond a few seconds")."""
IMMUTABLE_AGE = 31_536_000
"""Seconds: a year ("its caching headers SHOULD be long-lived")."""
PREFIX = "/log/"


def make_handlers(folder: LogFolder) -> list[HTTPRouteHandler]:
    """Handlers below ``/log/``."""

    async def show_checkpoint(request: Request[Any, Any, Any]) -> ASGIApp:
        note = await asyncio.to_thread(read_checkpoint, folder)
        return answer_document(note, TEXT, max_age=MUTABLE_AGE)

    async def show_keys(request: Request[Any, Any, Any]) -> ASGIApp:
        keys = await asyncio.to_thread(folder.read, KEYS)
        return answer_document(keys, TEXT, max_age=MUTABLE_AGE)

    async def show_tile(request: Request[Any, Any, Any]) -> ASGIApp:
        name = request.scope["path"].removeprefix(PREFIX)
        try:
            tile = parse_name(name)
        except Invalid as error:
            raise NotFound("There is no tile of that name in any log.") from error
        if tile.kind is Kind.DETAILS:
            raise NotFound("What lies beside entries isn't published.")
        data = await asyncio.to_thread(folder.read, str(tile))
        return answer_document(data, BYTES, max_age=IMMUTABLE_AGE)

    return [
        serve_document("/log/checkpoint", show_checkpoint),
        serve_document("/log/vkey", show_keys),
        serve_document("/log/tile/{name:path}", show_tile),
    ]
