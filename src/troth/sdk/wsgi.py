"""Access tokens in front of a WSGI application.

The peer's certificate isn't part of WSGI (PEP 3333): servers hand it over in ways of their own.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from typing import Any

from troth.core.errors import TrothError
from troth.sdk.access import ASKER
from troth.sdk.admission import DECISION, Admission, Arrived
from troth.sdk.enforcer import Enforcer
from troth.sdk.resource import TOKEN, Answer, ProtectedResource, Shown, quote_path
from troth.sdk.validator import ValidToken

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
FindCertificate = Callable[[Environ], bytes | None]


def find_certificate(environ: Environ) -> bytes | None:
    """The peer's certificate (DER) under gunicorn (its socket), and under mod_wsgi and uWSGI
    (``SSL_CLIENT_CERT``). A header of the request never counts: anybody can send one."""
    connection = environ.get("gunicorn.socket")
    if isinstance(connection, ssl.SSLSocket):
        return connection.getpeercert(True)
    pem = environ.get("SSL_CLIENT_CERT")
    try:
        return ssl.PEM_cert_to_DER_cert(pem) if isinstance(pem, str) and pem else None
    except ValueError:
        return None


class TokenMiddleware:
    """Passes on the requests that `resource` lets in, with the token in ``environ[TOKEN]``.

    `find_certificate` tells the peer's certificate where tokens are bound to one. It answers the
    resource's metadata itself.
    """

    def __init__(
        self,
        app: Application,
        resource: ProtectedResource,
        find_certificate: FindCertificate = find_certificate,
    ) -> None:
        self._app = app
        self._resource = resource
        self._find_certificate = find_certificate

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Decide, and pass on or refuse."""
        environ.pop(TOKEN, None)
        resource, shown = self._resource, self._read(environ)
        if shown.path == resource.metadata_path:
            return _answer(resource.answer_metadata(shown.method), start_response)
        route = resource.find_route(shown.method, shown.path)
        if route is not None and route.public:
            return self._app(environ, start_response)
        scheme = ""
        try:
            sight = resource.read_sight(shown)
            scheme = sight.scheme
            token = resource.check_scope(resource.validator.check(sight), route)
        except TrothError as error:
            needed = () if route is None else route.actions
            return _answer(resource.refuse(error, scheme, needed), start_response)
        environ[TOKEN] = token
        return self._app(environ, start_response)

    def _read(self, environ: Environ) -> Shown:
        path, raw = _read_path(environ)
        return Shown(
            method=environ["REQUEST_METHOD"],
            path=path,
            raw_path=raw,
            authorization=_list_header(environ, "HTTP_AUTHORIZATION"),
            proofs=_list_header(environ, "HTTP_DPOP"),
            certificate=self._find_certificate(environ),
        )


class PolicyMiddleware:
    """As that of `troth.sdk.asgi`, with the decision in ``environ[DECISION]``. Put the
    `TokenMiddleware` in front where tokens say who asks; `find_certificate` tells the peer's
    certificate."""

    def __init__(
        self,
        app: Application,
        enforcer: Enforcer,
        find_certificate: FindCertificate = find_certificate,
        *,
        public: Collection[str] = (),
        scopes: bool = True,
        explain: bool = True,
    ) -> None:
        self._app = app
        self._admission = Admission(enforcer, public, scopes=scopes, explain=explain)
        self._find_certificate = find_certificate

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Decide, and pass on or refuse."""
        environ.pop(DECISION, None)
        admission, arrived = self._admission, self._read(environ)
        if admission.is_public(arrived.raw_path):
            return self._app(environ, start_response)
        try:
            wanted = admission.read(arrived)
        except TrothError as error:
            return _answer(admission.refuse(error), start_response)
        asker, target = wanted.asker, wanted.target
        decision = admission.enforcer.decide(
            asker.subject, target.action, target.resource.entity_type, target.id, asker.told
        )
        if not decision.allowed:
            return _answer(admission.refuse(decision), start_response)
        environ[DECISION] = decision
        before = ASKER.set(asker)
        try:
            return self._app(environ, start_response)
        finally:
            ASKER.reset(before)

    def _read(self, environ: Environ) -> Arrived:
        token = environ.get(TOKEN)
        path, raw = _read_path(environ)
        return Arrived(
            method=environ["REQUEST_METHOD"],
            host=str(environ.get("HTTP_HOST", "")),
            raw_path=raw,
            path=path,
            root="",
            address=str(environ.get("REMOTE_ADDR", "")),
            secure=environ.get("wsgi.url_scheme") == "https",
            certificate=self._find_certificate(environ),
            token=token if isinstance(token, ValidToken) else None,
        )


def _read_path(environ: Environ) -> tuple[str, str]:
    """The path, decoded and as it was sent."""
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    # Bytes as latin-1 (PEP 3333, "A Note on String Types").
    decoded = path.encode("latin-1", "replace").decode("utf-8", "replace")
    raw = str(environ.get("REQUEST_URI") or environ.get("RAW_URI") or "").partition("?")[0]
    return decoded, raw if raw.startswith("/") else quote_path(decoded)


def _list_header(environ: Environ, name: str) -> list[str]:
    """The value of a header. Servers join several by commas, and no token holds one of those."""
    value = environ.get(name)
    return [str(value)] if value else []


def _answer(answer: Answer, start_response: StartResponse) -> list[bytes]:
    status = HTTPStatus(answer.status)
    length = ("content-length", str(len(answer.body)))
    start_response(f"{status.value} {status.phrase}", [*answer.headers, length])
    return [answer.body]
