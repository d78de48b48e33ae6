"""The decision point's endpoints: AuthZEN 1.0 over HTTP, and where they are found.

They are called for every request that somebody enforces on, so they are plain ASGI beside the
framework. A denial is an answer like any other; errors are sentences, as the standard has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from troth.core.errors import Invalid, NotFound, Passing, TrothError, Unauthenticated
from troth.core.ids import RequestId
from troth.operations.call import ANONYMOUS, Caller
from troth.operations.dispatch import Dispatcher
from troth.operations.pointcaller import Shown
from troth.server.http.api import Authenticate
from troth.server.http.bodies import check_depth
from troth.server.http.exchange import connection_of, has_arrived, request_id_of, span_of
from troth.server.http.intake import read_all
from troth.server.http.problems import STATUS
from troth.server.settings import Limits
from troth.wire.authzen.answer import MEDIA_TYPE, Verdicts, render_answer
from troth.wire.authzen.question import MAX_BODY, parse_evaluation, parse_evaluations
from troth.wire.authzen.routes import (
    AUTHZEN_PATHS,
    EVALUATION_PATH,
    EVALUATIONS_PATH,
    METADATA_PATH,
    SEARCH_PATHS,
)
from troth.wire.authzen.search import parse_search
from troth.wire.oauth.answers import plain_text
from troth.wire.oauth.errors import InvalidDpopProof, UseDpopNonce

log = structlog.get_logger(__name__)

MAX_AGE = 300
"""Seconds for which metadata may be kept."""
_TARGETS = {path: target for target, path in SEARCH_PATHS.items()}
_READ = frozenset((b"authorization", b"content-encoding", b"content-type", b"dpop", b"host"))
_JSON = MEDIA_TYPE.encode("ascii")
_TEXT = b"text/plain; charset=utf-8"
_NO_STORE = (b"cache-control", b"no-store")
_CHARSETS = ("", "charset=utf-8", 'charset="utf-8"')

Headers = list[tuple[bytes, bytes]]


class Bearers(Protocol):
    """Turns an access token into a caller."""

    async def identify(self, shown: Shown, /) -> Caller:
        """Whose it is; raises `Unauthenticated` if it doesn't count here."""
        ...


class Metadata(Protocol):
    """Tells where the endpoints are."""

    async def show(self, base: str, /) -> bytes:
        """The document for the decision point at the URL `base`."""
        ...


@dataclass(frozen=True, slots=True)
class DecisionPoint:
    """What the endpoints of one listener need beside the gate: its URL, and who may come with a
    token, where nothing else proves who calls."""

    base: str
    bearers: Bearers
    metadata: Metadata


def is_authzen(path: str) -> bool:
    """Whether one of the endpoints is at `path`."""
    return path in AUTHZEN_PATHS or path == METADATA_PATH


def find_client_id(headers: Headers) -> bytes | None:
    """The request's own id, which goes back as it came; None unless there is one."""
    given = [value for name, value in headers if name == b"x-request-id"]
    return given[0] if len(given) == 1 else None


