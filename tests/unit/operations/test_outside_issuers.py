"""`token.request` by an assertion of an outside issuer: whom it means, and who gets nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.fakes.clients import (
    LEDGER,
    LEDGER_MANIFESTS,
    ORIGIN,
    apply,
    render_identity,
    render_manifest,
    request_token,
)
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from tests.fakes.outsiders import GITHUB, MAIN, FakeKeySource, Outsider
from troth.core.errors import TrothError, Unavailable
from troth.operations.client import JWT_BEARER_ASSERTION, UNKNOWN
from troth.wire.api.identities import MoveIdentity
from troth.wire.oauth.errors import name_error
from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import CLIENT_CREDENTIALS
from troth.wire.oauth.request import OAuthRequest

RULE = {"identity": "shop-deploy", "claims": {"sub": MAIN, "repository_id": 456}}
CLAIMS: dict[str, Any] = {"sub": MAIN, "repository_id": "456"}
DEPLOYER = "spiffe://example.org/shop-deploy"


def source_of(house: FakeHouse) -> FakeKeySource:
    source = house.parts.key_source
    assert isinstance(source, FakeKeySource)
    return source


async def set_up(house: FakeHouse, **spec: Any) -> Outsider:
    """An issuer whose tokens from the main branch mean `shop-deploy`."""
    outsider = Outsider()
    source_of(house).publish(outsider)
    await apply(
        house,
        *LEDGER_MANIFESTS,
        render_identity("shop-deploy", make_private_key(50), roles=["clerk"]),
        render_manifest("Issuer", "github", **{"url": GITHUB, "identities": [RULE], **spec}),
    )
    return outsider


def ask(assertion: str, **fields: str) -> OAuthRequest:
    values = {
        "grant_type": CLIENT_CREDENTIALS,
        "resource": LEDGER,
        "client_assertion_type": JWT_BEARER_ASSERTION,
        "client_assertion": assertion,
        **fields,
    }
    return OAuthRequest(Form({name: (value,) for name, value in values.items()}))


async def refuse(house: FakeHouse, request: OAuthRequest) -> TrothError:
    with pytest.raises(TrothError) as caught:
        await request_token(house, request)
    return caught.value


@in_house
async def test_a_pipeline_gets_a_token_for_the_identity_that_it_is(house: FakeHouse) -> None:
    github = await set_up(house)
    assertion = github.assert_workload(house.clock.now(), **CLAIMS, jti="j1")
    answer = await request_token(house, ask(assertion))
    assert answer.scope == "read write"
    (issued,) = await house.events("token.issued")
    assert issued.subject == issued.actor == DEPLOYER
    assert issued.body["method"] == "federated_jwt"
    assert issued.body["vouched"] == {"issuer": "github", "subject": MAIN}


@in_house
async def test_an_assertion_with_a_jti_is_taken_once_and_one_without_until_its_end(
    house: FakeHouse,
) -> None:
    github = await set_up(house)
    once = ask(github.assert_workload(house.clock.now(), **CLAIMS, jti="j1"))
    await request_token(house, once)
    refusal = await refuse(house, once)
    assert name_error(refusal) == "invalid_client"
    assert "used before" in refusal.detail
    again = ask(github.assert_workload(house.clock.now(), **CLAIMS))
    await request_token(house, again)
    await request_token(house, again)
    house.clock.advance(timedelta(minutes=11))
    house.parts.snapshot.hear()
    assert "has expired" in (await refuse(house, again)).detail


@in_house
async def test_an_outsider_never_learns_who_is_registered(house: FakeHouse) -> None:
    """Not which issuers, which claims or which identities: whatever depends on them is one answer,
    and no key is fetched for an issuer that no manifest names."""
    github = await set_up(house)
    now = house.clock.now()
    forger = Outsider()
    elsewhere = Outsider(url="https://id.example.net")
    rsa_like = Outsider(algorithm="RS256", key=rsa.generate_private_key(65537, 2048))
    wrong = [
        forger.assert_workload(now, **CLAIMS),
        elsewhere.assert_workload(now, **CLAIMS),
        github.assert_workload(now, **{**CLAIMS, "repository_id": "7"}),
        github.assert_workload(now, sub=MAIN),
        github.assert_workload(now, repository_id="456", sub=None),
        github.assert_workload(now, header={"kid": "k9"}, **CLAIMS),
        rsa_like.assert_workload(now, **CLAIMS),
        forger.assert_workload(now, header={"kid": "k9"}, **CLAIMS, aud="https://x.example"),
    ]
    for assertion in wrong:
        refusal = await refuse(house, ask(assertion))
        assert name_error(refusal) == "invalid_client"
        assert refusal.detail == UNKNOWN
    assert {one.url for one in source_of(house).asked} == {GITHUB}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"aud": "https://github.com/acme"}, "for this server alone"),
    ({"aud": [ORIGIN, "https://elsewhere.example"]}, "for this server alone"),
    ({"aud": None}, "no aud"),
    ({"exp": None}, "no exp"),
    ({"exp": 1}, "has expired"),
    ({"exp": 1 << 40}, "lives longer"),
    ({"iat": 1 << 40}, "in the future"),
    ({"iat": None}, "no iat"),
    ({"iat": 0}, "lives longer"),
    ({"nbf": 1 << 40}, "in the future"),
    ({"jti": 7}, "jti must be a text"),
    ({"jti": "x" * 257}, "jti must be a text"),
    ({"header": {"typ": "at+jwt"}}, "is no assertion"),
    ({"header": {"typ": "dpop+jwt"}}, "is no assertion"),
    ({"header": {"typ": "txntoken+jwt"}}, "is no assertion"),
    ({"header": {"typ": "oauth-id-jag+jwt"}}, "is no assertion"),
    ({"header": {"crit": ["x"], "x": 1}}, "crit"),
]


@pytest.mark.parametrize(("claims", "sentence"), WRONG)
def test_what_is_unsound_is_told_to_its_holder(
    claims: dict[str, Any], sentence: str, tmp_path: Any
) -> None:
    async def run(house: FakeHouse) -> None:
        github = await set_up(house)
        assertion = github.assert_workload(house.clock.now(), **{**CLAIMS, **claims})
        refusal = await refuse(house, ask(assertion))
        assert name_error(refusal) == "invalid_client"
        assert sentence in refusal.detail

    in_house(run)(tmp_path)


@in_house
async def test_the_audience_and_the_algorithms_are_those_of_the_manifest(house: FakeHouse) -> None:
    github = await set_up(house, audience="troth-prod", algorithms=["EdDSA"])
    now = house.clock.now()
    assert (await refuse(house, ask(github.assert_workload(now, **CLAIMS)))).detail == UNKNOWN
    edwards = Outsider(kid="k2", algorithm="EdDSA", key=ed25519.Ed25519PrivateKey.generate())
    source_of(house).publish(edwards)
    house.clock.advance(timedelta(hours=2))
    house.parts.snapshot.hear()
    now = house.clock.now()
    await request_token(house, ask(edwards.assert_workload(now, **CLAIMS, aud="troth-prod")))
    ours = await refuse(house, ask(edwards.assert_workload(now, **CLAIMS)))
    assert "for this server alone" in ours.detail


@in_house
async def test_a_key_of_another_kind_than_the_alg_verifies_nothing(house: FakeHouse) -> None:
    """Algorithm confusion: the kid is right, the algorithm isn't that of the key."""
    await set_up(house)
    key = rsa.generate_private_key(65537, 2048)
    source_of(house).publish(Outsider(algorithm="RS256", key=key))
    crossed = Outsider(key=ec.generate_private_key(ec.SECP256R1()))
    refusal = await refuse(house, ask(crossed.assert_workload(house.clock.now(), **CLAIMS)))
    assert refusal.detail == UNKNOWN
    right = Outsider(algorithm="PS256", key=key)
    await request_token(house, ask(right.assert_workload(house.clock.now(), **CLAIMS)))


