"""The JWT bearer grant: an assertion that is the grant (RFC 7523, section 2.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.clients import LEDGER, FakeClient, add_client, request_token
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from tests.unit.operations.test_svid_clients import certify
from tests.unit.operations.test_token_request import WRONG_CLAIMS, refuse, validate
from troth.operations.client import JWT_BEARER_ASSERTION, UNKNOWN
from troth.wire.api.identities import MoveIdentity
from troth.wire.oauth.errors import name_error
from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import JWT_BEARER
from troth.wire.oauth.request import OAuthRequest


def bear(client: FakeClient, assertion: str | None = None, **fields: str | None) -> OAuthRequest:
    without = {"client_assertion": None, "client_assertion_type": None}
    asked = client.ask("x", **{"grant_type": JWT_BEARER, **without, **fields})
    grant = (assertion or client.assert_identity(),)
    return replace(asked, form=Form({**asked.form.fields, "assertion": grant}))


@in_house
async def test_an_assertion_is_a_grant_without_a_client(house: FakeHouse) -> None:
    client = await add_client(house)
    answer = await request_token(house, bear(client, scope="read"))
    assert answer.scope == "read"
    claims = await validate(house, answer.access_token)
    assert (claims["sub"], claims["client_id"]) == (client.spiffe_id, client.spiffe_id)
    assert claims["aud"] == LEDGER
    (issued,) = await house.events("token.issued")
    assert issued.body["method"] == "jwt_bearer"


@in_house
async def test_an_assertion_is_used_once_as_a_grant_or_as_a_proof(house: FakeHouse) -> None:
    client = await add_client(house)
    assertion = client.assert_identity()
    await request_token(house, bear(client, assertion))
    refusal = await refuse(house, bear(client, assertion))
    assert name_error(refusal) == "invalid_grant"
    assert "used before" in refusal.detail
    assert "client_assertion" not in refusal.detail
    assert name_error(await refuse(house, client.ask(assertion))) == "invalid_client"
    assert len(await house.events("token.issued")) == 1


@pytest.mark.parametrize(("claims", "sentence"), WRONG_CLAIMS)
def test_an_unsound_grant_is_refused_with_its_reason(
    claims: dict[str, Any], sentence: str, tmp_path: Any
) -> None:
    async def run(house: FakeHouse) -> None:
        client = await add_client(house)
        refusal = await refuse(house, bear(client, client.assert_identity(**claims)))
        assert name_error(refusal) == "invalid_grant"
        assert sentence in refusal.detail
        assert "client_assertion" not in refusal.detail

    in_house(run)(tmp_path)


@in_house
async def test_who_is_unknown_or_cut_off_gets_one_answer(house: FakeHouse) -> None:
    client = await add_client(house)
    stranger = FakeClient("spiffe://example.org/nobody", make_private_key(5), house.clock.now)
    forger = FakeClient(client.spiffe_id, make_private_key(6), house.clock.now)
    refusals = [await refuse(house, bear(one)) for one in (stranger, forger)]
    await house.call("identity.quarantine", MoveIdentity(name="billing", reason="test"), ADMIN)
    await house.settle()
    refusals.append(await refuse(house, bear(client)))
    assert {name_error(one) for one in refusals} == {"invalid_grant"}
    assert {one.detail for one in refusals} == {UNKNOWN}


@in_house
async def test_whoever_authenticates_too_must_be_the_same(house: FakeHouse) -> None:
    client = await add_client(house)
    other = await add_client(house, "shipping", 42)
    proof = {
        "client_assertion_type": JWT_BEARER_ASSERTION,
        "client_assertion": other.assert_identity(),
    }
    assert name_error(await refuse(house, bear(client, **proof))) == "invalid_grant"
    assert name_error(await refuse(house, bear(client, client_id=other.spiffe_id))) == (
        "invalid_grant"
    )
    proof["client_assertion"] = client.assert_identity()
    request = bear(client, **proof)
    await request_token(house, request)
    # Both are used up.
    assert name_error(await refuse(house, bear(client, request.form.find("assertion")))) == (
        "invalid_grant"
    )
    assert name_error(await refuse(house, client.ask(proof["client_assertion"]))) == (
        "invalid_client"
    )


@in_house
async def test_over_mutual_tls_its_token_is_bound(house: FakeHouse) -> None:
    client = await add_client(house)
    other = await add_client(house, "shipping", 42)
    node = await house.join()
    identity = await house.parts.store.read(lambda tx: tx.identities.get_named("billing"))
    certificate = await certify(house, node, identity)
    answer = await request_token(house, replace(bear(client), certificate=certificate))
    assert "x5t#S256" in (await validate(house, answer.access_token))["cnf"]
    refusal = await refuse(house, replace(bear(other), certificate=certificate))
    assert name_error(refusal) == "invalid_grant"


@in_house
async def test_without_an_assertion_there_is_no_grant(house: FakeHouse) -> None:
    client = await add_client(house)
    request = client.ask(grant_type=JWT_BEARER)
    assert name_error(await refuse(house, request)) == "invalid_request"
