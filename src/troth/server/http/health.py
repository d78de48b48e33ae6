"""Liveness, readiness and metrics."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from troth.core.errors import TrothError
from troth.operations.publication import Publication
from troth.server.http.documents import JSON, answer_document, serve_document
from troth.server.metrics import MEDIA_TYPE, Metrics


def make_handlers(
    publication: Publication, metrics: Metrics, *, full_metrics: bool
) -> list[HTTPRouteHandler]:
    """Handlers of ``/healthz``, ``/readyz`` and ``/metrics``.

    `full_metrics` adds what describes the process itself, for listeners that know their callers.
    """

    async def show_life(request: Request[Any, Any, Any]) -> ASGIApp:
        return answer_document(b'{"alive":true}', JSON)

    async def show_readiness(request: Request[Any, Any, Any]) -> ASGIApp:
        try:
            obstacles = await publication.find_obstacles()
        except TrothError as error:
            obstacles = [error.detail]
        body = msgspec.json.encode({"ready": not obstacles, "obstacles": obstacles})
        return answer_document(body, JSON, status=503 if obstacles else 200)

    async def show_metrics(request: Request[Any, Any, Any]) -> ASGIApp:
        return answer_document(metrics.render(full=full_metrics), MEDIA_TYPE)

    return [
        serve_document("/healthz", show_life),
        serve_document("/readyz", show_readiness),
        serve_document("/metrics", show_metrics),
    ]
