"""`token.exchange` for transaction tokens: who may begin one, what it says, what never changes."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.clients import LEDGER, ORIGIN, apply, introspect, render_identity, surrender
from tests.fakes.delegation import ARCHIVE, PEOPLE, VAULT, Company, found_company
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.transactions import (
    DOMAIN_NAME,
    begin,
    found_transactions,
    read_transaction,
    replace_token,
)
from tests.unit.operations.test_svid_clients import fetch_jwt
from tests.unit.operations.test_token_request import validate
from troth.core.errors import Invalid, TrothError
from troth.core.jose.jws import parse_token
from troth.issuance.authorities import Use
from troth.issuance.jwtsvid import validate_jwt_svid
from troth.operations.call import ANONYMOUS
from troth.operations.client import JWT_BEARER_ASSERTION
from troth.operations.exchange import ACCESS_TOKEN, JWT
from troth.operations.svidclient import JWT_SPIFFE_ASSERTION
from troth.policy.transaction import MAX_WORKLOADS
from troth.wire.api.authorities import ForceAuthority, MoveAuthority, PrepareAuthority
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.tokens import RevokeTokens
from troth.wire.oauth.errors import name_error
from troth.wire.oauth.metadata import JWT_BEARER, TOKEN_EXCHANGE
from troth.wire.oauth.transaction import MAX_CONTEXT, TXN_TOKEN

CONTEXT = {"req_ip": "69.151.72.123", "authn": "face"}
DETAILS = {"action": "BUY", "quantity": 100, "customer": {"level": "VIP"}}


def name(who: str) -> str:
    return f"spiffe://example.org/{who}"


async def refuse(company: Company, who: str, token: str, **fields: Any) -> TrothError:
    with pytest.raises(TrothError) as caught:
        await begin(company, who, token, **fields)
    return caught.value


async def code_of(company: Company, who: str, token: str, **fields: Any) -> str:
    return name_error(await refuse(company, who, token, **fields))


async def move(house: FakeHouse, verb: str, who: str) -> None:
    await house.call(f"identity.{verb}", MoveIdentity(name=who, reason="test"), ADMIN)
    await house.settle()


# Off


@in_house
async def test_without_the_setting_there_are_none(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    refusal = await refuse(company, "ledger-api", mine)
    assert refusal.detail == f"The requested_token_type may be {ACCESS_TOKEN}."
    assert name_error(refusal) == "invalid_request"
    assert b"txn" not in await house.parts.publication.show_metadata()


# A transaction begins


@in_house
async def test_a_server_begins_one_with_its_callers_token(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token
    answer = await begin(
        company,
        "ledger-api",
        mine,
        request_context=json.dumps(CONTEXT),
        request_details=json.dumps(DETAILS),
    )
    assert (answer.token_type, answer.issued_token_type) == ("N_A", TXN_TOKEN)
    assert (answer.expires_in, answer.scope) == (60, "read")
    assert parse_token(answer.access_token).header["typ"] == "txntoken+jwt"
    claims = await read_transaction(house, answer.access_token)
    now = int(house.clock.now().timestamp())
    txn, jti = claims.pop("txn"), claims.pop("jti")
    assert txn.startswith("txn_")
    assert jti.startswith("tok_")
    assert claims == {
        "iss": ORIGIN,
        "iat": now,
        "exp": now + 60,
        "aud": DOMAIN_NAME,
        "sub": name("billing"),
        "scope": "read",
        "req_wl": name("ledger-api"),
        "troth_resource": LEDGER,
        "troth_tier": "medium",
        "rctx": CONTEXT,
        "tctx": DETAILS,
    }
    assert mine not in answer.access_token


@in_house
async def test_the_journal_tells_it_before_the_token_is_given_out(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token
    answer = await begin(company, "ledger-api", mine, request_details=json.dumps(DETAILS))
    second = await replace_token(company, "archive-api", answer.access_token)
    claims = await read_transaction(house, answer.access_token)
    first, then = await house.events("token.exchanged")
    assert (first.subject, first.actor) == (name("billing"), name("ledger-api"))
    assert first.body["kind"] == "transaction"
    assert (first.body["txn"], first.body["jti"]) == (claims["txn"], claims["jti"])
    assert first.body["from_jti"] == (await validate(house, mine))["jti"]
    assert (first.body["resource"], first.body["scope"]) == ("ledger", ["read"])
    assert then.body["from_jti"] == first.body["jti"]
    assert then.body["txn"] == first.body["txn"]
    assert then.body["workloads"] == [name("ledger-api"), name("archive-api")]
    assert second.access_token not in str(then)
    assert "BUY" not in str(first) + str(then)  # it may be personal


@in_house
async def test_who_else_begins_one(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token
    own = await begin(company, "billing", mine)
    assert (await read_transaction(house, own.access_token))["req_wl"] == name("billing")
    # A delegate exchanges the token for its own first, and then holds that one.
    for thief in ("stranger", "helper", "archive-api"):
        assert await code_of(company, thief, mine) == "invalid_request"
    acting = (await company.exchange("helper", mine)).access_token
    answer = await begin(company, "helper", acting)
    claims = await read_transaction(house, answer.access_token)
    assert (claims["sub"], claims["act"]) == (name("billing"), {"sub": name("helper")})
    assert await code_of(company, "billing", acting) == "invalid_request"
    nobody = await refuse(company, "ledger-api", mine, client_assertion="x")
    assert name_error(nobody) == "invalid_client"


@in_house
async def test_its_scope_is_within_the_tokens_and_what_is_permitted_now(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing", scope="read")).access_token
    assert (await begin(company, "ledger-api", mine, scope="read write close")).scope == "read"
    assert await code_of(company, "ledger-api", mine, scope="write") == "invalid_scope"
    assert await code_of(company, "ledger-api", mine, scope=None) == "invalid_request"
    key = company.clients["billing"].key
    await apply(house, render_identity("billing", key, **(PEOPLE["billing"] | {"roles": []})))
    assert await code_of(company, "ledger-api", mine) == "invalid_scope"


@in_house
async def test_it_ends_with_what_it_comes_from(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token
    house.clock.advance(timedelta(minutes=4, seconds=40))
    house.parts.snapshot.hear()
    answer = await begin(company, "ledger-api", mine)
    assert answer.expires_in == 20
    again = await replace_token(company, "ledger-api", answer.access_token)
    assert again.expires_in == 20
    house.clock.advance(timedelta(seconds=20))
    house.parts.snapshot.hear()
    late = await refuse(company, "ledger-api", answer.access_token, subject_token_type=TXN_TOKEN)
    assert (name_error(late), "expired" in late.detail) == ("invalid_request", True)


@in_house
async def test_the_form_is_that_of_the_draft(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token
    for audience in (None, "other.org", "spiffe://example.org", LEDGER):
        assert await code_of(company, "ledger-api", mine, audience=audience) == "invalid_target"
    assert await code_of(company, "ledger-api", mine, resource=ARCHIVE) == "invalid_target"
    assert (await begin(company, "ledger-api", mine, resource=LEDGER)).scope == "read"
    wrong: list[dict[str, str | None]] = [
        {"actor_token": mine, "actor_token_type": ACCESS_TOKEN},
        {"authorization_details": "[]"},
        {"subject_token": None},
        {"subject_token_type": None},
        {"subject_token_type": "urn:ietf:params:oauth:token-type:unsigned_json"},
        {"subject_token_type": "urn:ietf:params:oauth:token-type:self_signed"},
        {"subject_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
    ]
    for fields in wrong:
        assert await code_of(company, "ledger-api", mine, **fields) == "invalid_request"
    grant = await code_of(company, "ledger-api", mine, grant_type="client_credentials")
    assert grant == "unsupported_grant_type"
    assert (await company.exchange("ledger-api", mine)).issued_token_type == ACCESS_TOKEN


@in_house
async def test_a_context_is_bounded_and_holds_no_access_token(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token
    deep = '{"a":' * 9 + "1" + "}" * 9
    large = json.dumps({"a": "x" * MAX_CONTEXT})
    for text in ("[]", "x", '{"a":1,"a":2}', '{"a":NaN}', '{"a":1e999}', deep, large):
        for parameter in ("request_context", "request_details"):
            refusal = await refuse(company, "ledger-api", mine, **{parameter: text})
            assert name_error(refusal) == "invalid_request"
            assert parameter in refusal.detail
    leak = await refuse(company, "ledger-api", mine, request_context=json.dumps({"t": mine}))
    assert "must not" in leak.detail
    full = json.dumps({"a": "x" * (MAX_CONTEXT - 16)})
    answer = await begin(company, "ledger-api", mine, request_context=full, request_details=full)
    await replace_token(company, "ledger-api", answer.access_token)
    more = {"subject_token_type": TXN_TOKEN, "request_details": json.dumps({"b": "x" * 20})}
    grown = await refuse(company, "ledger-api", answer.access_token, **more)
    assert (name_error(grown), "tctx" in grown.detail) == ("invalid_request", True)


@in_house
async def test_a_workload_begins_one_with_its_own_jwt_svid(house: FakeHouse) -> None:
    company = await found_transactions(house)
    node = await house.join()
    billing = await house.parts.store.read(lambda tx: tx.identities.get_named("billing"))
    svid = await fetch_jwt(house, node, billing, ORIGIN)
    kind: dict[str, Any] = {"subject_token_type": JWT}
    answer = await begin(company, "billing", svid, resource=LEDGER, **kind)
    claims = await read_transaction(house, answer.access_token)
    assert (claims["sub"], claims["req_wl"]) == (name("billing"), name("billing"))
    # What it may be for isn't in it: unknown is not unlimited.
    assert await code_of(company, "billing", svid, **kind) == "invalid_target"
    close = await code_of(company, "billing", svid, resource=LEDGER, scope="close", **kind)
    assert close == "invalid_scope"
    for other in ("ledger-api", "helper"):
        assert await code_of(company, other, svid, resource=LEDGER, **kind) == "invalid_request"


@in_house
async def test_the_holder_of_a_bound_token_proves_the_key(house: FakeHouse) -> None:
    company = await found_transactions(house)
    node = await house.join()
    billing = await house.parts.store.read(lambda tx: tx.identities.get_named("billing"))
    (issued,) = await house.issue(node, billing.id)
    shown = {"certificate": issued.chain[0]}
    mine = (await company.request("billing", **shown)).access_token
    assert "cnf" in (await refuse(company, "billing", mine)).detail
    assert (await begin(company, "billing", mine, **shown)).scope == "read"
    answer = await begin(company, "ledger-api", mine)  # it was shown the certificate
    assert "cnf" not in await read_transaction(house, answer.access_token)


# A replacement


@in_house
async def test_a_replacement_keeps_what_the_transaction_is(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token
    first = await begin(
        company, "ledger-api", mine, scope="read write", request_details=json.dumps(DETAILS)
    )
    house.clock.advance(timedelta(seconds=10))
    house.parts.snapshot.hear()
    second = await replace_token(
        company,
        "archive-api",
        first.access_token,
        scope="read close",
        request_context=json.dumps(CONTEXT),
        request_details=json.dumps({"risk": "low", "action": "BUY"}),
    )
    before = await read_transaction(house, first.access_token)
    after = await read_transaction(house, second.access_token)
    for claim in ("txn", "sub", "aud", "exp", "troth_resource"):
        assert after[claim] == before[claim]
    assert after["jti"] != before["jti"]
    assert after["scope"] == "read"
    assert after["req_wl"] == f"{name('ledger-api')},{name('archive-api')}"
    assert after["tctx"] == {**DETAILS, "risk": "low"}
    assert after["rctx"] == CONTEXT
    wider = {"subject_token_type": TXN_TOKEN, "scope": "write"}
    assert await code_of(company, "ledger-api", second.access_token, **wider) == "invalid_scope"


@pytest.mark.parametrize(
    "details", [{"action": "SELL"}, {"quantity": 100.0}, {"quantity": True}, {"customer": {}}]
)
def test_a_context_only_grows(details: dict[str, Any], tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        company = await found_transactions(house)
        mine = (await company.request("billing")).access_token
        said = {"request_context": json.dumps(DETAILS), "request_details": json.dumps(DETAILS)}
        first = await begin(company, "ledger-api", mine, **said)
        for parameter in said:
            changed = {"subject_token_type": TXN_TOKEN, parameter: json.dumps(details)}
            refusal = await refuse(company, "ledger-api", first.access_token, **changed)
            assert (name_error(refusal), "never" in refusal.detail) == ("invalid_request", True)
        kept = await replace_token(company, "ledger-api", first.access_token)
        claims = await read_transaction(house, kept.access_token)
        assert (claims["rctx"], claims["tctx"]) == (DETAILS, DETAILS)

    in_house(run)(tmp_path)


@in_house
async def test_only_the_call_chain_replaces(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token
    own = await begin(company, "billing", mine)
    kind = {"subject_token_type": TXN_TOKEN}
    for outsider in ("stranger", "helper", "vault-api"):
        assert await code_of(company, outsider, own.access_token, **kind) == "invalid_request"
    token = own.access_token
    for who in ("billing", "ledger-api", "archive-api", "ledger-api", "archive-api"):
        token = (await replace_token(company, who, token)).access_token
    claims = await read_transaction(house, token)
    assert len(claims["req_wl"].split(",")) == MAX_WORKLOADS
    full = await refuse(company, "ledger-api", token, **kind)
    assert (name_error(full), "that is all" in full.detail) == ("invalid_request", True)
    assert await code_of(company, "billing", own.access_token, resource=VAULT, **kind) == (
        "invalid_target"
    )


# It must be live


@pytest.mark.parametrize("verb", ["suspend", "quarantine", "retire"])
@pytest.mark.parametrize("who", ["billing", "helper", "ledger-api"])
def test_whoever_is_cut_off_ends_the_transaction(verb: str, who: str, tmp_path: Any) -> None:
    """The subject, whoever acts, and whoever asked for the token."""

    async def run(house: FakeHouse) -> None:
        company = await found_transactions(house)
        mine = (await company.request("billing")).access_token
        acting = (await company.exchange("helper", mine)).access_token
        token = (await begin(company, "ledger-api", acting)).access_token
        await replace_token(company, "archive-api", token)
        await move(house, verb, who)
        kind = {"subject_token_type": TXN_TOKEN}
        refusal = await refuse(company, "archive-api", token, **kind)
        assert (name_error(refusal), "not live" in refusal.detail) == ("invalid_request", True)
        if who == "ledger-api":
            assert await code_of(company, who, acting) == "invalid_client"
        else:
            assert "not live" in (await refuse(company, "ledger-api", acting)).detail

    in_house(run)(tmp_path)


@in_house
async def test_a_revoked_one_and_a_tainted_key_end_it(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token
    token = (await begin(company, "ledger-api", mine)).access_token
    other = (await begin(company, "ledger-api", mine)).access_token
    jti = (await read_transaction(house, token))["jti"]
    await house.call("token.revoke", RevokeTokens(jti=jti, reason="test"), ADMIN)
    await house.settle()
    kind = {"subject_token_type": TXN_TOKEN}
    assert "not live" in (await refuse(company, "ledger-api", token, **kind)).detail
    assert (await replace_token(company, "ledger-api", other)).scope == "read"
    (signer,) = (await house.parts.store.read(lambda tx: tx.authorities.list(Use.TOKEN)))[:1]
    made = await house.call("authority.prepare", PrepareAuthority(use="access-token", reason="t"))
    await house.call("authority.activate", ForceAuthority(id=made.id, reason="t", force=True))
    await house.call("authority.taint", MoveAuthority(id=signer.id, reason="copied"))
    await house.settle()
    assert "not live" in (await refuse(company, "ledger-api", other, **kind)).detail


# It never passes for anything else, nor anything else for it


@in_house
async def test_a_transaction_token_is_nothing_else(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token
    token = (await begin(company, "billing", mine)).access_token
    with pytest.raises(Invalid, match=r"no access token: its typ must be at\+jwt"):
        await validate(house, token)
    for type_ in (ACCESS_TOKEN, JWT):  # as what is exchanged, for either kind
        fields: dict[str, Any] = {"subject_token_type": type_}
        assert await code_of(company, "billing", token, **fields) == "invalid_request"
        with pytest.raises(Invalid):
            await company.exchange("billing", token, **fields)
    with pytest.raises(Invalid, match="subject_token_type may be"):
        await company.exchange("billing", token, subject_token_type=TXN_TOKEN)
    actor: dict[str, Any] = {"actor_token": token, "actor_token_type": ACCESS_TOKEN}
    with pytest.raises(Invalid, match="no access token"):
        await company.exchange("billing", mine, **actor)
    assert await introspect(house, company.clients["ledger-api"], token) == {"active": False}
    with pytest.raises(TrothError) as caught:
        await surrender(house, company.clients["billing"], token)
    assert name_error(caught.value) == "unsupported_token_type"
    published = json.loads(await house.parts.publication.show_token_keys())
    jwks = {"example.org": published["keys"]}
    with pytest.raises(Invalid, match="typ must be JWT"):
        validate_jwt_svid(token, DOMAIN_NAME, jwks, house.clock.now())


@in_house
async def test_a_transaction_token_proves_no_client(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token
    token = (await begin(company, "billing", mine)).access_token
    for kind in (JWT_BEARER_ASSERTION, JWT_SPIFFE_ASSERTION):
        fields: dict[str, Any] = {"client_assertion": token, "client_assertion_type": kind}
        with pytest.raises(TrothError) as caught:
            await company.request("billing", **fields)
        assert name_error(caught.value) == "invalid_client"
    bearer: dict[str, Any] = {"client_assertion": None, "client_assertion_type": None}
    asked = company.clients["billing"].ask(grant_type=JWT_BEARER, assertion=token, **bearer)
    with pytest.raises(TrothError) as caught:
        await house.call("token.request", asked, ANONYMOUS)
    assert name_error(caught.value) in ("invalid_grant", "invalid_request")
    assert asked.form.require("grant_type") != TOKEN_EXCHANGE


@in_house
async def test_nothing_else_is_a_transaction_token(house: FakeHouse) -> None:
    company = await found_transactions(house)
    node = await house.join()
    billing = await house.parts.store.read(lambda tx: tx.identities.get_named("billing"))
    svid = await fetch_jwt(house, node, billing, ORIGIN)
    mine = (await company.request("billing")).access_token
    client = company.clients["billing"]
    for text in (mine, svid, client.assert_identity(), "x", "a.b.c"):
        refusal = await refuse(company, "billing", text, subject_token_type=TXN_TOKEN)
        assert name_error(refusal) == "invalid_request"
    with pytest.raises(Invalid, match=r"no transaction token: its typ must be txntoken\+jwt"):
        await read_transaction(house, mine)
