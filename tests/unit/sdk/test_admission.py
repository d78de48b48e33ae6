"""Requests that are let in by the rules, and those that aren't: ASGI and WSGI."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import pytest

from tests.fakes.enforcers import ISSUER, TILL, make_enforcer
from tests.fakes.issuer import NOW
from troth.core.clock import VirtualClock
from troth.sdk import asgi, wsgi
from troth.sdk.access import ASKER
from troth.sdk.admission import DECISION
from troth.sdk.enforcer import Enforcer
from troth.sdk.resource import TOKEN
from troth.sdk.validator import ValidToken
from troth.wire.pem import render_pem

DER = ISSUER.issue(ISSUER.plan(path="/till"))
PEM = render_pem("CERTIFICATE", DER).decode()


def make_token(*scopes: str, **claims: Any) -> ValidToken:
    return ValidToken(
        subject=TILL,
        client_id=TILL,
        actors=(),
        scopes=frozenset(scopes),
        expires_at=NOW + timedelta(minutes=5),
        jti="t",
        claims={"aud": "https://ledger.example.org", **claims},
    )


class Outcome:
    """What became of a request: the application's scope or environ, or the refusal."""

    def __init__(self, reached: list[Any], status: int, body: bytes) -> None:
        self.reached = reached
        self.status = status
        self.body = body

    @property
    def problem(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


def ask_asgi(enforcer: Enforcer, method: str, raw: str, **more: Any) -> Outcome:
    reached: list[Any] = []
    sent: list[Any] = []
    options = more.pop("options", {})
    token, certificate = more.pop("token", None), more.pop("certificate", PEM)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append((scope, ASKER.get()))

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": more.pop("path", raw),
        "raw_path": raw.encode(),
        "scheme": "https",
        "client": ("10.1.2.3", 1),
        "headers": [(b"host", b"ledger.example.org")],
        "extensions": {"tls": {"client_cert_chain": [certificate] if certificate else []}},
        **more,
    }
    if token is not None:
        scope[TOKEN] = token
    asyncio.run(asgi.PolicyMiddleware(app, enforcer, **options)(scope, None, send))  # type: ignore[arg-type]
    if sent and sent[0]["type"] == "websocket.close":
        return Outcome(reached, sent[0]["code"], b"")
    return Outcome(reached, sent[0]["status"] if sent else 200, sent[1]["body"] if sent else b"")


def ask_wsgi(enforcer: Enforcer, method: str, raw: str, **more: Any) -> Outcome:
    reached: list[Any] = []
    started: list[str] = []
    options = more.pop("options", {})
    token, certificate = more.pop("token", None), more.pop("certificate", PEM)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        reached.append((environ, ASKER.get()))
        return [b""]

    def start_response(status: str, headers: Any) -> None:
        started.append(status)

    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": more.pop("path", raw),
        "REQUEST_URI": raw,
        "REMOTE_ADDR": "10.1.2.3",
        "HTTP_HOST": "ledger.example.org",
        "wsgi.url_scheme": "https",
        "SSL_CLIENT_CERT": certificate or "",
        **more,
    }
    if token is not None:
        environ[TOKEN] = token
    body = b"".join(wsgi.PolicyMiddleware(app, enforcer, **options)(environ, start_response))
    return Outcome(reached, int(started[0][:3]) if started else 200, body)


WAYS = pytest.mark.parametrize("ask", [ask_asgi, ask_wsgi])


@WAYS
def test_who_may_is_let_in_and_the_application_knows_why(ask: Any) -> None:
    found = ask(make_enforcer(), "GET", "/books/b1?page=2", path="/books/b1")
    ((scope, asker),) = found.reached
    decision = scope[DECISION]
    assert decision.allowed
    assert decision.policies == ("role/clerk/1",)
    assert asker.subject == TILL
    assert asker.told["request"]["transport"] == "mtls"
    assert asker.told["request"]["bound"] is True
    assert asker.told["request"]["path"] == "/books/b1"
    assert str(asker.told["request"]["ip"]) == "10.1.2.3"
    assert ASKER.get() is None


