"""Tokens in the requests of httpx and requests, against a resource in the same process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import requests

from tests.fakes.oauth import API, FakeAuthorizationServer, FakeCredential
from troth.core.errors import Invalid
from troth.sdk.challenge import blames_token
from troth.sdk.client import OAuthClient
from troth.sdk.httpx import TokenAuth as HttpxAuth
from troth.sdk.requests import TokenAuth as RequestsAuth
from troth.sdk.tokens import TokenSource


@pytest.fixture
def server() -> FakeAuthorizationServer:
    return FakeAuthorizationServer()


@pytest.fixture
def source(server: FakeAuthorizationServer) -> TokenSource:
    client = OAuthClient(server.connect(), FakeCredential(), clock=server.clock)
    return TokenSource(client, clock=server.clock, spawn=lambda work: work())


class Resource:
    """Refuses the first `refusals` tokens with `challenge`."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []
        self.bodies: list[bytes] = []
        self.refusals = 0
        self.challenge = 'Bearer error="invalid_token"'

    def answer(self, authorization: str | None, body: bytes = b"") -> tuple[int, dict[str, str]]:
        self.seen.append(authorization)
        self.bodies.append(body)
        if self.refusals:
            self.refusals -= 1
            return 401, {"www-authenticate": self.challenge}
        return 200, {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        status, headers = self.answer(request.headers.get("authorization"), request.read())
        return httpx.Response(status, headers=headers)


@pytest.fixture
def resource() -> Resource:
    return Resource()


def ask(resource: Resource, auth: HttpxAuth, *, blocking: bool, url: str = API) -> int:
    transport = httpx.MockTransport(resource)
    if blocking:
        with httpx.Client(transport=transport, auth=auth) as client:
            return client.post(url, content=b"body").status_code

    async def work() -> int:
        async with httpx.AsyncClient(transport=transport, auth=auth) as client:
            return (await client.post(url, content=b"body")).status_code

    return asyncio.run(work())


@pytest.mark.parametrize("blocking", [True, False])
def test_httpx_sends_a_token_and_another_one_if_it_was_refused(
    server, source, resource, blocking
) -> None:
    auth = HttpxAuth(source, API, ["read"])
    assert ask(resource, auth, blocking=blocking) == 200
    assert ask(resource, auth, blocking=blocking) == 200
    assert len(set(resource.seen)) == 1
    assert str(resource.seen[0]).startswith("Bearer ey")
    resource.refusals = 1
    assert ask(resource, auth, blocking=blocking) == 200
    assert len(set(resource.seen)) == 2
    assert resource.bodies[-2:] == [b"body", b"body"]
    resource.refusals = 2
    assert ask(resource, auth, blocking=blocking) == 401
    resource.refusals, resource.challenge = 1, 'Bearer error="insufficient_scope"'
    asked = len(server.forms)
    assert ask(resource, auth, blocking=blocking) == 401
    assert len(server.forms) == asked


@pytest.mark.parametrize("blocking", [True, False])
def test_httpx_shows_the_token_to_nobody_else(source, resource, blocking) -> None:
    auth = HttpxAuth(source, API)
    for url in ("http://ledger.example.org", f"{API}:444", "https://evil.example"):
        ask(resource, auth, blocking=blocking, url=url)
    assert resource.seen == [None, None, None]


@pytest.fixture
def served(resource: Resource) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, headers = resource.answer(self.headers["authorization"], body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{listener.server_port}"
        listener.shutdown()
        thread.join()


def test_requests_sends_a_token_and_another_one_if_it_was_refused(
    server, source, resource, served
) -> None:
    auth = RequestsAuth(source, API, origin=served)
    with requests.Session() as session:
        session.trust_env = False
        assert session.post(served, data=b"body", auth=auth).status_code == 200
        resource.refusals = 1
        answer = session.post(served, data=b"body", auth=auth)
        assert answer.status_code == 200
        assert len(answer.history) == 1
        assert len(set(resource.seen)) == 2
        assert resource.bodies == [b"body"] * 3
        resource.refusals = 2
        assert session.post(served, data=b"body", auth=auth).status_code == 401
        resource.refusals = 1  # a body that is used up can't be sent again
        assert session.post(served, data=iter([b"a"]), auth=auth).status_code == 401
        other = RequestsAuth(source, API)
        session.post(served, auth=other)
        assert resource.seen[-1] is None


@pytest.mark.parametrize(
    ("status", "challenge", "blamed"),
    [
        (401, 'Bearer error="invalid_token"', True),
        (401, 'DPoP algs="ES256", error="invalid_token", scope="x"', True),
        (401, "Bearer error=invalid_token", True),
        (403, 'Bearer error="invalid_token"', False),
        (401, 'Bearer error="invalid_tokens"', False),
        (401, "Bearer", False),
        (401, 'Bearer error="invalid_dpop_proof"', False),
    ],
)
def test_a_challenge_blames_the_token_or_it_doesn_t(status, challenge, blamed) -> None:
    assert blames_token(status, [challenge]) is blamed


@pytest.mark.parametrize(
    "url", ["other://[::1]:99999/", ":", "other:x", f"\x1b{API}/", f"\x00{API}"]
)
def test_requests_shows_the_token_to_nobody_whose_url_can_t_be_read(
    source: TokenSource, url: str
) -> None:
    request = requests.PreparedRequest()
    request.prepare(method="GET", url=url)
    assert "Authorization" not in RequestsAuth(source, API)(request).headers


def test_requests_wants_an_origin_that_can_be_read(source: TokenSource) -> None:
    with pytest.raises(Invalid, match="is no URL"):
        RequestsAuth(source, API, origin="https://[::1]:99999/")
