"""The witness's HTTP: `add-checkpoint` (C2SP tlog-witness), its keys, and what it cosigned last."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from troth.audit.note import Signature, render_signature
from troth.audit.witness import (
    LARGEST_SUBMISSION,
    PATH,
    SIZE_TYPE,
    STATUSES,
    Reason,
    Refusal,
    render_size,
)
from troth.core.errors import Invalid, NotFound, TooLarge, TrothError
from troth.server.http.intake import read_whole
from troth.server.witness.desk import WitnessDesk

TEXT = "text/plain; charset=utf-8"
BODY_SECONDS = 10.0
"""How long a whole request may take to arrive."""
KEYS = "/vkey"

_RECORD = re.compile(r"/([0-9a-f]{64})/checkpoint", re.ASCII)

log = structlog.get_logger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Answer = tuple[int, str, bytes]
"""Status, media type, body."""


class WitnessApp:
    """An ASGI application."""

    def __init__(self, desk: WitnessDesk) -> None:
        self._desk = desk

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request. Nothing but the checkpoint's signature says who may ask."""
        if scope["type"] != "http":
            return
        status, media_type, body = await self._answer(scope["method"], scope["path"], receive)
        headers = [
            (b"content-type", media_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, method: str, path: str, receive: Receive) -> Answer:
        try:
            if path == PATH:
                if method != "POST":
                    return _say(405, "Ask with POST.")
                return await self._add(receive)
            if method != "GET":
                return _say(405, "Ask with GET.")
            return await self._show(path)
        except NotFound as error:
            return _say(404, error.detail)
        except TooLarge as error:
            return _say(413, error.detail)
        except Invalid as error:
            return _say(STATUSES[Reason.MALFORMED], error.detail)
        except TimeoutError:
            return _say(408, f"The request didn't arrive within {BODY_SECONDS:g} seconds.")
        except TrothError as error:
            log.error("witness.failed", code=error.code, detail=error.detail)
            return _say(503, "This can't be done now: the witness's own log says why.")
        except Exception:
            log.exception("witness.broke")
            return _say(500, "Something went wrong: the witness's own log says what.")

    async def _add(self, receive: Receive) -> Answer:
        async with asyncio.timeout(BODY_SECONDS):
            body = await read_whole(receive, LARGEST_SUBMISSION)
        found = await asyncio.to_thread(self._desk.submit, body)
        if not isinstance(found, Refusal):
            return 200, TEXT, _render(found)
        if found.reason is Reason.STALE:
            return STATUSES[found.reason], SIZE_TYPE, render_size(found.size)
        return _say(STATUSES[found.reason], found.detail)

    async def _show(self, path: str) -> Answer:
        if path == KEYS:
            keys = (f"{key.render()}\n" for key in self._desk.signer.public)
            return 200, TEXT, "".join(keys).encode()
        record = _RECORD.fullmatch(path)
        if record is None:
            raise NotFound("A witness answers POST /add-checkpoint (c2sp.org/tlog-witness).")
        return 200, TEXT, await asyncio.to_thread(self._desk.show, record[1])


def _render(signatures: tuple[Signature, ...]) -> bytes:
    return "".join(map(render_signature, signatures)).encode()


def _say(status: int, detail: str) -> Answer:
    return status, TEXT, f"{detail}\n".encode()