@WAYS
def test_who_may_not_is_told_what_is_missing(ask: Any) -> None:
    found = ask(make_enforcer(), "POST", "/books/b1")
    assert (found.reached, found.status) == ([], 403)
    problem = found.problem
    assert (problem["code"], problem["detail"]) == ("permission_denied", "No rule permits it.")
    assert problem["decision"].startswith("dec_")
    assert problem["advice"] == ["trust.score ≥ 90"]
    quiet = ask(make_enforcer(), "POST", "/books/b1", options={"explain": False})
    assert "advice" not in quiet.problem


@WAYS
@pytest.mark.parametrize(
    "raw",
    [
        "/other",
        "/books",
        "/books/",
        "/books//b1",
        "/books/b1/x",
        "/books/%2e%2e/b1",
        "/books/a%2fb",
        "/books/b1.",
        "/BOOKS/b1",
    ],
)
def test_what_no_route_fits_is_refused(ask: Any, raw: str) -> None:
    found = ask(make_enforcer(), "GET", raw, path=unquote(raw))
    assert (found.reached, found.status) == ([], 403)


@WAYS
def test_a_path_that_the_application_reads_in_another_way_is_refused(ask: Any) -> None:
    found = ask(make_enforcer(), "GET", "/books/b1", path="/admin")
    assert (found.reached, found.status) == ([], 403)
    assert "another way" in found.problem["detail"]


@WAYS
def test_nobody_without_a_certificate_or_token(ask: Any) -> None:
    found = ask(make_enforcer(), "GET", "/books/b1", certificate="")
    assert (found.reached, found.status) == ([], 403)
    assert "neither a certificate" in found.problem["detail"]
    public = ask(make_enforcer(), "GET", "/health", certificate="", options={"public": ["/health"]})
    ((scope, asker),) = public.reached
    assert (DECISION in scope, asker) == (False, None)


@WAYS
def test_a_token_says_who_asks_and_limits_what(ask: Any) -> None:
    enforcer = make_enforcer()
    assert ask(enforcer, "GET", "/books/b1", token=make_token("read")).reached
    found = ask(enforcer, "GET", "/books/b1", token=make_token("write"))
    assert (found.reached, found.status) == ([], 403)
    assert found.problem["detail"] == "The token doesn't permit read."
    loose = {"scopes": False}
    assert ask(enforcer, "GET", "/books/b1", token=make_token(), options=loose).reached
    found = ask(enforcer, "GET", "/books/b1", token=make_token("read", cnf={"jkt": "x"}))
    ((_, asker),) = found.reached
    assert asker.told["request"]["scopes"] == ("read",)
    assert asker.told["request"]["audience"] == ("https://ledger.example.org",)
    assert asker.told["request"]["bound"] is True
    assert asker.told["delegation"] == {"depth": 0, "actors": ()}


@WAYS
def test_where_nobody_says_what_is_true_it_is_no_fault_of_the_caller(ask: Any) -> None:
    clock = VirtualClock(NOW)
    enforcer = make_enforcer(clock, lease=3.0)
    clock.advance(timedelta(seconds=4))
    found = ask(enforcer, "GET", "/books/b1")
    assert (found.reached, found.status) == ([], 503)
    assert found.problem["retryable"] is True
    silent = ask(make_enforcer(silent=True), "GET", "/books/b1")
    assert (silent.reached, silent.status) == ([], 403)


def test_a_websocket_is_closed_and_the_lifespan_goes_by() -> None:
    found = ask_asgi(make_enforcer(), "POST", "/books/b1", type="websocket")
    assert (found.reached, found.status) == ([], 1008)
    assert ask_asgi(make_enforcer(silent=True), "", "", type="lifespan").reached
    two = [(b"host", b"a.example.org"), (b"host", b"b.example.org")]
    assert ask_asgi(make_enforcer(), "GET", "/books/b1", headers=two).status == 403
