"""The API: one handler a route of the table, all alike. What an operation does is not known here.

A request is authenticated and its permission checked before a byte of its body is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from litestar import Request
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from troth.core.errors import Invalid
from troth.core.ids import RequestId
from troth.operations.call import ANONYMOUS, Caller
from troth.operations.dispatch import Dispatcher
from troth.server.http import bodies
from troth.server.http.exchange import request_id_of, span_of
from troth.server.http.problems import name_code
from troth.server.http.streams import LineStream
from troth.server.settings import Limits
from troth.wire.api.routes import ROUTES, Route, parse_request


class Authenticate(Protocol):
    """From an ASGI scope to who is calling; both ways raise `Unauthenticated` or `Denied`."""

    async def __call__(self, scope: Any, /) -> Caller:
        """The caller of a request."""
        ...

    def confirm(self, scope: Any, /) -> Caller | None:
        """The caller as it may call by now, from memory alone; None if something must be read."""
        ...


@dataclass(frozen=True, slots=True)
class Api:
    """Answers every route of the table on behalf of whom `authenticate` finds."""

    dispatcher: Dispatcher
    authenticate: Authenticate
    limits: Limits

    def make_handlers(self) -> list[HTTPRouteHandler]:
        """One Litestar handler for each route."""
        return [self._make_handler(route) for route in ROUTES]

    async def answer(self, route: Route, request: Request[Any, Any, Any]) -> ASGIApp:
        """The response to one request, or the error that becomes its problem document."""
        request_id = RequestId(request_id_of(request.scope))
        span = span_of(request.scope)
        span.rename(f"{route.method} {route.path}")
        span.note(http_route=route.path)
        with self.dispatcher.count_refusal(route.name):
            caller = await self.authenticate(request.scope)
        await self.dispatcher.begin(route.name, caller, request_id)
        with self.dispatcher.count_refusal(route.name, name_code):
            body = await self._read_request(route, request, caller)
        if route.stream:
            return self._follow(route, request, caller, body)
        result = await self.dispatcher.call(route.name, caller, request_id, body)
        return ASGIResponse(body=msgspec.json.encode(result), media_type="application/json")

    def _follow(
        self, route: Route, request: Request[Any, Any, Any], caller: Caller, body: Any
    ) -> LineStream:
        async def check() -> None:
            # From memory: a thousand streams would else read the store for each of their values.
            present = self.authenticate.confirm(request.scope)
            if present is None:
                present = await self.authenticate(request.scope)
            await self.dispatcher.confirm(route.name, present)

        # A stream may last for days: what it reads meanwhile is no part of the request's trace.
        self.dispatcher.tracer.detach()
        request_id = RequestId(request_id_of(request.scope))
        values = self.dispatcher.open(route.name, caller, request_id, body)
        return LineStream(values, check, self.dispatcher.clock, self.limits.write_seconds)

    async def _read_request(
        self, route: Route, request: Request[Any, Any, Any], caller: Caller
    ) -> Any:
        query = bodies.parse_query(request.scope["query_string"])
        body = b""
        if route.method == "GET":
            bodies.refuse_body(request)
        elif query:
            raise Invalid("Only a GET takes fields from the query: put them into the body.")
        else:
            limit = self._limit_body(route, caller)
            body = await bodies.read_body(request, limit, self.limits.body_seconds)
        path = bodies.decode_segments(request.path_params)
        return parse_request(route, path, query, body)

    def _limit_body(self, route: Route, caller: Caller) -> int:
        limits = self.limits
        limit = limits.body_bytes
        if route.name.startswith("manifest."):
            limit = limits.manifest_bytes
        if caller.principal == ANONYMOUS.principal:
            limit = min(limit, limits.anonymous_body_bytes)
        return limit

    def _make_handler(self, route: Route) -> HTTPRouteHandler:
        async def handle(request: Request[Any, Any, Any]) -> ASGIApp:
            return await self.answer(route, request)

        path = route.path.replace("}", ":str}")
        method = HttpMethod(route.method)
        return HTTPRouteHandler(path, http_method=method, name=route.name, status_code=200)(handle)
