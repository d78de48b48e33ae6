"""Liveness, readiness and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from troth.core.clock import Clock
from troth.core.errors import Denied, TrothError, Unauthenticated, Unavailable
from troth.operations.call import Caller
from troth.operations.publication import Publication
from troth.policy.permissions import decide_operation
from troth.server.http.documents import JSON, answer_document, serve_document
from troth.server.metrics import MEDIA_TYPE, Metrics

KEPT_SECONDS = 1.0
"""How long a text of metrics serves whoever asks: rendering it takes milliseconds of the loop."""

PERMISSION = "status.show"
"""Who may see the status may see all metrics."""


def make_handlers(publication: Publication, board: Board) -> list[HTTPRouteHandler]:
    """Handlers of ``/healthz``, ``/readyz`` and ``/metrics``."""

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
        return answer_document(await board.show(request.scope), MEDIA_TYPE)

    return [
        serve_document("/healthz", show_life),
        serve_document("/readyz", show_readiness),
        serve_document("/metrics", show_metrics),
    ]


@dataclass(slots=True)
class Board:
    """What each reader of the metrics may see: all of it with a role, else the open part or none.

    `open` is whether anybody may read that part. While nobody's role can be told, whoever TLS let
    in gets it: that the lease runs out is what it must tell.
    """

    metrics: Metrics
    authenticate: Callable[[Any], Awaitable[Caller]]
    clock: Clock
    open: bool
    _kept: dict[bool, tuple[float, bytes]] = field(default_factory=dict)

    async def show(self, scope: Any) -> bytes:
        """The text for whoever asks; raises `Unauthenticated` or `Denied` if there is none."""
        full, shown = False, self.open
        try:
            caller = await self.authenticate(scope)
            full = decide_operation(caller.roles, PERMISSION).allowed
        except Unavailable:
            shown = True
        except (Denied, Unauthenticated):
            if not shown:
                raise
        if not (full or shown):
            raise Unauthenticated(
                "The metrics of this server are for known callers: scrape the mutual-TLS listener "
                "with a certificate whose SPIFFE ID has the role auditor, or the admin socket."
            )
        now = self.clock.monotonic()
        at, text = self._kept.get(full, (-KEPT_SECONDS, b""))
        if now - at >= KEPT_SECONDS:
            text = self.metrics.render(full=full)
            self._kept[full] = (now, text)
        return text
