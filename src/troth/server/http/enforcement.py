"""The endpoints that proxies ask: Envoy's ext_authz over HTTP, nginx's auth_request, Traefik's
forwardAuth. They are called for each request that passes a proxy, so they are plain ASGI.

What a proxy writes about a request counts because of who the proxy is: its certificate on the
mutual-TLS listener. Whatever goes wrong is answered so that the proxy lets nothing through: a
refusal of the request with 401 or 403, everything that is the proxy's or our fault with 503.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from troth.core.errors import Invalid, TrothError, Unauthenticated
from troth.core.ids import RequestId
from troth.operations.dispatch import Dispatcher
from troth.server.http.api import Authenticate
from troth.server.http.exchange import check_certificate, request_id_of, span_of
from troth.wire.api.enforcement import EnforcedDecision, EnforceDecision
from troth.wire.ext_authz import (
    ForwardedCertificate,
    list_identity_headers,
    list_refusal_headers,
    make_question,
    read_bare_pem,
    read_escaped_pem,
    read_forwarded,
    render_refusal,
)

log = structlog.get_logger(__name__)

OPERATION = "decision.enforce"
ENVOY = "/envoy/authz"
NGINX = "/enforce/nginx"
TRAEFIK = "/enforce/traefik"

Headers = Mapping[str, Sequence[str]]
Sent = list[tuple[str, str]]


def is_enforcement(raw_path: bytes) -> bool:
    """Whether a proxy asks with this path; below that of Envoy the request's own follows."""
    return raw_path.startswith(b"/envoy/authz/") or raw_path in _EXACT


_EXACT = frozenset(path.encode() for path in (NGINX, TRAEFIK))


@dataclass(frozen=True, slots=True)
class EnforcementEndpoints:
    """Answers every request to these endpoints on one listener."""

    dispatcher: Dispatcher
    authenticate: Authenticate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one exchange. Its body isn't looked at."""
        span = span_of(scope)
        try:
            answer = await self._answer(scope)
        except Exception as error:  # noqa: BLE001 - the last place: nothing may pass by accident
            await _send(send, 503, *_explain(error, request_id_of(scope)))
            return
        span.note(troth_decision=answer.decision)
        if answer.allowed:
            await _send(send, 200, list_identity_headers(answer), b"")
        else:
            await _send(send, answer.status, list_refusal_headers(answer), render_refusal(answer))

    async def _answer(self, scope: Any) -> EnforcedDecision:
        raw_path = scope["raw_path"].decode("latin-1")
        route = ENVOY if raw_path.startswith(ENVOY) else raw_path
        span = span_of(scope)
        span.rename(f"{scope['method']} {route}")
        span.note(http_route=route)
        with self.dispatcher.count_refusal(OPERATION):
            check_certificate(scope, self.dispatcher.clock.now())
            caller = await self.authenticate(scope)
        headers = _collect(scope["headers"])
        try:
            question = _READERS[route](scope, headers)
        except Invalid as error:
            log.info("enforcement.unclear", caller=caller.principal, reason=error.detail)
            return EnforcedDecision(
                allowed=False, decision="", status=403, reason="bad_request", detail=error.detail
            )
        request_id = RequestId(request_id_of(scope))
        made: EnforcedDecision = await self.dispatcher.call(OPERATION, caller, request_id, question)
        return made


def _explain(error: Exception, request_id: str) -> tuple[Sent, bytes]:
    reason = "unavailable"
    if isinstance(error, TrothError) and error.code != "internal":
        reason = "unavailable" if error.retryable else "proxy"
        log.warning("enforcement.failed", request_id=request_id, reason=error.detail)
    else:
        log.error("request.broken", request_id=request_id, exc_info=error)
    answer = EnforcedDecision(allowed=False, decision="", status=503, reason=reason)
    headers = list_refusal_headers(answer)
    if isinstance(error, Unauthenticated):
        headers.append(("connection", "close"))  # it must connect again with another certificate
    return headers, render_refusal(answer)


