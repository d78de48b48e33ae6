"""What an issuer can answer a service that asks for tokens, and what callers can show one that
checks them."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import suppress
from functools import cache
from typing import Any

import h11
from hypothesis import strategies as st

from tests.fakes.oauth import API, ISSUER, FakeAuthorizationServer, FakeCredential
from tests.fuzz.agent import open_loop
from tests.fuzz.api import chop
from tests.fuzz.harness import check_refusal, fuzz
from tests.fuzz.mutations import json_documents, mutated, mutated_text
from troth.core.errors import TrothError
from troth.sdk.asgi import TokenMiddleware
from troth.sdk.challenge import blames_token
from troth.sdk.client import OAuthClient
from troth.sdk.exchange import Answer, Request, _converse
from troth.sdk.issuer import Issuer
from troth.sdk.resource import TOKEN, ProtectedResource, Route
from troth.sdk.validator import Sight, TokenValidator

_HTTP = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Busy\r\nretry-after: 5\r\n\r\n",
    b"HTTP/1.0 301 Moved\r\nlocation: http://a/\r\n\r\n",
)


class _Writer:
    def write(self, data: bytes) -> None:
        assert data.startswith(b"POST /oauth/token HTTP/1.1\r\n")

    async def drain(self) -> None:
        pass


@fuzz(st.tuples(mutated(*_HTTP), st.lists(st.integers(0, 200), max_size=3)), stage=open_loop)
def fuzz_exchange(found: tuple[bytes, list[int]], runner: asyncio.Runner) -> None:
    """Every byte of an answer: it is one, or it is refused."""

    async def read() -> Answer:
        reader, writer = asyncio.StreamReader(), _Writer()
        for piece in chop(*found):
            reader.feed_data(piece)
        reader.feed_eof()
        request = Request("POST", f"{ISSUER}/oauth/token", {}, b"a=b")
        return await _converse(request, reader, writer)  # type: ignore[arg-type]

    with suppress(h11.ProtocolError):  # what `exchange` tells as `Unreachable`
        try:
            answer = runner.run(read())
        except TrothError as error:
            check_refusal(error)
        else:
            assert 200 <= answer.status <= 999


_SERVER = FakeAuthorizationServer()
_DOCUMENTS = json_documents(
    _SERVER.metadata,
    {"keys": _SERVER.published},
    {"access_token": "a.b.c", "token_type": "Bearer", "expires_in": 600, "scope": "read"},
    {"error": "invalid_target", "error_description": "Unknown."},
    {"active": True, "sub": "spiffe://example.org/a"},
)
_HEADERS = st.dictionaries(st.sampled_from(["retry-after"]), mutated_text("5", "120"), max_size=1)
_ANSWERS = st.builds(Answer, st.sampled_from([200, 302, 400, 401, 429, 500]), _HEADERS, _DOCUMENTS)


_KEY_SETS = json_documents({"keys": [*_SERVER.published, {"kty": "RSA"}, 7]})
_WITH_KEYS = _KEY_SETS.map(lambda body: (None, [Answer(200, {}, body)]))


@fuzz(
    st.tuples(st.none() | _ANSWERS, st.lists(_ANSWERS, min_size=1, max_size=2)) | _WITH_KEYS,
    examples=120,
)
def fuzz_issuer(found: tuple[Answer | None, list[Answer]]) -> None:
    """Whatever an issuer says of itself and to requests is taken, or refused in a sentence."""
    metadata, answers = found

    def send(request: Request, context: ssl.SSLContext) -> Answer:
        assert request.url.startswith("https://")
        if "/.well-known/" in request.url:
            return metadata or Answer(200, {}, json.dumps(_SERVER.metadata).encode())
        return answers[0] if len(answers) == 1 else answers.pop()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    issuer = Issuer(ISSUER, context, clock=_SERVER.clock, send=send)
    client = OAuthClient(issuer, FakeCredential(), clock=_SERVER.clock)
    validator = TokenValidator(issuer, [API], None, clock=_SERVER.clock)
    for ask in (
        lambda: client.request(API),
        lambda: client.introspect("t"),
        lambda: client.revoke("t"),
        lambda: validator.check(Sight("bearer", _good())),
    ):
        try:
            ask()
        except TrothError as error:
            check_refusal(error, internal=True)


@cache
def _good() -> str:
    return _SERVER.issue()


@cache
def _resource() -> ProtectedResource:
    validator = TokenValidator(_SERVER.connect(), [API], None, clock=_SERVER.clock)
    return ProtectedResource(API, validator, [Route("GET", "/a/*", ("read",))])


_SHOWN = mutated_text(f"Bearer {_good()}", f"DPoP {_good()}", f"bearer  {_good()}")
_PATHS = st.sampled_from(["/a/b", "/a/b"]) | mutated_text("/a/b", "/a/../b", "/a//b")
_REQUESTS = st.tuples(_PATHS, st.lists(_SHOWN, max_size=2), st.lists(_SHOWN, max_size=1))


@fuzz(_REQUESTS, stage=open_loop)
def fuzz_bearers(found: tuple[str, list[str], list[str]], runner: asyncio.Runner) -> None:
    """Nobody reaches the application but with the one token, where a route allows it."""
    path, shown, proofs = found
    reached: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope[TOKEN])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody reads a refused request")

    headers = [(b"authorization", one.encode("utf-8", "surrogatepass")) for one in shown]
    headers += [(b"dpop", one.encode("utf-8", "surrogatepass")) for one in proofs]
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
    runner.run(TokenMiddleware(app, _resource())(scope, receive, send))
    assert len(reached) + bool(sent) == 1
    if reached:
        (one,) = shown
        assert one.lower().startswith("bearer ")
        assert one.strip(" ").endswith(_good())
        assert path.startswith("/a/")
        assert path.count("/") == 2
        return
    assert sent[0]["status"] in (400, 401, 403)
    values = [value.decode("latin-1") for name, value in sent[0]["headers"]]
    assert not any(set(value) & {"\r", "\n", "\0"} for value in values)


@fuzz(st.lists(mutated_text('Bearer error="invalid_token"'), max_size=3))
def fuzz_challenges(challenges: list[str]) -> None:
    """Reading a challenge takes no time to speak of."""
    assert blames_token(401, challenges) in (True, False)
