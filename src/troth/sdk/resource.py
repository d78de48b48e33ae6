"""A protected resource: which action each of its routes needs, how it refuses, how it is found.

Sources: RFC 6750 sections 2.1 and 3, RFC 9449 section 7.1, RFC 9728 sections 2, 3.1 and 5.1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from troth.core.errors import Invalid, Passing, TrothError
from troth.core.jose.dpop import ALGORITHMS as PROOF_ALGORITHMS
from troth.policy.resource import Binding
from troth.sdk.errors import (
    InsufficientScope,
    InvalidProof,
    InvalidRequest,
    InvalidToken,
    MissingToken,
)
from troth.sdk.exchange import check_https
from troth.sdk.validator import Sight, TokenValidator, ValidToken
from troth.wire.api.problems import MEDIA_TYPE, Problem
from troth.wire.oauth.answers import plain_text
from troth.wire.oauth.protected import (
    METADATA_SECONDS,
    WELL_KNOWN,
    find_metadata_path,
    render_resource_metadata,
)

TOKEN = "troth.token"  # noqa: S105 - a name
"""Where an application finds the `ValidToken` of a request: in the ASGI scope, the WSGI environ."""

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Route:
    """What requests of `method` ("*" for any) to `path` need.

    In `path` a segment ``*`` stands for any one, and ``**`` at the end for all that follow.
    `actions` are the scopes that a token must have, all of them; none: any good token. A `public`
    route needs no token at all.
    """

    method: str
    path: str
    actions: tuple[str, ...] = ()
    public: bool = False

    def matches(self, method: str, segments: Sequence[str]) -> bool:
        """Whether a request is for this route; HEAD is as GET (RFC 9110, section 9.3.2)."""
        if self.method not in ("*", method) and (self.method, method) != ("GET", "HEAD"):
            return False
        wanted = self.path.split("/")[1:]
        if wanted[-1] == "**":
            wanted = wanted[:-1]
            if len(segments) <= len(wanted):
                return False
            segments = segments[: len(wanted)]
        return len(segments) == len(wanted) and all(
            given != "" if want == "*" else given == want
            for want, given in zip(wanted, segments, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """What a request brings: the values of those headers, the peer's certificate (DER), and the
    path as it was sent."""

    method: str
    path: str
    raw_path: str
    authorization: Sequence[str]
    proofs: Sequence[str]
    certificate: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the resource's own, in place of the application's."""

    status: int
    headers: Headers
    body: bytes