async def _send(send: Any, status: int, headers: Sent, body: bytes) -> None:
    encoded = [(name.encode("ascii"), value.encode("ascii", "replace")) for name, value in headers]
    encoded.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": False})


# What each kind of proxy sends


def _collect(raw: Sequence[tuple[bytes, bytes]]) -> Headers:
    found: dict[str, list[str]] = {}
    for name, value in raw:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _read_one(headers: Headers, name: str) -> str:
    """The value of a header that may be there once; "" if it isn't."""
    values = headers.get(name, ())
    if len(values) > 1:
        raise Invalid(f"The header {name} is there twice.")
    return values[0] if values else ""


def _require_one(headers: Headers, name: str) -> str:
    value = _read_one(headers, name)
    if not value:
        raise Invalid(f"The proxy must send the header {name}.")
    return value


def _read_last(headers: Headers, name: str) -> str:
    """The last element of a list: what the proxy itself has added."""
    return ",".join(headers.get(name, ())).rpartition(",")[2].strip()


def _read_credentials(headers: Headers) -> dict[str, str]:
    return {name: _read_one(headers, name) for name in ("authorization", "dpop")}


def _read_envoy(scope: Any, headers: Headers) -> EnforceDecision:
    """The request as it was, below the prefix."""
    forwarded = ",".join(headers.get("x-forwarded-client-cert", ()))
    peer = read_forwarded(forwarded) if forwarded else ForwardedCertificate()
    query = scope["query_string"].decode("latin-1")
    path = scope["raw_path"].decode("latin-1")[len(ENVOY) :]
    return make_question(
        method=scope["method"],
        host=_require_one(headers, "host"),
        path=f"{path}?{query}" if query else path,
        **_read_credentials(headers),
        certificate=peer.certificate,
        peer=peer.uri if peer.uri.startswith("spiffe://") else "",
        fingerprint=peer.fingerprint,
        ip=_read_last(headers, "x-forwarded-for"),
        transport=_name_transport(
            _read_one(headers, "x-forwarded-proto"), bool(peer.uri or peer.certificate)
        ),
        point="envoy",
    )


def _read_nginx(scope: Any, headers: Headers) -> EnforceDecision:
    """The headers that the recipe in docs/how-to/nginx.md sets."""
    escaped = _read_one(headers, "x-client-cert")
    if escaped and _read_one(headers, "x-client-verify") != "SUCCESS":
        raise Invalid("nginx didn't verify the client's certificate.")
    return make_question(
        method=_require_one(headers, "x-original-method"),
        host=_require_one(headers, "x-original-host"),
        path=_require_one(headers, "x-original-uri"),
        **_read_credentials(headers),
        certificate=read_escaped_pem(escaped) if escaped else b"",
        ip=_read_one(headers, "x-real-ip"),
        transport=_name_transport(_read_one(headers, "x-original-proto"), bool(escaped)),
        point="nginx",
    )


def _read_traefik(scope: Any, headers: Headers) -> EnforceDecision:
    """The headers of Traefik's forwardAuth, which Caddy's forward_auth sends too."""
    bare = _read_one(headers, "x-forwarded-tls-client-cert")
    return make_question(
        method=_require_one(headers, "x-forwarded-method"),
        host=_require_one(headers, "x-forwarded-host"),
        path=_require_one(headers, "x-forwarded-uri"),
        **_read_credentials(headers),
        certificate=read_bare_pem(bare) if bare else b"",
        ip=_read_last(headers, "x-forwarded-for"),
        transport=_name_transport(_read_one(headers, "x-forwarded-proto"), bool(bare)),
        point="traefik",
    )


def _name_transport(scheme: str, proved: bool) -> str:
    if proved:
        return "mtls"
    return "tls" if scheme in ("https", "wss") else "plain"


_READERS: Mapping[str, Callable[[Any, Headers], EnforceDecision]] = {
    ENVOY: _read_envoy,
    NGINX: _read_nginx,
    TRAEFIK: _read_traefik,
}
