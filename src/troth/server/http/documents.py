"""Documents that anybody may GET: how their handlers and responses are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

Show = Callable[[Request[Any, Any, Any]], Awaitable[ASGIApp]]

JSON = "application/json"


def serve_document(path: str, show: Show) -> HTTPRouteHandler:
    """A GET handler at `path`; HEAD is answered alike."""

    async def handle(request: Request[Any, Any, Any]) -> ASGIApp:
        return await show(request)

    return HTTPRouteHandler(path, http_method="GET", status_code=200)(handle)


def answer_document(
    body: bytes, media_type: str, *, max_age: int | None = None, status: int = 200
) -> ASGIResponse:
    """A response that caches may keep for `max_age` seconds; None: not at all."""
    caching = "no-store" if max_age is None else f"public, max-age={max_age}"
    return ASGIResponse(
        body=body,
        status_code=status,
        headers={"content-type": media_type, "cache-control": caching},
    )
