"""`token.exchange`: who may pass a token on, to where, and what is left of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.clients import LEDGER, ORIGIN, apply, render_identity, request_token
from tests.fakes.delegation import ARCHIVE, PEOPLE, VAULT, Company, found_company
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.unit.operations.test_svid_clients import fetch_jwt
from tests.unit.operations.test_token_request import validate
from troth.core.errors import TrothError
from troth.issuance.authorities import Use
from troth.operations.exchange import ACCESS_TOKEN, JWT
from troth.operations.svidclient import JWT_SPIFFE_ASSERTION
from troth.wire.api.authorities import ForceAuthority, MoveAuthority, PrepareAuthority
from troth.wire.api.identities import MoveIdentity
from troth.wire.oauth.errors import name_error


def name(who: str) -> str:
    return f"spiffe://example.org/{who}"


async def find(house: FakeHouse, who: str) -> Any:
    return await house.parts.store.read(lambda tx: tx.identities.get_named(who))


async def refuse(company: Company, who: str, token: str, **fields: Any) -> TrothError:
    with pytest.raises(TrothError) as caught:
        await company.exchange(who, token, **fields)
    return caught.value


async def code_of(company: Company, who: str, token: str, **fields: Any) -> str:
    return name_error(await refuse(company, who, token, **fields))


# Delegation


@in_house
async def test_a_service_passes_its_caller_on(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing", scope="read")).access_token
    answer = await company.exchange("ledger-api", mine, resource=ARCHIVE)
    assert answer.issued_token_type == ACCESS_TOKEN
    assert (answer.token_type, answer.scope) == ("Bearer", "fetch")
    claims = await validate(house, answer.access_token, ARCHIVE)
    assert claims["sub"] == name("billing")
    assert claims["act"] == {"sub": name("ledger-api")}
    assert claims["client_id"] == name("ledger-api")
    assert claims["aud"] == ARCHIVE
    assert "may_act" not in claims


@in_house
async def test_the_chain_is_nested_with_the_newest_outermost(house: FakeHouse) -> None:
    company = await found_company(house)
    first = (await company.request("billing")).access_token
    second = await company.exchange("helper", first)
    third = await company.exchange("ledger-api", second.access_token, resource=ARCHIVE)
    fourth = await company.exchange("archive-api", third.access_token, resource=VAULT)
    claims = await validate(house, fourth.access_token, VAULT)
    assert claims["sub"] == name("billing")
    assert claims["act"] == {
        "sub": name("archive-api"),
        "act": {"sub": name("ledger-api"), "act": {"sub": name("helper")}},
    }


@in_house
async def test_the_journal_tells_it_before_the_token_is_given_out(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing", scope="read write")).access_token
    own = await company.exchange("billing", mine, scope="read")
    passed = await company.exchange("ledger-api", own.access_token, resource=ARCHIVE)
    alone, acting = await house.events("token.exchanged")
    assert (alone.subject, alone.actor) == (name("billing"), name("billing"))
    assert (alone.body["kind"], alone.body["actors"]) == ("impersonation", [])
    assert alone.body["from_jti"] == (await validate(house, mine))["jti"]
    assert (acting.subject, acting.actor) == (name("billing"), name("ledger-api"))
    assert (acting.body["kind"], acting.body["actors"]) == ("delegation", [name("ledger-api")])
    assert acting.body["from_jti"] == alone.body["jti"]
    assert (acting.body["resource"], acting.body["scope"]) == ("archive", ["fetch"])
    assert passed.access_token not in str(acting)


@in_house
async def test_without_passes_to_a_server_goes_nowhere(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    refusal = await refuse(company, "ledger-api", mine, resource=VAULT)
    assert name_error(refusal) == "invalid_target"
    assert "passesTo" in refusal.detail
    assert await code_of(company, "ledger-api", mine, resource="urn:x:none") == "invalid_target"


@in_house
async def test_whoever_came_by_a_token_exchanges_nothing(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    for thief in ("stranger", "archive-api", "shipping"):
        for resource in (None, LEDGER, ARCHIVE):
            assert await code_of(company, thief, mine, resource=resource) == "invalid_request"
    assert not await house.events("token.exchanged")


@in_house
async def test_a_delegate_acts_for_who_named_it(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("shipping")).access_token
    assert "may_act" not in await validate(house, mine)  # two delegates: a token names one
    answer = await company.exchange("helper", mine, resource=ARCHIVE)
    assert answer.scope == "fetch"  # purge is the subject's alone
    claims = await validate(house, answer.access_token, ARCHIVE)
    assert (claims["sub"], claims["act"]) == (name("shipping"), {"sub": name("helper")})


@in_house
async def test_the_only_delegate_stands_in_may_act_and_that_is_enough(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    claims = await validate(house, mine)
    assert claims["may_act"] == {"sub": name("helper")}
    # The registration changes, and the signed statement stands for as long as the token does.
    key = company.clients["billing"].key
    await apply(house, render_identity("billing", key, roles=["clerk"]))
    assert (await company.exchange("helper", mine)).scope == "read"
    fresh = (await company.request("billing")).access_token
    assert "may_act" not in await validate(house, fresh)
    assert await code_of(company, "helper", fresh) == "invalid_request"


@in_house
async def test_may_act_follows_a_delegate_that_is_registered_anew(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    await house.call("identity.retire", MoveIdentity(name="helper", reason="test"), ADMIN)
    await house.settle()
    token = (await company.request("billing")).access_token
    assert "may_act" not in await validate(house, token)
    key = company.clients["helper"].key
    await apply(house, render_identity("helper", key, path="/other/helper", roles=["reader"]))
    token = (await company.request("billing")).access_token
    assert (await validate(house, token))["may_act"] == {"sub": name("other/helper")}
    company.clients["helper"].spiffe_id = name("other/helper")
    assert (await company.exchange("helper", mine)).scope == "read"  # by its registered name


@in_house
async def test_may_act_means_nobody_who_got_the_name_later(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    assert (await validate(house, mine))["may_act"] == {"sub": name("helper")}
    await house.call("identity.retire", MoveIdentity(name="helper", reason="test"), ADMIN)
    billing = company.clients["billing"]
    await apply(house, render_identity("billing", billing.key, roles=["clerk"], delegates=[]))
    house.clock.advance(timedelta(seconds=2))
    key = company.clients["helper"].key
    await apply(house, render_identity("helper", key, roles=["reader"]))
    await house.settle()
    assert await code_of(company, "helper", mine) == "invalid_request"


# Narrowing


@in_house
async def test_a_client_narrows_its_own_token_and_nobody_acts(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing", scope="read write")).access_token
    answer = await company.exchange("billing", mine, scope="read close")
    assert answer.scope == "read"
    claims = await validate(house, answer.access_token)
    assert (claims["sub"], claims["client_id"]) == (name("billing"), name("billing"))
    assert "act" not in claims
    narrow = answer.access_token
    assert (await company.exchange("billing", narrow)).scope == "read"
    assert await code_of(company, "billing", narrow, scope="write") == "invalid_scope"
    assert await code_of(company, "billing", narrow, resource=ARCHIVE) == "invalid_target"


@in_house
async def test_an_actor_narrows_the_token_that_it_holds(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    acting = (await company.exchange("ledger-api", mine, resource=ARCHIVE)).access_token
    again = await company.exchange("ledger-api", acting, scope="fetch")
    claims = await validate(house, again.access_token, ARCHIVE)
    assert claims["act"] == {"sub": name("ledger-api")}
    # It came through the ledger, and what it says of that stays.
    assert claims["troth_passed"] == [LEDGER]
    assert await code_of(company, "ledger-api", acting, resource=LEDGER) == "invalid_target"


@in_house
async def test_scope_is_what_subject_and_actor_both_may(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    assert (await company.exchange("helper", mine)).scope == "read"
    # The ledger may close a year, billing may not: acting for billing, the ledger may not either.
    assert (await company.exchange("ledger-api", mine)).scope == "read write"
    assert await code_of(company, "ledger-api", mine, scope="close") == "invalid_scope"
    # A role that is taken away is gone in the next exchange.
    key = company.clients["billing"].key
    spec = PEOPLE["billing"] | {"roles": ["reader"]}
    await apply(house, render_identity("billing", key, **spec))
    assert (await company.exchange("ledger-api", mine)).scope == "read"
    assert await code_of(company, "ledger-api", mine, scope="write") == "invalid_scope"
    await apply(house, render_identity("billing", key, **(spec | {"roles": []})))
    assert await code_of(company, "ledger-api", mine) == "invalid_target"


@in_house
async def test_a_token_never_returns_to_where_it_was(house: FakeHouse) -> None:
    """Else a token to read could come back from the archive as one to write."""
    company = await found_company(house)
    mine = (await company.request("billing", scope="read")).access_token
    there = (await company.exchange("ledger-api", mine, resource=ARCHIVE)).access_token
    refusal = await refuse(company, "archive-api", there, resource=LEDGER)
    assert name_error(refusal) == "invalid_target"
    assert "came through" in refusal.detail
    further = (await company.exchange("archive-api", there, resource=VAULT)).access_token
    assert await code_of(company, "vault-api", further, resource=LEDGER) == "invalid_target"


@in_house
async def test_nobody_acts_twice_nor_for_itself(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("shipping", resource=ARCHIVE)).access_token
    acting = (await company.exchange("helper", mine)).access_token
    passed = (await company.exchange("archive-api", acting, resource=LEDGER)).access_token
    twice = await refuse(company, "helper", passed)
    assert (name_error(twice), "twice" in twice.detail) == ("invalid_request", True)
    own = (await company.request("ledger-api", resource=ARCHIVE)).access_token
    away = (await company.exchange("archive-api", own, resource=LEDGER)).access_token
    assert "twice" in (await refuse(company, "ledger-api", away, resource=ARCHIVE)).detail


@in_house
async def test_a_token_ends_with_the_one_it_comes_from(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    house.clock.advance(timedelta(minutes=4))
    house.parts.snapshot.hear()
    answer = await company.exchange("ledger-api", mine, resource=ARCHIVE)
    assert answer.expires_in == 60
    house.clock.advance(timedelta(seconds=60))
    house.parts.snapshot.hear()
    late = await refuse(company, "ledger-api", mine, resource=ARCHIVE)
    assert (name_error(late), "expired" in late.detail) == ("invalid_request", True)


# The subject token must be live


@pytest.mark.parametrize("verb", ["suspend", "quarantine", "retire"])
@pytest.mark.parametrize("who", ["billing", "helper"])
def test_whoever_is_cut_off_ends_the_token(verb: str, who: str, tmp_path: Any) -> None:
    """The subject, and whoever acts in its chain."""

    async def run(house: FakeHouse) -> None:
        company = await found_company(house)
        mine = (await company.request("billing")).access_token
        acting = (await company.exchange("helper", mine)).access_token
        assert (await company.exchange("ledger-api", acting)).scope == "read"
        await house.call(f"identity.{verb}", MoveIdentity(name=who, reason="test"), ADMIN)
        await house.settle()
        refusal = await refuse(company, "ledger-api", acting)
        assert name_error(refusal) == "invalid_request"
        assert "not live" in refusal.detail
        code = await code_of(company, "ledger-api", mine) if who == "billing" else ""
        assert code in ("", "invalid_request")

    in_house(run)(tmp_path)


@in_house
async def test_a_new_holder_of_a_name_has_nothing_to_do_with_old_tokens(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    await house.call("identity.retire", MoveIdentity(name="billing", reason="test"), ADMIN)
    house.clock.advance(timedelta(seconds=2))
    key = company.clients["billing"].key
    await apply(house, render_identity("billing", key, **PEOPLE["billing"]))
    assert "not live" in (await refuse(company, "ledger-api", mine)).detail
    fresh = (await company.request("billing")).access_token
    assert (await company.exchange("ledger-api", fresh)).scope == "read write"


@in_house
async def test_a_retired_key_counts_and_a_tainted_one_does_not(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    (old,) = (await house.parts.store.read(lambda tx: tx.authorities.list(Use.TOKEN)))[:1]
    made = await house.call("authority.prepare", PrepareAuthority(use="access-token", reason="t"))
    await house.call("authority.activate", ForceAuthority(id=made.id, reason="t", force=True))
    await house.settle()
    answer = await company.exchange("ledger-api", mine)
    assert answer.scope == "read write"
    await house.call("authority.taint", MoveAuthority(id=old.id, reason="copied"))
    await house.settle()
    assert await code_of(company, "ledger-api", mine) == "invalid_request"
    assert await code_of(company, "ledger-api", answer.access_token, scope="x") == "invalid_scope"


@in_house
async def test_other_tokens_are_refused(house: FakeHouse) -> None:
    company = await found_company(house)
    client = company.clients["billing"]
    mine = (await company.request("billing")).access_token
    forged = mine[:-4] + ("AAAA" if mine[-4:] != "AAAA" else "BBBB")
    for text in ("x", "a.b.c", forged, client.assert_identity(), mine * 20):
        refusal = await refuse(company, "ledger-api", text)
        assert name_error(refusal) == "invalid_request"
        assert refusal.detail.startswith("The subject_token") or "base64url" in refusal.detail


@in_house
async def test_the_form_is_that_of_the_standard(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    wrong: list[dict[str, str | None]] = [
        {"subject_token": None},
        {"subject_token_type": None},
        {"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"},
        {"requested_token_type": "urn:ietf:params:oauth:token-type:saml2"},
        {"actor_token_type": ACCESS_TOKEN},
        {"actor_token": mine},
    ]
    for fields in wrong:
        assert await code_of(company, "ledger-api", mine, **fields) == "invalid_request"
    assert await code_of(company, "ledger-api", mine, client_assertion="x") == "invalid_client"
    right: dict[str, Any] = {"requested_token_type": ACCESS_TOKEN, "subject_token_type": JWT}
    assert (await company.exchange("ledger-api", mine, **right)).scope == "read write"
    grant = await code_of(company, "ledger-api", mine, grant_type="client_credentials")
    assert grant == "unsupported_grant_type"


# Actor tokens


@in_house
async def test_an_actor_token_is_the_clients_own_and_bounds_the_end(house: FakeHouse) -> None:
    company = await found_company(house)
    own = (await company.request("ledger-api")).access_token
    house.clock.advance(timedelta(minutes=3))
    house.parts.snapshot.hear()
    mine = (await company.request("billing")).access_token
    actor: dict[str, Any] = {"actor_token": own, "actor_token_type": ACCESS_TOKEN}
    assert (await company.exchange("ledger-api", mine)).expires_in == 300
    assert (await company.exchange("ledger-api", mine, **actor)).expires_in == 120
    others = (await company.request("stranger")).access_token
    wrong = await refuse(company, "ledger-api", mine, **(actor | {"actor_token": others}))
    assert (name_error(wrong), "client's own" in wrong.detail) == ("invalid_request", True)
    acting = (await company.exchange("ledger-api", mine)).access_token
    assert await code_of(company, "ledger-api", mine, **(actor | {"actor_token": acting})) == (
        "invalid_request"
    )


# JWT-SVIDs


@in_house
async def test_a_jwt_svid_is_a_subject_token_if_it_is_meant_for_us(house: FakeHouse) -> None:
    company = await found_company(house)
    node = await house.join()
    billing = await find(house, "billing")
    svid = await fetch_jwt(house, node, billing, f"{ORIGIN}/exchange")
    kind: dict[str, Any] = {"subject_token_type": JWT, "resource": LEDGER}
    answer = await company.exchange("helper", svid, **kind)
    claims = await validate(house, answer.access_token)
    assert (claims["sub"], claims["act"]) == (name("billing"), {"sub": name("helper")})
    own = await company.exchange("billing", svid, **kind)
    assert own.scope == "read write"
    mine = await fetch_jwt(house, node, billing, ORIGIN)
    assert (await company.exchange("billing", mine, **kind)).scope == "read write"
    # It was meant for this server, so no other server has anything from it.
    assert await code_of(company, "ledger-api", svid, **kind) == "invalid_request"
    assert await code_of(company, "helper", svid, subject_token_type=JWT) == "invalid_target"
    # As an access token it doesn't pass, nor if it is meant for anybody else (too).
    assert await code_of(company, "helper", svid, resource=LEDGER) == "invalid_request"
    for audiences in (
        [LEDGER],
        [ORIGIN, LEDGER],
        [f"{ORIGIN}/oauth/token"],
        [f"{ORIGIN}/exchange", LEDGER],
        # With these it could prove that it is the subject.
        [ORIGIN],
        [ORIGIN, f"{ORIGIN}/exchange"],
    ):
        other = await fetch_jwt(house, node, billing, *audiences)
        assert await code_of(company, "helper", other, **kind) == "invalid_request"
    await house.call("identity.quarantine", MoveIdentity(name="billing", reason="t"), ADMIN)
    await house.settle()
    assert "not live" in (await refuse(company, "helper", svid, **kind)).detail


@in_house
async def test_what_is_given_away_to_be_exchanged_proves_no_client(house: FakeHouse) -> None:
    company = await found_company(house)
    billing = await find(house, "billing")
    svid = await fetch_jwt(house, await house.join(), billing, f"{ORIGIN}/exchange")
    stolen = company.clients["helper"].ask(svid, client_assertion_type=JWT_SPIFFE_ASSERTION)
    with pytest.raises(TrothError) as caught:
        await request_token(house, stolen)
    assert name_error(caught.value) == "invalid_client"


# Bound tokens


@in_house
async def test_a_bound_token_is_exchanged_by_who_it_was_shown_to(house: FakeHouse) -> None:
    company = await found_company(house)
    node = await house.join()
    bound = {}
    for who in ("billing", "ledger-api", "helper"):
        identity = await find(house, who)
        (issued,) = await house.issue(node, identity.id)
        bound[who] = issued.chain[0]
    mine = (await company.request("billing", certificate=bound["billing"])).access_token
    thumbprint = (await validate(house, mine))["cnf"]
    # The ledger was shown the certificate with it. What it gets is bound to its own.
    asked = {"resource": ARCHIVE, "certificate": bound["ledger-api"]}
    passed = await company.exchange("ledger-api", mine, **asked)
    claims = await validate(house, passed.access_token, ARCHIVE)
    assert claims["cnf"].keys() == {"x5t#S256"}
    assert claims["cnf"] != thumbprint
    loose = await refuse(company, "ledger-api", mine, resource=ARCHIVE)
    assert (name_error(loose), "must be" in loose.detail) == ("invalid_request", True)
    # A delegate can't show the holder's key, whoever it is.
    for shown in (None, bound["helper"]):
        refusal = await refuse(company, "helper", mine, certificate=shown)
        assert (name_error(refusal), "cnf" in refusal.detail) == ("invalid_request", True)
    # The holder itself can, and must.
    own = await company.exchange("billing", mine, scope="read", certificate=bound["billing"])
    assert (await validate(house, own.access_token))["cnf"] == thumbprint
    assert await code_of(company, "billing", mine) == "invalid_request"
