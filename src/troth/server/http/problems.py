"""Errors as RFC 9457 problem documents, and the only table from error kinds to status codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from troth.core.errors import Passing, TrothError, Unauthenticated
from troth.operations.dispatch import name_outcome
from troth.server.http.exchange import request_id_of
from troth.wire.api.problems import MEDIA_TYPE, Problem

log = structlog.get_logger(__name__)

STATUS: Mapping[str, int] = {
    "invalid_request": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "conflict": 409,
    "failed_precondition": 409,
    "too_large": 413,
    "rate_limited": 429,
    "internal": 500,
    "unimplemented": 501,
    "unavailable": 503,
}
"""Error code → HTTP status (RFC 9110, section 15; RFC 6585, section 4)."""

_ROUTING: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request", "The request is malformed."),
    404: ("not_found", "There is nothing at this path."),
    405: ("invalid_request", "This path doesn't answer that method; the Allow header says which."),
    408: ("invalid_request", "The body took too long to arrive; send it again, faster."),
    413: ("too_large", "The body is too large."),
    414: ("too_large", "The path is too long."),
    415: ("invalid_request", "The body must be application/json, without a content encoding."),
}
CHALLENGE = 'ClientCertificate realm="mutual-TLS listener", UnixPeer realm="admin socket"'
"""What a 401 asks for (RFC 9110, section 11.6.1).

Credentials here belong to the connection, and no registered scheme stands for that. So the names
say what it takes: a client certificate in the TLS handshake, or a uid that the kernel vouches for.
"""
_BARE = "Something went wrong here; the server's log has the reason under the request id."


class Rejected(Exception):
    """HTTP itself was used in a way that isn't served; `status` is one of `_ROUTING`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def name_code(error: BaseException) -> str:
    """The code under which a request that ended with `error` is counted."""
    return _ROUTING[error.status][0] if isinstance(error, Rejected) else name_outcome(error)


def render_problem(
    code: str, detail: str, request_id: str, status: int | None = None, retryable: bool = False
) -> tuple[int, bytes]:
    """Status and JSON of one problem document."""
    status = STATUS.get(code, 500) if status is None else status
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        retryable=retryable,
    )
    return status, msgspec.json.encode(problem)


def explain_error(error: Exception, request_id: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, problem document and extra headers for whatever a request ended with.

    An unknown exception shows nothing of itself: its traceback goes to the log alone.
    """
    if isinstance(error, TrothError):
        if error.code == "internal":
            log.error("request.broken", request_id=request_id, exc_info=error)
        headers = {"Retry-After": _count_seconds(error)} if error.retryable else {}
        if isinstance(error, Unauthenticated):
            headers["WWW-Authenticate"] = CHALLENGE
        status, body = render_problem(
            error.code, error.detail, request_id, retryable=error.retryable
        )
        return status, body, headers
    if isinstance(error, Rejected):
        headers = {"Connection": "close"} if error.status == 408 else {}
        code, detail = _ROUTING[error.status]
        return *render_problem(code, detail, request_id, error.status), headers
    if isinstance(error, HTTPException) and error.status_code in _ROUTING:
        code, detail = _ROUTING[error.status_code]
        return *render_problem(code, detail, request_id, error.status_code), dict(
            error.headers or {}
        )
    log.error("request.broken", request_id=request_id, exc_info=error)
    return *render_problem("internal", _BARE, request_id), {}


def _count_seconds(error: TrothError) -> str:
    """When to come back, in whole seconds (RFC 9110, section 10.2.3)."""
    known = error.retry_after if isinstance(error, Passing) else None
    return str(max(1, math.ceil(known or 0)))


def answer_exception(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler for everything."""
    status, body, headers = explain_error(error, request_id_of(request.scope))
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)
