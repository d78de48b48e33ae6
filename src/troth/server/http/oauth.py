"""The OAuth endpoints: forms in, JSON out, refusals as RFC 6749, section 5.2 has them.

They are called for every token, so they are plain ASGI beside the framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from troth.core.errors import Invalid, Passing, TrothError
from troth.core.ids import RequestId
from troth.operations.dispatch import Dispatcher
from troth.server.http.callers import accept_anybody
from troth.server.http.exchange import connection_of, has_arrived, request_id_of, span_of
from troth.server.http.intake import read_all
from troth.server.settings import Limits
from troth.wire.oauth.answers import Refusal, plain_text
from troth.wire.oauth.errors import UseDpopNonce, name_error
from troth.wire.oauth.form import MEDIA_TYPE, Form, parse_form
from troth.wire.oauth.introspection import Signed
from troth.wire.oauth.request import OAuthRequest
from troth.wire.oauth.routes import OAUTH_ROUTES, choose_operation

log = structlog.get_logger(__name__)

MAX_BODY = 64 * 1024
_PATHS = frozenset(OAUTH_ROUTES.values())
_JSON = b"application/json"
_READ = frozenset(
    (b"accept", b"authorization", b"content-encoding", b"content-type", b"dpop", b"host")
)
_HEADERS = [
    (b"cache-control", b"no-store"),  # RFC 6749, section 5.1
    (b"pragma", b"no-cache"),
]
_CHALLENGE = b'ClientAssertion realm="token endpoint"'
"""No registered scheme stands for an assertion in the body; a 401 must name one all the same
(RFC 9110, section 11.6.1)."""
_BASIC_CHALLENGE = b'Basic realm="token endpoint"'
"""For whoever used the Authorization header (RFC 6749, section 5.2)."""


def is_oauth(path: str) -> bool:
    """Whether one of the endpoints is at `path`."""
    return path in _PATHS


@dataclass(frozen=True, slots=True)
class OAuthEndpoints:
    """Answers every request to the OAuth endpoints of one listener."""

    dispatcher: Dispatcher
    limits: Limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one exchange."""
        try:
            media_type, body = _render(await self._answer(scope, receive))
            await _send(send, 200, body, [], media_type)
        except Exception as error:  # noqa: BLE001 - its answer is the standard's, not the API's
            basic = any(name == b"authorization" for name, _ in scope["headers"])
            status, body, headers = _explain(error, request_id_of(scope), basic=basic)
            await _send(send, status, body, headers)

    async def _answer(self, scope: Any, receive: Any) -> Any:
        path = scope["path"]
        if scope["method"] != "POST":
            raise _WrongMethod
        span = span_of(scope)
        span.rename(f"POST {path}")
        span.note(http_route=path)
        try:
            request = await self._read_request(scope, receive)
        except TrothError as error:
            request = OAuthRequest(Form({}), fault=error)
        name = choose_operation(path, request.form)
        caller = await accept_anybody(scope)
        request_id = RequestId(request_id_of(scope))
        return await self.dispatcher.call(name, caller, request_id, request)

    async def _read_request(self, scope: Any, receive: Any) -> OAuthRequest:
        """The request; `Invalid` or `TooLarge` for one that is none."""
        if scope["query_string"]:
            raise Invalid("Parameters belong into the body: addresses end up in logs (RFC 6749).")
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        given = _read_headers(headers)
        _check_media_type(given)
        # No time for what is there already, as nearly always: a timer costs more than to read it.
        seconds = 0.0 if has_arrived(scope) else self.limits.body_seconds
        form = parse_form(await read_all(receive, seconds, MAX_BODY))
        connection = connection_of(scope)
        return OAuthRequest(
            form,
            certificate=connection.certificate if connection else None,
            authorization=given.get(b"authorization"),
            dpop=given.get(b"dpop"),
            # As its sender knows it: TLS ends here.
            url=f"{scope['scheme']}://{given.get(b'host', '')}{scope['path']}",
            accept=given.get(b"accept"),
            source=connection.source if connection else "",
        )


def _render(answer: Any) -> tuple[bytes, bytes]:
    """Media type and body: JSON, a JWT, or nothing (RFC 7009, section 2.2)."""
    if isinstance(answer, Signed):
        return answer.media_type.encode("ascii"), answer.text.encode("ascii")
    return _JSON, b"" if answer is None else msgspec.json.encode(answer)


class _WrongMethod(Exception):
    """The endpoints answer POST alone (RFC 6749, section 3.2)."""


def _explain(
    error: Exception, request_id: str, *, basic: bool
) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, _WrongMethod):
        refusal = Refusal(
            error="invalid_request", error_description="This path answers POST alone."
        )
        return 405, msgspec.json.encode(refusal), [(b"allow", b"POST")]
    if not isinstance(error, TrothError) or error.code == "internal":
        log.error("request.broken", request_id=request_id, exc_info=error)
        return 500, msgspec.json.encode(Refusal(error="server_error")), headers
    code = name_error(error)
    status = {"invalid_client": 401, "temporarily_unavailable": 503, "server_error": 500}.get(
        code, 400
    )
    if error.code in ("too_large", "rate_limited"):
        status = 413 if error.code == "too_large" else 429
    if isinstance(error, Passing):
        headers.append((b"retry-after", str(max(1, int(error.retry_after or 1))).encode()))
    if isinstance(error, UseDpopNonce):
        headers.append((b"dpop-nonce", error.nonce.encode("ascii")))
    if status == 401:
        headers.append((b"www-authenticate", _BASIC_CHALLENGE if basic else _CHALLENGE))
    refusal = Refusal(error=code, error_description=plain_text(error.detail))
    return status, msgspec.json.encode(refusal), headers


async def _send(
    send: Any,
    status: int,
    body: bytes,
    headers: list[tuple[bytes, bytes]],
    media_type: bytes = _JSON,
) -> None:
    described = [
        (b"content-type", media_type),
        (b"content-length", str(len(body)).encode()),
    ]
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [*described, *_HEADERS, *headers],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _read_headers(headers: list[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """The headers that count here: each may be there once, but for the list ``Accept``, which is
    put together from all its lines (RFC 9110, section 5.3)."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name in _READ:
            text = value.decode("latin-1")
            if name in found:
                if name != b"accept":
                    raise Invalid(f"The header {name.decode()} is there twice.")
                text = f"{found[name]}, {text}"
            found[name] = text
    return found


def _check_media_type(given: dict[bytes, str]) -> None:
    """Raise `Invalid` unless the body is a form as it is (RFC 6749, appendix B)."""
    if given.get(b"content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise Invalid(f"The body must be {MEDIA_TYPE}.")
    if given.get(b"content-encoding", "identity").lower() != "identity":
        raise Invalid("The body must come without a content encoding.")