@in_house
async def test_claims_that_mean_two_identities_mean_none(house: FakeHouse) -> None:
    other = {"identity": "other", "claims": {"repository_id": 456, "ref": "refs/heads/main"}}
    github = await set_up(house, identities=[RULE, other])
    now = house.clock.now()
    both = github.assert_workload(now, **CLAIMS, ref="refs/heads/main")
    assert (await refuse(house, ask(both))).detail == UNKNOWN
    await request_token(house, ask(github.assert_workload(now, **CLAIMS)))


@in_house
async def test_the_client_id_must_be_that_of_the_identity(house: FakeHouse) -> None:
    github = await set_up(house)
    assertion = github.assert_workload(house.clock.now(), **CLAIMS)
    await request_token(house, ask(assertion, client_id=DEPLOYER))
    refusal = await refuse(house, ask(assertion, client_id="spiffe://example.org/other"))
    assert "is not the SPIFFE ID" in refusal.detail


@pytest.mark.parametrize("verb", ["suspend", "quarantine", "retire"])
def test_who_is_cut_off_gets_no_token(verb: str, tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        github = await set_up(house)
        assertion = github.assert_workload(house.clock.now(), **CLAIMS)
        await request_token(house, ask(assertion))
        await house.call(f"identity.{verb}", MoveIdentity(name="shop-deploy", reason="x"), ADMIN)
        await house.settle()
        assert (await refuse(house, ask(assertion))).detail == UNKNOWN

    in_house(run)(tmp_path)


@in_house
async def test_an_issuer_that_is_changed_or_removed_counts_at_once(house: FakeHouse) -> None:
    github = await set_up(house)
    assertion = github.assert_workload(house.clock.now(), **CLAIMS)
    await request_token(house, ask(assertion))
    rule = {"identity": "shop-deploy", "claims": {"sub": MAIN, "repository_id": 457}}
    await set_up_rule(house, rule)
    assert (await refuse(house, ask(assertion))).detail == UNKNOWN
    await set_up_rule(house, RULE)
    await request_token(house, ask(assertion))
    key = make_private_key(50)
    kept = render_identity("shop-deploy", key, roles=["clerk"])
    await apply(house, *LEDGER_MANIFESTS, kept, prune=True)
    assert (await refuse(house, ask(assertion))).detail == UNKNOWN
    told = [one for one in await house.events("declaration.") if one.body["kind"] == "Issuer"]
    assert [one.type.partition(".")[2] for one in told] == [
        "added",
        "changed",
        "changed",
        "removed",
    ]


async def set_up_rule(house: FakeHouse, rule: dict[str, Any]) -> None:
    await apply(house, render_manifest("Issuer", "github", url=GITHUB, identities=[rule]))


@in_house
async def test_applying_again_changes_nothing(house: FakeHouse) -> None:
    await set_up(house)
    plan = await apply(house, render_manifest("Issuer", "github", url=GITHUB, identities=[RULE]))
    actions = {change.name: change.action for change in plan.changes if change.kind == "Issuer"}
    assert actions == {"github": "keep"}


@in_house
async def test_a_url_is_of_one_issuer(house: FakeHouse) -> None:
    await set_up(house)
    with pytest.raises(TrothError, match=r"belongs to '(github|twin)'"):
        await apply(house, render_manifest("Issuer", "twin", url=GITHUB, identities=[RULE]))


@in_house
async def test_keys_are_fetched_once_for_many_and_kept(house: FakeHouse) -> None:
    github = await set_up(house)
    source = source_of(house)
    source.gate = asyncio.Event()
    now = house.clock.now()
    waiting = [
        asyncio.create_task(
            request_token(house, ask(github.assert_workload(now, **CLAIMS, jti=f"j{n}")))
        )
        for n in range(10)
    ]
    await asyncio.sleep(0.05)
    waiting[0].cancel()  # who asked first may go; the others still get theirs
    source.gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(one, BaseException) for one in outcomes] == [True, *[False] * 9]
    assert len(source.asked) == 1
    await request_token(house, ask(github.assert_workload(now, **CLAIMS)))
    assert len(source.asked) == 1


