"""The endpoints about tokens as clients meet them: forms in, the standards' answers out."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from tests.fakes.clients import (
    FakeClient,
    add_client,
    apply,
    render_identity,
    request_token,
    show_token,
)
from tests.fakes.house import FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from troth.core.jose.jws import parse_token
from troth.server.http.oauth import OAuthEndpoints
from troth.server.settings import Limits

FORM = (b"content-type", b"application/x-www-form-urlencoded")
JWT = b"application/token-introspection+jwt"
INTROSPECT = "/oauth/introspect"
REVOKE = "/oauth/revoke"


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Desk:
    """The endpoints of a house, a client with a token, and the API that it calls."""

    house: FakeHouse
    client: FakeClient
    server: FakeClient
    token: str

    async def post(
        self, path: str, body: bytes, *headers: tuple[bytes, bytes], **scope: Any
    ) -> Answer:
        answer = Answer()

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                named = [(name.decode(), value.decode()) for name, value in message["headers"]]
                answer.headers = dict(named)
                assert len(answer.headers) == len(named)
            else:
                answer.body += message["body"]

        request = {
            "method": "POST",
            "scheme": "https",
            "path": path,
            "query_string": b"",
            "headers": list(headers),
        }
        endpoints = OAuthEndpoints(self.house.dispatcher, Limits())
        await endpoints({"type": "http", **request, **scope}, receive, send)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-length"] == str(len(answer.body))
        return answer

    async def ask(
        self,
        path: str,
        who: FakeClient,
        token: str | None = None,
        *headers: tuple[bytes, bytes],
        **fields: str | None,
    ) -> Answer:
        form = show_token(who, self.token if token is None else token, **fields).form
        pairs = [(name, value) for name, values in form.fields.items() for value in values]
        return await self.post(path, urlencode(pairs).encode(), FORM, *headers)


def at_desk(
    test: Callable[[Desk], Coroutine[Any, Any, None]],
) -> Callable[[Path], None]:
    async def run(house: FakeHouse) -> None:
        client = await add_client(house)
        key = make_private_key(51)
        await apply(house, render_identity("ledger-api", key, roles=[]))
        server = FakeClient("spiffe://example.org/ledger-api", key, house.clock.now)
        token = (await request_token(house, client.ask())).access_token
        await test(Desk(house, client, server, token))

    return in_house(run)


@at_desk
async def test_a_live_token_is_described_in_json(desk: Desk) -> None:
    answer = await desk.ask(INTROSPECT, desk.server)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["active"] is True
    assert answer.json["permitted_actions"] == ["read", "write"]
    assert None not in answer.json.values()


@at_desk
async def test_any_other_is_inactive_and_nothing_else(desk: Desk) -> None:
    bodies = {
        (await desk.ask(INTROSPECT, who, token)).body
        for who, token in (
            (desk.server, "nonsense"),
            (desk.server, desk.token[:-4]),
            (desk.server, desk.client.assert_identity()),
            (desk.client, desk.token),
        )
    }
    assert bodies == {b'{"active":false}'}


@at_desk
async def test_the_signed_form_is_negotiated(desk: Desk) -> None:
    answer = await desk.ask(
        INTROSPECT, desk.server, None, (b"accept", b"application/json;q=0.5"), (b"accept", JWT)
    )
    assert (answer.status, answer.headers["content-type"]) == (200, JWT.decode())
    token = parse_token(answer.body.decode())
    assert token.header["typ"] == "token-introspection+jwt"
    assert token.claims["aud"] == desk.server.spiffe_id
    assert token.claims["token_introspection"]["active"] is True
    assert not {"sub", "exp"} & token.claims.keys()
    plain = await desk.ask(INTROSPECT, desk.server, None, (b"accept", b"*/*"))
    assert plain.headers["content-type"] == "application/json"


@at_desk
async def test_a_token_is_given_up_with_an_empty_answer(desk: Desk) -> None:
    for token in (desk.token, desk.token, "unknown"):
        answer = await desk.ask(REVOKE, desk.client, token, token_type_hint="whatever")
        assert (answer.status, answer.body) == (200, b"")
    await desk.house.settle()
    assert (await desk.ask(INTROSPECT, desk.server)).body == b'{"active":false}'
    other = await desk.ask(REVOKE, desk.client, desk.client.assert_identity())
    assert (other.status, other.json["error"]) == (400, "unsupported_token_type")


@pytest.mark.parametrize("path", [INTROSPECT, REVOKE])
def test_what_is_no_proper_request_gets_the_standards_error(path: str, tmp_path: Path) -> None:
    async def run(desk: Desk) -> None:
        form = urlencode({"token": desk.token}).encode()
        unproven = await desk.post(path, form, FORM)
        assert (unproven.status, unproven.json["error"]) == (401, "invalid_client")
        assert unproven.headers["www-authenticate"]
        missing = await desk.ask(path, desk.server, "")
        assert (missing.status, missing.json["error"]) == (400, "invalid_request")
        wrong = [
            await desk.post(
                path, msgspec.json.encode({"token": desk.token}), (FORM[0], b"application/json")
            ),
            await desk.post(path, form + b"&token=again", FORM),
            await desk.post(path, form, FORM, (b"content-encoding", b"gzip")),
            await desk.post(path, b"", FORM, query_string=form),
            await desk.post(path, form + b"&x=%ff", FORM),
            await desk.post(path, form, FORM, (b"dpop", b"a.b.c"), (b"dpop", b"a.b.c")),
        ]
        for answer in wrong:
            assert (answer.status, answer.json["error"]) == (400, "invalid_request")
            assert desk.token not in answer.body.decode()
        told = (await desk.house.events("token.refused"))[-len(wrong) :]
        assert {one.body["error"] for one in told} == {"invalid_request"}
        assert desk.token not in str(told)
        assert (await desk.post(path, b"", FORM, method="GET")).status == 405
        assert (await desk.post(path, b"x=" + b"y" * 70_000, FORM)).status == 413

    at_desk(run)(tmp_path)


@at_desk
async def test_discovery_names_the_endpoints(desk: Desk) -> None:
    found = json.loads(await desk.house.parts.publication.show_metadata())
    origin, mutual = "https://localhost:8443", "https://localhost:8444"
    for name, path in (("introspection_endpoint", INTROSPECT), ("revocation_endpoint", REVOKE)):
        assert found[name] == f"{origin}{path}"
        assert found["mtls_endpoint_aliases"][name] == f"{mutual}{path}"
        methods = found["token_endpoint_auth_methods_supported"]
        assert found[f"{name}_auth_methods_supported"] == methods
        assert "none" not in found[f"{name}_auth_signing_alg_values_supported"]
    assert found["introspection_signing_alg_values_supported"] == ["ES256"]