@dataclass(frozen=True, slots=True)
class AuthzenEndpoints:
    """Answers every request to the decision point's endpoints of one listener."""

    dispatcher: Dispatcher
    authenticate: Authenticate
    limits: Limits
    point: DecisionPoint | None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one exchange."""
        try:
            if scope["path"] == METADATA_PATH:
                body = await self._show_metadata(scope)
                kept = (b"cache-control", f"public, max-age={MAX_AGE}".encode())
                await _send(send, 200, body, _JSON, [kept])
            else:
                await _send(send, 200, await self._answer(scope, receive), _JSON, [_NO_STORE])
        except Exception as error:  # noqa: BLE001 - its answer is the standard's, not the API's
            await _send(send, *_explain(error, scope))

    async def _show_metadata(self, scope: Any) -> bytes:
        if scope["method"] != "GET":
            raise _WrongMethod(b"GET, HEAD")
        if self.point is None:
            raise NotFound("This listener has no decision point.")
        return await self.point.metadata.show(self.point.base)

    async def _answer(self, scope: Any, receive: Any) -> bytes:
        path = scope["path"]
        name = AUTHZEN_PATHS[path]
        if scope["method"] != "POST":
            raise _WrongMethod(b"POST")
        span = span_of(scope)
        span.rename(f"POST {path}")
        span.note(http_route=path)
        request_id = RequestId(request_id_of(scope))
        with self.dispatcher.count_refusal(name):
            given = _read_headers(scope["headers"])
            caller = await self._identify(scope, given)
        await self.dispatcher.begin(name, caller, request_id)
        with self.dispatcher.count_refusal(name):
            request = await self._read_request(scope, receive, given, path)
        found = await self.dispatcher.call(name, caller, request_id, request)
        if isinstance(found, Verdicts) and request.single:
            return render_answer(found.evaluations[0])
        return render_answer(found)

    async def _identify(self, scope: Any, given: dict[bytes, str]) -> Caller:
        """Who calls, from memory where that is known: this is asked again and again."""
        caller = self.authenticate.confirm(scope)
        if caller is None:
            caller = await self.authenticate(scope)
        shown = given.get(b"authorization")
        if caller.principal != ANONYMOUS.principal:
            return caller
        if shown is None or self.point is None:
            raise Unauthenticated(
                "Prove who asks: by an access token for this server, or by a certificate of this "
                "trust domain on the mutual-TLS listener."
            )
        connection = connection_of(scope)
        return await self.point.bearers.identify(
            Shown(
                shown,
                given.get(b"dpop"),
                "POST",
                # As its sender knows it: TLS ends here.
                f"{scope['scheme']}://{given.get(b'host', '')}{scope['path']}",
                connection.source if connection else "",
            )
        )

    async def _read_request(
        self, scope: Any, receive: Any, given: dict[bytes, str], path: str
    ) -> Any:
        _check_media_type(given)
        seconds = 0.0 if has_arrived(scope) else self.limits.body_seconds
        body = await read_all(receive, seconds, min(self.limits.body_bytes, MAX_BODY))
        check_depth(body)
        if path == EVALUATION_PATH:
            return parse_evaluation(body)
        if path == EVALUATIONS_PATH:
            return parse_evaluations(body)
        return parse_search(_TARGETS[path], body)


class _WrongMethod(Exception):
    """Another method than the one that is answered there."""

    def __init__(self, allowed: bytes) -> None:
        super().__init__()
        self.allowed = allowed


def _read_headers(headers: Headers) -> dict[bytes, str]:
    """The headers that count here, each of which may be there once."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name in _READ:
            if name in found:
                raise Invalid(f"The header {name.decode()} is there twice.")
            found[name] = value.decode("latin-1")
    return found


def _check_media_type(given: dict[bytes, str]) -> None:
    """Raise `Invalid` unless the body is JSON as it is."""
    kind, _, parameters = given.get(b"content-type", "").partition(";")
    if kind.strip().lower() != MEDIA_TYPE or parameters.strip().lower() not in _CHARSETS:
        raise Invalid(f"The body must be {MEDIA_TYPE}, in UTF-8.")
    if given.get(b"content-encoding", "identity").lower() != "identity":
        raise Invalid("The body must come without a content encoding.")


def _explain(error: Exception, scope: Any) -> tuple[int, bytes, bytes, Headers]:
    """Status, body, media type and headers: an error is a sentence (section "Error Responses")."""
    if isinstance(error, _WrongMethod):
        headers: Headers = [_NO_STORE, (b"allow", error.allowed)]
        return 405, b"This path answers %s alone." % error.allowed, _TEXT, headers
    if not isinstance(error, TrothError) or error.code == "internal":
        log.error("request.broken", request_id=request_id_of(scope), exc_info=error)
        return 500, b"Something broke; the server's log has the reason.", _TEXT, [_NO_STORE]
    headers = [_NO_STORE]
    status = STATUS.get(error.code, 500)
    if isinstance(error, Passing):
        headers.append((b"retry-after", str(max(1, int(error.retry_after or 1))).encode()))
    if isinstance(error, UseDpopNonce | InvalidDpopProof):
        status = 401
        headers.append((b"www-authenticate", b'DPoP error="%s"' % error.oauth.encode("ascii")))
        if isinstance(error, UseDpopNonce):
            headers.append((b"dpop-nonce", error.nonce.encode("ascii")))
    elif isinstance(error, Unauthenticated):
        shown = any(name == b"authorization" for name, _ in scope["headers"])
        tail = b', error="invalid_token"' if shown else b""
        headers.append((b"www-authenticate", b'Bearer realm="decision point"' + tail))
    return status, plain_text(error.detail).encode(), _TEXT, headers


async def _send(send: Any, status: int, body: bytes, media_type: bytes, headers: Headers) -> None:
    described = [
        (b"content-type", media_type),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": described})
    await send({"type": "http.response.body", "body": body, "more_body": False})