@in_house
async def test_a_new_key_of_the_issuer_is_found_and_an_old_one_forgotten(house: FakeHouse) -> None:
    github = await set_up(house)
    source, now = source_of(house), house.clock.now()
    await request_token(house, ask(github.assert_workload(now, **CLAIMS)))
    rotated = Outsider(kid="k2")
    source.publish(rotated)
    early = await refuse(house, ask(rotated.assert_workload(now, **CLAIMS)))
    assert early.detail == UNKNOWN
    assert len(source.asked) == 1, "not again so soon"
    house.clock.advance(timedelta(seconds=31))
    house.parts.snapshot.hear()
    now = house.clock.now()
    await request_token(house, ask(rotated.assert_workload(now, **CLAIMS)))
    assert len(source.asked) == 2
    assert (await refuse(house, ask(github.assert_workload(now, **CLAIMS)))).detail == UNKNOWN
    for _ in range(20):
        await refuse(house, ask(Outsider(kid="k9").assert_workload(now, **CLAIMS)))
    assert len(source.asked) == 2, "strangers can't make this server ask on and on"


@in_house
async def test_keys_last_while_the_issuer_is_away_for_a_day(house: FakeHouse) -> None:
    github = await set_up(house)
    source = source_of(house)
    await request_token(house, ask(github.assert_workload(house.clock.now(), **CLAIMS)))
    source.error = Unavailable("away")
    for hours in (2, 10, 11):
        house.clock.advance(timedelta(hours=hours))
        house.parts.snapshot.hear()
        await request_token(house, ask(github.assert_workload(house.clock.now(), **CLAIMS)))
    assert len(source.asked) == 4
    house.clock.advance(timedelta(hours=1, minutes=1))
    house.parts.snapshot.hear()
    refusal = await refuse(house, ask(github.assert_workload(house.clock.now(), **CLAIMS)))
    assert name_error(refusal) == "temporarily_unavailable"
    source.error = None
    house.clock.advance(timedelta(seconds=31))
    house.parts.snapshot.hear()
    await request_token(house, ask(github.assert_workload(house.clock.now(), **CLAIMS)))


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (None, timedelta(hours=1)),
        (timedelta(0), timedelta(minutes=5)),
        (timedelta(minutes=20), timedelta(minutes=20)),
        (timedelta(days=300), timedelta(hours=12)),
    ],
)
def test_keys_are_kept_as_long_as_the_issuer_says_within_bounds(
    said: timedelta | None, kept: timedelta, tmp_path: Any
) -> None:
    async def run(house: FakeHouse) -> None:
        github = await set_up(house)
        source = source_of(house)
        source.max_age = said

        async def ask_after(time: timedelta) -> int:
            house.clock.advance(time)
            house.parts.snapshot.hear()
            await request_token(house, ask(github.assert_workload(house.clock.now(), **CLAIMS)))
            return len(source.asked)

        assert await ask_after(timedelta(0)) == 1
        assert await ask_after(kept - timedelta(seconds=1)) == 1
        assert await ask_after(timedelta(seconds=1)) == 2

    in_house(run)(tmp_path)
