"""The ASGI application of one listener: Litestar with only what is used, inside one edge.

The edge gives every exchange its id, routes on the path as it was sent, refuses connections whose
certificate has expired since they were made, and lets no exception out.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from litestar import Litestar, Request
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from troth.archive.tiles import LogFolder
from troth.core.errors import NotFound, TrothError, Unauthenticated
from troth.core.logwords import log_words
from troth.core.tracing import TRACEPARENT, Kind, TraceContext, parse_traceparent
from troth.operations.dispatch import Dispatcher
from troth.operations.publication import Publication
from troth.server.http import discovery, health, openapi, pki, spiffe
from troth.server.http import log as logs
from troth.server.http.api import Api, Authenticate
from troth.server.http.authzen import (
    AuthzenEndpoints,
    DecisionPoint,
    find_client_id,
    is_authzen,
)
from troth.server.http.documents import JSON, answer_document, serve_document
from troth.server.http.enforcement import EnforcementEndpoints, is_enforcement
from troth.server.http.exchange import (
    attach_request_id,
    attach_span,
    check_certificate,
    connection_of,
)
from troth.server.http.oauth import OAuthEndpoints, is_oauth
from troth.server.http.problems import Rejected, answer_exception, explain_error
from troth.server.metrics import Metrics
from troth.server.settings import Limits
from troth.wire.api.problems import MEDIA_TYPE
from troth.wire.api.routes import ROUTES

MAX_PATH = 2048
_CLIENT_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PATH = re.compile(rb"/|(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+")

Message = Any
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def build_app(
    dispatcher: Dispatcher,
    publication: Publication,
    authenticate: Authenticate,
    metrics: Metrics,
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    open_metrics: bool = True,
    point: DecisionPoint | None = None,
    log: LogFolder | None = None,
) -> Edge:
    """The application of one listener, whose callers `authenticate` tells apart.

    With `open_metrics` anybody may read a part of the metrics. `point` is what its decision point
    needs, `log` what it shows of the log.
    """
    board = health.Board(metrics, authenticate, dispatcher.clock, open_metrics)
    handlers: list[HTTPRouteHandler] = [
        *Api(dispatcher, authenticate, limits).make_handlers(),
        *spiffe.make_handlers(publication),
        *discovery.make_handlers(publication),
        *pki.make_handlers(publication),
        *health.make_handlers(publication, board),
        *(logs.make_handlers(log) if log is not None else ()),
        _serve_openapi(),
    ]
    inner = Litestar(
        [*_list_options(handlers), *handlers],
        openapi_config=None,
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
        request_max_body_size=None,  # each route has its own bound
        exception_handlers={Exception: answer_exception},
    )
    oauth = OAuthEndpoints(dispatcher, limits)
    authzen = AuthzenEndpoints(dispatcher, authenticate, limits, point)
    enforcement = EnforcementEndpoints(dispatcher, authenticate)
    return Edge(inner, dispatcher, authenticate, oauth, authzen, enforcement)


def _list_options(handlers: list[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """An OPTIONS handler for each path: Litestar's own names the first method alone."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {"OPTIONS"}).update(map(str, handler.http_methods))
    return [_make_options(path, ", ".join(sorted(names))) for path, names in methods.items()]


def _make_options(path: str, allow: str) -> HTTPRouteHandler:
    async def show_options(request: Request[Any, Any, Any]) -> ASGIApp:
        return ASGIResponse(status_code=204, headers={"allow": allow})

    return HTTPRouteHandler(path, http_method=HttpMethod.OPTIONS, status_code=200)(show_options)


def _serve_openapi() -> HTTPRouteHandler:
    async def show(request: Request[Any, Any, Any]) -> ASGIApp:
        return answer_document(_render_openapi(), JSON)

    return serve_document("/v1/openapi.json", show)


@cache
def _render_openapi() -> bytes:
    """The same for all listeners, and always; it takes some twenty milliseconds."""
    return msgspec.json.encode(openapi.render_openapi(ROUTES))


