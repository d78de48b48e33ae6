"""How a client proves who it is: in one way, by its own name, and never by a secret."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.clients import LEDGER, FakeClient, add_client, introspect, request_token
from tests.fakes.delegation import found_company
from tests.fakes.house import FakeHouse, in_house
from tests.unit.operations.test_authorization_details import detail, write
from tests.unit.operations.test_token_request import refuse
from troth.wire.oauth.answers import plain_text
from troth.wire.oauth.errors import name_error
from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import CLIENT_CREDENTIALS, JWT_BEARER
from troth.wire.oauth.request import OAuthRequest

BASIC = "Basic YTpi"


@in_house
async def test_a_client_proves_itself_in_one_way(house: FakeHouse) -> None:
    """RFC 6749, sections 2.3 and 5.2."""
    client = await add_client(house)
    for request in (
        replace(client.ask(), authorization=BASIC),
        client.ask(client_secret="word"),
        replace(OAuthRequest(client.ask().form, certificate=b"x"), authorization=BASIC),
    ):
        refusal = await refuse(house, request)
        assert name_error(refusal) == "invalid_request"
        assert "one way" in refusal.detail


@in_house
async def test_a_secret_proves_nothing(house: FakeHouse) -> None:
    client = await add_client(house)
    fields = {"grant_type": (CLIENT_CREDENTIALS,), "client_id": (client.spiffe_id,)}
    for request in (
        OAuthRequest(Form(fields), authorization=BASIC),
        OAuthRequest(Form({**fields, "client_secret": ("word",)})),
    ):
        assert name_error(await refuse(house, request)) == "invalid_client"


@in_house
async def test_credentials_beside_a_grant_are_looked_at(house: FakeHouse) -> None:
    """Client authentication is optional there; who tries must succeed (RFC 7521, section 4.1)."""
    client = await add_client(house)
    fields = {"grant_type": (JWT_BEARER,), "resource": (LEDGER,)}
    grant = Form({**fields, "assertion": (client.assert_identity(),)})
    refusal = await refuse(house, OAuthRequest(grant, authorization=BASIC))
    assert name_error(refusal) == "invalid_client"
    assert (await request_token(house, OAuthRequest(grant))).access_token


@in_house
async def test_the_client_id_must_be_that_of_the_assertion(house: FakeHouse) -> None:
    """RFC 7521, section 4.2."""
    client = await add_client(house)
    assert (await request_token(house, client.ask(client_id=client.spiffe_id))).access_token
    other = client.ask(client_id="spiffe://example.org/other")
    assert name_error(await refuse(house, other)) == "invalid_client"
    mine = client.assert_identity()
    form = Form(
        {
            "grant_type": (JWT_BEARER,),
            "assertion": (mine,),
            "client_id": ("spiffe://example.org/other",),
        }
    )
    assert name_error(await refuse(house, OAuthRequest(form))) == "invalid_grant"


@in_house
async def test_what_a_token_is_bound_to_and_for_stands_in_its_introspection(
    house: FakeHouse,
) -> None:
    """RFC 8705, section 3.2, and RFC 9396, section 9.2."""
    company = await found_company(house)
    server: FakeClient = company.clients["ledger-api"]
    asked = write(detail("read", identifier="invoice 7"))
    answer = await company.request("billing", authorization_details=asked)
    told = await introspect(house, server, answer.access_token)
    assert told["authorization_details"] == answer.authorization_details
    node = await house.join()
    found = await house.parts.store.read(lambda tx: tx.identities.get_named("billing"))
    (issued,) = await house.issue(node, found.id)
    bound = await company.request("billing", certificate=issued.chain[0])
    assert (await introspect(house, server, bound.access_token))["cnf"].keys() == {"x5t#S256"}


@pytest.mark.parametrize("text", ['a "quoted" \\ word', "é\n\x00\u202e", "a" * 9_000])
def test_a_description_holds_what_it_may_and_nothing_else(text: str) -> None:
    """RFC 6749, section 5.2: %x20-21 / %x23-5B / %x5D-7E."""
    made = plain_text(text)
    assert 0 < len(made) <= 500
    assert all(" " <= one <= "~" and one not in '"\\' for one in made)
