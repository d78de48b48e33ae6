"""Requests as questions: who makes one, what it would do to what, and how it is refused."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from troth.core.address import read_address
from troth.core.errors import Denied, Invalid, TrothError
from troth.core.jose.claims import list_audiences
from troth.policy.http_routes import HttpRoutes, HttpTarget, normalise_path
from troth.policy.rulebook import RuleBook
from troth.sdk.access import AccessDecision, Asker, describe_denial
from troth.sdk.enforcer import Enforcer
from troth.sdk.resource import Answer
from troth.sdk.validator import ValidToken
from troth.wire.api.problems import MEDIA_TYPE

DECISION = "troth.decision"
"""Where an application finds the `AccessDecision` of a request: in the ASGI scope, the WSGI
environ."""

NOBODY = "The request shows neither a certificate of this trust domain nor an access token."


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request: its method, host and path as sent, and `path` as the application reads it, perhaps
    below a `root`; where it came from, whether over TLS, the
    peer's certificate (DER) from TLS, and its token, if that was checked."""

    method: str
    host: str
    raw_path: str
    path: str
    root: str
    address: str
    secure: bool
    certificate: bytes | None
    token: ValidToken | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request would do, and on whose behalf."""

    asker: Asker
    target: HttpTarget


class Admission:
    """Says of requests what they want, by the routes of the resources that are served here.

    `public` are paths that nobody is asked about. With `scopes`, a token must have the action among
    its own.
    """

    def __init__(
        self,
        enforcer: Enforcer,
        public: Collection[str] = (),
        *,
        scopes: bool = True,
        explain: bool = True,
    ) -> None:
        self.enforcer = enforcer
        self._public = frozenset(map(normalise_path, public))
        self._scopes = scopes
        self._explain = explain
        self._routes: tuple[RuleBook, HttpRoutes] | None = None

    def is_public(self, raw_path: str) -> bool:
        """Whether nobody is asked about that path."""
        if not self._public:
            return False
        try:
            return normalise_path(raw_path) in self._public
        except Invalid:
            return False

    def read(self, arrived: Arrived) -> Wanted:
        """What a request wants; raises `Denied` or `Invalid` for one that nothing permits."""
        target = self._find_routes().find(arrived.method, arrived.host, arrived.raw_path)
        read = unquote(arrived.raw_path.partition("?")[0])
        if read not in (arrived.path, arrived.root + arrived.path):
            raise Denied("The server in front of the application read the path in another way.")
        token, bound, subject = arrived.token, False, ""
        if token is not None:
            bound, subject = "cnf" in token.claims, token.subject
            if self._scopes and target.action not in token.scopes:
                raise Denied(f"The token doesn't permit {target.action}.")
        elif arrived.certificate is not None:
            peer = self.enforcer.guard.check(arrived.certificate)
            if not peer.allowed:
                raise Denied(" ".join(peer.reasons))
            bound, subject = True, peer.spiffe_id
        else:
            raise Denied(NOBODY)
        return Wanted(Asker(subject, _tell(arrived, target, bound=bound)), target)

    def refuse(self, error: TrothError | AccessDecision) -> Answer:
        """The answer to a request that isn't let in (RFC 9457)."""
        if isinstance(error, AccessDecision):
            status = 503 if error.unavailable else 403
            more: dict[str, Any] = {"decision": error.id}
            detail, code = error.reason, "unavailable" if error.unavailable else "permission_denied"
            if self._explain and not error.unavailable:
                more |= describe_denial(error)
        else:
            status, code, detail, more = 403, "permission_denied", error.detail, {}
        headers = [("content-type", MEDIA_TYPE), ("cache-control", "no-store")]
        if status == 503:
            headers.append(("retry-after", "1"))
        problem = {
            "type": "about:blank",
            "title": "Forbidden" if status == 403 else "Service Unavailable",
            "status": status,
            "detail": detail,
            "code": code,
            "retryable": status == 503,
            **more,
        }
        return Answer(status, headers, msgspec.json.encode(problem))

    def _find_routes(self) -> HttpRoutes:
        known = self.enforcer.known
        if known is None:
            raise Denied("No rules were heard from a troth server yet, so nothing is permitted.")
        if self._routes is None or self._routes[0] is not known.book:
            served = [one for one in known.book.resources.values() if one.name in known.served]
            self._routes = (known.book, HttpRoutes(served))
        return self._routes[1]


def _tell(arrived: Arrived, target: HttpTarget, *, bound: bool) -> dict[str, dict[str, Any]]:
    """The facts of a request."""
    transport = "mtls" if arrived.certificate is not None else "tls" if arrived.secure else "plain"
    request: dict[str, Any] = {
        "transport": transport,
        "bound": bound,
        "method": arrived.method,
        "host": arrived.host.lower(),
        "path": target.path,
    }
    address = read_address(arrived.address)
    if address is not None:  # a Unix socket has none, and what isn't known permits nothing
        request["ip"] = address
    actors: tuple[str, ...] = ()
    told = {"request": request}
    token = arrived.token
    if token is not None:
        actors = token.actors
        request["scopes"] = tuple(sorted(token.scopes))
        request["audience"] = tuple(list_audiences(token.claims))
        task = token.claims.get("txn")
        if isinstance(task, str):
            told["task"] = {"id": task}
    told["delegation"] = {"depth": len(actors), "actors": actors}
    return told
