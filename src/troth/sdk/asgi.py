"""Enforcement in front of an ASGI application: each request asks again who the peer is, or what
its access token permits.

Source: the ASGI specification's TLS extension (asgi.readthedocs.io, "TLS Extension", version 0.2).
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

import msgspec

from troth.core.errors import TrothError
from troth.sdk.access import ASKER
from troth.sdk.admission import DECISION, Admission, Arrived
from troth.sdk.decision import Decision
from troth.sdk.enforcer import Enforcer
from troth.sdk.guard import PeerGuard
from troth.sdk.resource import TOKEN, Answer, ProtectedResource, Shown, quote_path
from troth.sdk.validator import ValidToken
from troth.wire.api.problems import MEDIA_TYPE, Problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PEER = "troth.peer"
"""The key in the scope under which the application finds the peer's SPIFFE ID."""

POLICY_VIOLATION = 1008
"""The code with which a WebSocket is refused (RFC 6455, section 7.4.1)."""


class PeerMiddleware:
    """Passes on the requests of peers that `guard` accepts, and refuses the others with 403.

    It takes the peer's certificate from the TLS extension, so the server must offer that, as
    `troth.sdk.listener` makes uvicorn do. A request without a certificate is refused.
    """

    def __init__(self, app: Application, guard: PeerGuard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decide, and pass on or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        decision = self._guard.check(find_certificate(scope))
        if decision.allowed:
            await self._app({**scope, PEER: decision.spiffe_id}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        else:
            await _refuse(decision, send)


class TokenMiddleware:
    """Passes on the requests that `resource` lets in, with the token in ``scope[TOKEN]``.

    It answers the resource's metadata (RFC 9728) itself. Tokens that are bound to a certificate
    need the TLS extension, as `PeerMiddleware` does. A WebSocket is opened by a GET.
    """

    def __init__(self, app: Application, resource: ProtectedResource) -> None:
        self._app = app
        self._resource = resource

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decide, and pass on or refuse."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, send)
            return
        resource, shown = self._resource, _read_request(scope)
        if kind == "http" and shown.path == resource.metadata_path:
            await _answer(resource.answer_metadata(shown.method), send)
            return
        passed = {name: value for name, value in scope.items() if name != TOKEN}
        route = resource.find_route(shown.method, shown.path)
        scheme = ""
        try:
            if route is None or not route.public:
                sight = resource.read_sight(shown)
                scheme = sight.scheme
                token = await resource.validator.check_async(sight)
                passed[TOKEN] = resource.check_scope(token, route)
        except TrothError as error:
            if kind == "websocket":
                await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            else:
                needed = () if route is None else route.actions
                await _answer(resource.refuse(error, scheme, needed), send)
            return
        await self._app(passed, receive, send)


class PolicyMiddleware:
    """Passes on the requests that the rules permit, with the decision in ``scope[DECISION]``, and
    refuses the others: what no route of a resource that is served here fits, and whose maker isn't
    known, among them.

    Who asks is the subject of the token that `TokenMiddleware` checked (put it in front), or the
    peer, whose certificate the TLS extension holds. `public` are paths that nobody is asked about.
    With `scopes`, a token must have the action among its own; with `explain`, who is refused learns
    what is missing. A WebSocket is opened by a GET.
    """

    def __init__(
        self,
        app: Application,
        enforcer: Enforcer,
        *,
        public: Collection[str] = (),
        scopes: bool = True,
        explain: bool = True,
    ) -> None:
        self._app = app
        self._admission = Admission(enforcer, public, scopes=scopes, explain=explain)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decide, and pass on or refuse."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, send)
            return
        admission = self._admission
        passed = {name: value for name, value in scope.items() if name != DECISION}
        arrived = _read_arrived(scope)
        if admission.is_public(arrived.raw_path):
            await self._app(passed, receive, send)
            return
        try:
            wanted = admission.read(arrived)
        except TrothError as error:
            await _turn_away(admission.refuse(error), kind, send)
            return
        asker, target = wanted.asker, wanted.target
        decision = await admission.enforcer.decide_async(
            asker.subject, target.action, target.resource.entity_type, target.id, asker.told
        )
        if not decision.allowed:
            await _turn_away(admission.refuse(decision), kind, send)
            return
        passed[DECISION] = decision
        before = ASKER.set(asker)
        try:
            await self._app(passed, receive, send)
        finally:
            ASKER.reset(before)


def _read_arrived(scope: Scope) -> Arrived:
    raw = scope.get("raw_path")
    hosts = [value for name, value in scope.get("headers") or () if name == b"host"]
    client = scope.get("client")
    token = scope.get(TOKEN)
    return Arrived(
        method=scope.get("method", "GET"),
        # Of two nobody knows which one the application goes by.
        host=hosts[0].decode("latin-1") if len(hosts) == 1 else "",
        raw_path=raw.decode("latin-1") if raw else quote_path(scope["path"]),
        path=scope["path"],
        root=scope.get("root_path", ""),
        address=client[0] if client else "",
        secure=scope.get("scheme") in ("https", "wss"),
        certificate=find_certificate(scope),
        token=token if isinstance(token, ValidToken) else None,
    )


async def _turn_away(answer: Answer, kind: str, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
    else:
        await _answer(answer, send)


def _read_request(scope: Scope) -> Shown:
    """What of a request decides; a path that a server gives decoded alone is encoded again."""
    found: dict[bytes, list[str]] = {b"authorization": [], b"dpop": []}
    for name, value in scope.get("headers") or ():
        if name in found:
            found[name].append(value.decode("latin-1"))
    raw = scope.get("raw_path")
    path = scope["path"]
    return Shown(
        method=scope.get("method", "GET"),
        path=path,
        raw_path=raw.decode("latin-1").partition("?")[0] if raw else quote_path(path),
        authorization=found[b"authorization"],
        proofs=found[b"dpop"],
        certificate=find_certificate(scope),
    )


async def _answer(answer: Answer, send: Send) -> None:
    length = (b"content-length", str(len(answer.body)).encode())
    headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
    start = {"type": "http.response.start", "status": answer.status, "headers": [*headers, length]}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body})


def find_certificate(scope: Scope) -> bytes | None:
    """The peer's certificate (DER) that the TLS extension holds; None if there is none."""
    try:
        tls = (scope.get("extensions") or {}).get("tls") or {}
        chain = () if tls.get("client_cert_error") else tls.get("client_cert_chain") or ()
        for pem in chain:
            return ssl.PEM_cert_to_DER_cert(pem)
    except (ValueError, TypeError, AttributeError):
        pass  # a server that says it in another way has shown nothing
    return None


async def _refuse(decision: Decision, send: Send) -> None:
    """RFC 9457. The reasons are for the peer as well: they tell it nothing but what it did."""
    detail = " ".join(decision.reasons)
    problem = Problem(title="Forbidden", status=403, detail=detail, code="permission_denied")
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode(problem)})