class ProtectedResource:
    """What stands between requests and an application.

    `identifier` is the URI by which clients name it (RFC 8707), and its origin the one where it is
    reached unless `origin` names another. The first of `routes` that matches counts, and **what
    none matches is refused**. `scopes` are those that the application asks for by itself, beyond
    what its routes need: clients learn of them from the metadata. `name` is for people.
    """

    def __init__(
        self,
        identifier: str,
        validator: TokenValidator,
        routes: Collection[Route],
        *,
        origin: str = "",
        name: str = "",
        scopes: Collection[str] = (),
    ) -> None:
        place = urlsplit(check_https(origin or identifier))
        self.identifier = identifier
        self.validator = validator
        self._origin = f"https://{place.netloc}"
        self._routes = tuple(routes)
        self._name = name
        for route in self._routes:
            _check_route(route)
        for action in scopes:
            _check_action(action)
        self._scopes = {*scopes, *(action for route in self._routes for action in route.actions)}
        self.metadata_path = WELL_KNOWN if origin else find_metadata_path(identifier)

    # Deciding

    def find_route(self, method: str, path: str) -> Route | None:
        """The route that a request is for. Paths that programs read in several ways have none."""
        segments = path.split("/")[1:]
        if not path.startswith("/") or any(segment in (".", "..") for segment in segments):
            return None
        if "\\" in path or "//" in path or "\0" in path:
            return None
        return next((route for route in self._routes if route.matches(method, segments)), None)

    def read_sight(self, shown: Shown) -> Sight:
        """The token that a request shows; raises `MissingToken` or `InvalidRequest`."""
        if len(shown.authorization) > 1 or len(shown.proofs) > 1:
            raise InvalidRequest("Authorization and DPoP may be there once (RFC 6750, 2).")
        scheme, _, token = (
            shown.authorization[0].partition(" ") if shown.authorization else ("",) * 3
        )
        scheme, token = scheme.lower(), token.strip(" ")
        if scheme not in ("bearer", "dpop"):
            raise MissingToken("Show an access token in the header Authorization.")
        if not token or " " in token or not token.isascii():
            raise InvalidRequest("The header Authorization holds no token after its scheme.")
        return Sight(
            scheme=scheme,
            token=token,
            certificate=shown.certificate,
            proof=shown.proofs[0] if shown.proofs else None,
            method=shown.method,
            url=self._origin + shown.raw_path,
        )

    def check_scope(self, token: ValidToken, route: Route | None) -> ValidToken:
        """Raise `InsufficientScope` unless the token permits what the route needs."""
        if route is None:
            raise InsufficientScope("Nobody may do this here: no route of this resource allows it.")
        missing = sorted(set(route.actions) - token.scopes)
        if missing:
            detail = f"The token doesn't permit {', '.join(missing)}."
            raise InsufficientScope(detail, route.actions)
        return token

    # Answering

    def describe(self) -> Mapping[str, Any]:
        """The metadata document (RFC 9728, section 2)."""
        binding = self.validator.binding
        return render_resource_metadata(
            self.identifier,
            self.validator.issuer_url,
            self._scopes,
            mtls_only=binding is Binding.MTLS,
            dpop_only=binding is Binding.DPOP,
            name=self._name,
        )

    def answer_metadata(self, method: str) -> Answer:
        """The metadata document as an answer."""
        if method not in ("GET", "HEAD"):
            return Answer(405, [("allow", "GET, HEAD")], b"")
        headers = [
            ("content-type", "application/json"),
            ("cache-control", f"max-age={METADATA_SECONDS}"),
        ]
        body = b"" if method == "HEAD" else msgspec.json.encode(self.describe())
        return Answer(200, headers, body)

    def refuse(self, error: TrothError, scheme: str = "", needed: Collection[str] = ()) -> Answer:
        """The answer to a request that isn't let in; `needed` is what its route demands."""
        status = _find_status(error)
        headers: Headers = [("content-type", MEDIA_TYPE), ("cache-control", "no-store")]
        if isinstance(error, Passing):
            headers.append(("retry-after", str(max(1, round(error.retry_after or 1)))))
        else:
            headers += self._challenge(error, scheme, needed)
        title = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden"}.get(
            status, "Service Unavailable"
        )
        problem = Problem(
            title=title,
            status=status,
            detail=error.detail,
            code=error.code,
            retryable=error.retryable,
        )
        return Answer(status, headers, msgspec.json.encode(problem))

    def _challenge(self, error: TrothError, scheme: str, needed: Collection[str]) -> Headers:
        """Every scheme that may be used, the one that was used with what was wrong with it
        (RFC 9110, section 11.6.1)."""
        binding = self.validator.binding
        schemes = {Binding.MTLS: ["Bearer"], Binding.DPOP: ["DPoP"]}.get(
            binding, ["Bearer", "DPoP"]
        )
        code = str(getattr(error, "error", ""))
        if isinstance(error, InvalidProof):
            scheme = "dpop"
        used = [one for one in schemes if one.lower() == scheme] or schemes
        headers = []
        for one in schemes:
            parts = {"resource_metadata": f"{self._origin}{self.metadata_path}"}
            if needed and code in ("", "insufficient_scope"):
                parts["scope"] = " ".join(sorted(needed))
            if code and one in used:
                parts |= {"error": code, "error_description": plain_text(error.detail)}
            if one == "DPoP":
                parts["algs"] = " ".join(PROOF_ALGORITHMS)
            words = ", ".join(f'{name}="{value}"' for name, value in parts.items())
            headers.append(("www-authenticate", f"{one} {words}"))
        return headers


def quote_path(path: str) -> str:
    """A decoded path as a client would have sent it: for servers that don't keep the original."""
    return quote(path, safe="/:@!$&'()*+,;=~-._", errors="surrogatepass")


def _find_status(error: TrothError) -> int:
    if isinstance(error, Passing):
        return 503
    if isinstance(error, InsufficientScope):
        return 403
    if isinstance(error, InvalidRequest):
        return 400
    assert isinstance(error, InvalidToken | MissingToken | InvalidProof)
    return 401


def _check_route(route: Route) -> None:
    inner = route.path.split("/")[1:-1]
    if not route.path.startswith("/") or "**" in inner or (route.public and route.actions):
        raise Invalid(
            f"The route {route.method} {route.path} can't be: a path begins with / and has ** at "
            "its end only, and a public route needs no actions."
        )
    for action in route.actions:
        _check_action(action)


def _check_action(action: str) -> None:
    if not action.isascii() or not action.isprintable() or set(action) & set(' "\\'):
        raise Invalid(f"{action!r} can't be an action: it has what no scope may (RFC 6749).")
