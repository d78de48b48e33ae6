"""Clients that prove themselves with an SVID, and tokens bound to a certificate."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from tests.fakes.clients import LEDGER, ORIGIN, add_client, apply, render_manifest, request_token
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.unit.operations.test_token_request import refuse, validate
from troth.core.jose.jwk import encode_base64url
from troth.operations.svidclient import JWT_SPIFFE_ASSERTION
from troth.store.records import format_serial
from troth.wire.api.certificates import InstanceClaim, RevokeCertificate
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.jwt_svids import IssueJwtSvids, JwtSvidRequest
from troth.wire.oauth.errors import name_error
from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import CLIENT_CREDENTIALS
from troth.wire.oauth.request import OAuthRequest


async def hold(house: FakeHouse, name: str = "billing") -> tuple[Any, Any]:
    """Node and identity of a workload that is registered as a client."""
    client = await add_client(house, name, client=None)
    node = await house.join()
    found = await house.parts.store.read(lambda tx: tx.identities.get_named(name))
    assert str(found.spiffe_id) == client.spiffe_id
    return node, found


async def certify(house: FakeHouse, node: Any, identity: Any) -> bytes:
    (issued,) = await house.issue(node, identity.id)
    der: bytes = issued.chain[0]
    return der


async def fetch_jwt(house: FakeHouse, node: Any, identity: Any, *audiences: str) -> str:
    instance = InstanceClaim(key="ab" * 16, pid=7, selectors=["unix:uid:1001"])
    request = JwtSvidRequest(
        identity_id=identity.id, instance=instance, audiences=list(audiences) or [ORIGIN]
    )
    body = IssueJwtSvids(requests=[request])
    (issued,) = (await house.call("jwtsvid.issue", body, node)).results
    text: str = issued.token
    return text


def ask(certificate: bytes | None = None, **fields: str) -> OAuthRequest:
    values = {"grant_type": CLIENT_CREDENTIALS, "resource": LEDGER, **fields}
    return OAuthRequest(Form({n: (v,) for n, v in values.items()}), certificate)


def ask_with(assertion: str, **fields: str) -> OAuthRequest:
    proof = {"client_assertion_type": JWT_SPIFFE_ASSERTION, "client_assertion": assertion}
    return ask(None, **proof, **fields)


@in_house
async def test_a_certificate_is_proof_and_binds_the_token(house: FakeHouse) -> None:
    node, identity = await hold(house)
    der = await certify(house, node, identity)
    answer = await request_token(house, ask(der))
    claims = await validate(house, answer.access_token)
    thumbprint = encode_base64url(hashlib.sha256(der).digest())
    assert claims["cnf"] == {"x5t#S256": thumbprint}
    assert claims["sub"] == str(identity.spiffe_id)
    (issued,) = await house.events("token.issued")
    assert issued.body["method"] == "tls_client_auth"
    assert issued.body["cnf"] == claims["cnf"]


@in_house
async def test_a_certificate_beside_an_assertion_binds_too(house: FakeHouse) -> None:
    client = await add_client(house, name="keyed")
    node, identity = await hold(house)
    der = await certify(house, node, identity)
    answer = await request_token(house, replace(client.ask(), certificate=der))
    claims = await validate(house, answer.access_token)
    assert claims["sub"] == client.spiffe_id
    assert claims["cnf"] == {"x5t#S256": encode_base64url(hashlib.sha256(der).digest())}
    end = x509.load_der_x509_certificate(der).not_valid_after_utc
    house.clock.advance(end - house.clock.now() - timedelta(seconds=90))
    house.parts.snapshot.hear()
    assert (await request_token(house, replace(client.ask(), certificate=der))).expires_in == 90


@in_house
async def test_a_bound_token_never_outlives_its_certificate(house: FakeHouse) -> None:
    node, identity = await hold(house)
    der = await certify(house, node, identity)
    end = x509.load_der_x509_certificate(der).not_valid_after_utc
    house.clock.advance(end - house.clock.now() - timedelta(seconds=90))
    house.parts.snapshot.hear()
    assert (await request_token(house, ask(der))).expires_in == 90


@in_house
async def test_a_revoked_certificate_is_no_proof(house: FakeHouse) -> None:
    node, identity = await hold(house)
    der = await certify(house, node, identity)
    serial = format_serial(x509.load_der_x509_certificate(der).serial_number)
    await house.call(
        "certificate.revoke", RevokeCertificate(serial=serial, reason="keyCompromise"), ADMIN
    )
    await house.settle()
    assert name_error(await refuse(house, ask(der))) == "invalid_client"


@in_house
async def test_a_jwt_svid_for_this_server_is_proof(house: FakeHouse) -> None:
    node, identity = await hold(house)
    await house.settle()
    assertion = await fetch_jwt(house, node, identity)
    answer = await request_token(house, ask_with(assertion))
    claims = await validate(house, answer.access_token)
    assert claims["sub"] == str(identity.spiffe_id)
    assert "cnf" not in claims
    # Agents hand the same one out while it is good: it may be shown again.
    await request_token(house, ask_with(assertion, client_id=str(identity.spiffe_id)))


@pytest.mark.parametrize("audiences", [["https://elsewhere.example"], [ORIGIN, "another"]])
def test_a_jwt_svid_for_others_is_no_proof(audiences: list[str], tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        node, identity = await hold(house)
        await house.settle()
        assertion = await fetch_jwt(house, node, identity, *audiences)
        assert name_error(await refuse(house, ask_with(assertion))) == "invalid_client"

    in_house(run)(tmp_path)


@in_house
async def test_an_access_token_never_passes_for_a_jwt_svid_nor_the_other_way(
    house: FakeHouse,
) -> None:
    node, identity = await hold(house)
    await apply(
        house,
        render_manifest(
            "Resource", "troth", identifiers=[ORIGIN], actions={"read": "Pretend to be troth"}
        ),
        render_manifest(
            "Role", "pretender", permissions=[{"resource": "troth", "actions": ["read"]}]
        ),
    )
    await add_client(house, client=None, roles=["pretender"])
    assertion = await fetch_jwt(house, node, identity)
    token = (await request_token(house, ask_with(assertion, resource=ORIGIN))).access_token
    refusal = await refuse(house, ask_with(token, resource=ORIGIN))
    assert name_error(refusal) == "invalid_client"
    assert "typ must be JWT" in refusal.detail
    with pytest.raises(Exception, match="typ must be at\\+jwt"):
        await validate(house, assertion, ORIGIN)


@in_house
async def test_who_is_quarantined_proves_nothing(house: FakeHouse) -> None:
    node, identity = await hold(house)
    der = await certify(house, node, identity)
    assertion = await fetch_jwt(house, node, identity)
    await house.call("identity.quarantine", MoveIdentity(name="billing", reason="test"), ADMIN)
    await house.settle()
    assert name_error(await refuse(house, ask(der))) == "invalid_client"
    assert name_error(await refuse(house, ask_with(assertion))) == "invalid_client"


@in_house
async def test_another_client_id_than_the_proven_one_is_refused(house: FakeHouse) -> None:
    node, identity = await hold(house)
    der = await certify(house, node, identity)
    other = "spiffe://example.org/other"
    assert name_error(await refuse(house, ask(der, client_id=other))) == "invalid_client"
    assertion = await fetch_jwt(house, node, identity)
    refusal = await refuse(house, ask_with(assertion, client_id=other))
    assert name_error(refusal) == "invalid_client"


@pytest.mark.parametrize(("binding", "bound"), [("mtls", True), ("any", True), ("dpop", False)])
def test_a_resource_may_demand_bound_tokens(binding: str, bound: bool, tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        node, identity = await hold(house)
        await apply(
            house,
            render_manifest(
                "Resource",
                "ledger",
                identifiers=[LEDGER],
                actions={"read": "See entries"},
                token={"binding": binding},
            ),
        )
        assertion = await fetch_jwt(house, node, identity)
        assert name_error(await refuse(house, ask_with(assertion))) == "invalid_request"
        der = await certify(house, node, identity)
        if bound:
            await request_token(house, ask(der))
        else:
            assert "DPoP" in (await refuse(house, ask(der))).detail

    in_house(run)(tmp_path)


@in_house
async def test_without_any_proof_the_answer_says_what_there_is(house: FakeHouse) -> None:
    await hold(house)
    refusal = await refuse(house, ask())
    assert name_error(refusal) == "invalid_client"
    assert "mtls_endpoint_aliases" in refusal.detail