@dataclass(frozen=True, slots=True)
class Edge:
    """What every exchange passes on its way in and out."""

    inner: Any
    dispatcher: Dispatcher
    authenticate: Authenticate
    oauth: OAuthEndpoints
    authzen: AuthzenEndpoints
    enforcement: EnforcementEndpoints

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if scope["type"] != "http":
            raise ValueError(f"{scope['type']} is not served here")
        # Always our own: it goes into the journal, where a client's would be a forged trace.
        request_id = self.dispatcher.new_request_id()
        bound = {"request_id": request_id, **_read_client_id(scope["headers"])}
        scope = dict(scope)
        attach_request_id(scope, request_id)
        shown, private = _name_answer(scope, request_id), scope["raw_path"].startswith(b"/v1/")
        answer = _Answer(send, shown, private)
        tracer = self.dispatcher.tracer
        if not tracer.enabled:
            await self._answer(scope, receive, answer, bound)
            return
        with tracer.span(scope["method"], Kind.SERVER, parent=self._find_parent(scope)) as span:
            attach_span(scope, span)
            span.note(http_request_method=scope["method"], troth_request_id=request_id)
            place = tracer.current()
            if place is not None and place.sampled:
                bound["trace_id"] = f"{place.trace_id:032x}"
            await self._answer(scope, receive, answer, bound)
            span.note(http_response_status_code=answer.status)

    async def _answer(
        self, scope: Any, receive: Receive, answer: _Answer, bound: dict[str, str]
    ) -> None:
        request_id = bound["request_id"]
        with log_words(bound):
            try:
                if is_enforcement(scope["raw_path"]):
                    await self.enforcement(scope, receive, answer.send)
                    return
                check_certificate(scope, self.dispatcher.clock.now())
                _normalise(scope)
                await self._choose(scope["path"])(scope, receive, answer.send)
            except Exception as error:  # noqa: BLE001 - the last place to turn one into an answer
                await self._answer_error(scope, error, request_id, answer)

    def _choose(self, path: str) -> Any:
        if is_authzen(path):
            return self.authzen
        return self.oauth if is_oauth(path) else self.inner

    def _find_parent(self, scope: Any) -> TraceContext | None:
        """Where the caller's trace is, if it may still call: others begin a trace of ours.

        A span can't change its parent, so this is asked before anything else, and from memory: what
        somebody can cause who is revoked or cut off is no more than what a stranger can.
        """
        place = _read_place(scope)
        if place is None:
            return None
        try:
            self.authenticate.confirm(scope)
        except TrothError:
            return None
        return place

    @staticmethod
    async def _answer_error(scope: Any, error: Exception, request_id: str, answer: _Answer) -> None:
        status, body, extra = explain_error(error, request_id)
        if answer.started:
            connection = connection_of(scope)
            if connection is not None:
                connection.abort()
            return
        if isinstance(error, Unauthenticated):
            extra = {**extra, "Connection": "close"}
        headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), **extra}
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await answer.send({"type": "http.response.start", "status": status, "headers": encoded})
        await answer.send({"type": "http.response.body", "body": body, "more_body": False})


@dataclass(slots=True)
class _Answer:
    """The way out: adds the headers that every answer has."""

    out: Send
    request_id: bytes
    private: bool
    status: int = 0

    @property
    def started(self) -> bool:
        """Whether the status line has gone out."""
        return self.status > 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [
                *message.get("headers", ()),
                (b"x-request-id", self.request_id),
                (b"x-content-type-options", b"nosniff"),
            ]
            if self.private and not any(name.lower() == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        await self.out(message)


def _name_answer(scope: Any, request_id: str) -> bytes:
    """The id that goes out: ours; but for AuthZEN the client's own, which wants it back as it came
    (AuthZEN 1.0, "Request Identification in a Response")."""
    if is_authzen(scope["raw_path"].decode("latin-1")):
        return find_client_id(scope["headers"]) or request_id.encode()
    return request_id.encode()


def _read_client_id(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """The client's own request id for the log alone, if it sent one that is safe to write there."""
    given = [value for name, value in headers if name == b"x-request-id"]
    if len(given) == 1 and _CLIENT_ID.fullmatch(given[0]):
        return {"client_request_id": given[0].decode()}
    return {}


def _read_place(scope: Any) -> TraceContext | None:
    """The place in a trace that somebody named who proved who it is: strangers don't choose what
    we keep, whose trace it belongs to, or whether it is sampled."""
    connection = connection_of(scope)
    if connection is None or (connection.certificate is None and connection.peer is None):
        return None
    given = [value for name, value in scope["headers"] if name == TRACEPARENT.encode()]
    return parse_traceparent(given[0].decode("latin-1")) if len(given) == 1 else None


def _normalise(scope: Any) -> None:
    """Route on the path as it was sent, so that ``%2F`` in a field never becomes a separator.

    Empty, ``.`` and ``..`` segments are no path of ours. HEAD is GET without content (RFC 9110,
    section 9.3.2), which the protocol cuts off.
    """
    raw: bytes = scope["raw_path"]
    if len(raw) > MAX_PATH:
        raise Rejected(414)
    if not _PATH.fullmatch(raw):
        raise NotFound("There is nothing at this path.")
    scope["path"] = raw.decode("ascii")
    if scope["method"] == "HEAD":
        scope["method"] = "GET"
