"""What a token is for, and for how long: several resources, and ceilings by trust tier."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.clients import (
    LEDGER,
    LEDGER_MANIFESTS,
    FakeClient,
    add_client,
    apply,
    introspect,
    render_identity,
    render_manifest,
    request_token,
)
from tests.fakes.house import FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from troth.core.errors import TrothError
from troth.core.jose.jws import parse_token
from troth.core.tier import Tier, lower_tier, read_tier
from troth.operations.call import ANONYMOUS
from troth.trust.proof import rate_proof
from troth.wire.oauth.errors import name_error
from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import TOKEN_EXCHANGE
from troth.wire.oauth.request import OAuthRequest

ARCHIVE = "https://archive.example.org"


async def share(house: FakeHouse, *, mutual: bool = True, **archive: Any) -> FakeClient:
    """A client of the ledger and the archive, which share tokens."""
    client = await add_client(house, roles=["clerk", "archivist"])
    ledger = LEDGER_MANIFESTS[0]
    spec = {**ledger["spec"], "token": {"sharedWith": ["archive"], "ttl": "2m"}}
    terms = {"sharedWith": ["ledger"] if mutual else [], "ttl": "10m", **archive}
    await apply(
        house,
        {**ledger, "spec": spec},
        render_manifest(
            "Resource",
            "archive",
            identifiers=[ARCHIVE],
            actions={"read": "See", "shred": "Shred"},
            token=terms,
        ),
        render_manifest(
            "Role", "archivist", permissions=[{"resource": "archive", "actions": ["read", "shred"]}]
        ),
    )
    return client


def ask_for(client: FakeClient, *resources: str, **fields: str | None) -> OAuthRequest:
    form = client.ask(**{"resource": None, **fields}).form
    return OAuthRequest(Form({**form.fields, "resource": resources}))


async def code_of(house: FakeHouse, request: OAuthRequest) -> str:
    with pytest.raises(TrothError) as caught:
        await request_token(house, request)
    return name_error(caught.value)


@in_house
async def test_resources_that_share_get_one_token_for_what_holds_at_both(house: FakeHouse) -> None:
    client = await share(house)
    answer = await request_token(house, ask_for(client, LEDGER, ARCHIVE))
    claims = parse_token(answer.access_token).claims
    assert claims["aud"] == [ARCHIVE, LEDGER]
    assert claims["scope"] == "read"  # each could use at the other what it permits alone
    assert claims["exp"] - claims["iat"] == 120  # the shorter of the two


@in_house
async def test_several_audiences_are_refused_unless_both_allow_it(house: FakeHouse) -> None:
    client = await share(house, mutual=False)
    assert await code_of(house, ask_for(client, LEDGER, ARCHIVE)) == "invalid_target"
    assert await code_of(house, ask_for(client, LEDGER, "https://x.example")) == "invalid_target"


@pytest.mark.parametrize("terms", [{"format": "opaque"}, {"algorithm": "EdDSA"}])
def test_tokens_of_different_forms_are_shared_by_nobody(
    terms: dict[str, Any], tmp_path: Any
) -> None:
    async def run(house: FakeHouse) -> None:
        client = await share(house, **terms)
        assert await code_of(house, ask_for(client, LEDGER, ARCHIVE)) == "invalid_target"

    in_house(run)(tmp_path)


@in_house
async def test_each_of_them_has_its_say_on_binding(house: FakeHouse) -> None:
    client = await share(house, binding="mtls")
    assert await code_of(house, ask_for(client, LEDGER, ARCHIVE)) == "invalid_request"


@in_house
async def test_very_many_and_details_are_refused(house: FakeHouse) -> None:
    client = await share(house)
    many = [f"https://{number}.example.org" for number in range(9)]
    assert await code_of(house, ask_for(client, *many)) == "invalid_target"
    details = '[{"type": "troth_action", "actions": ["read"]}]'
    request = ask_for(client, LEDGER, ARCHIVE, authorization_details=details)
    assert await code_of(house, request) == "invalid_authorization_details"


@in_house
async def test_a_token_for_several_is_exchanged_for_none(house: FakeHouse) -> None:
    client = await share(house)
    token = (await request_token(house, ask_for(client, LEDGER, ARCHIVE))).access_token
    for resources in ([LEDGER], [LEDGER, ARCHIVE]):
        request = ask_for(
            client,
            *resources,
            grant_type=TOKEN_EXCHANGE,
            subject_token=token,
            subject_token_type="urn:ietf:params:oauth:token-type:access_token",
        )
        with pytest.raises(TrothError) as caught:
            await house.call("token.exchange", request, ANONYMOUS)
        assert name_error(caught.value) == "invalid_request"


@in_house
async def test_a_lower_tier_gets_a_token_for_a_shorter_time(house: FakeHouse) -> None:
    client = await add_client(house)
    key = make_private_key(51)
    ledger = LEDGER_MANIFESTS[0]
    token = {"ttl": "10m", "ttlByTier": {"low": "1m", "medium": "90s"}}
    await apply(
        house,
        {**ledger, "spec": {**ledger["spec"], "token": token}},
        render_identity("ledger-api", key, roles=[]),
    )
    answer = await request_token(house, client.ask())
    assert answer.expires_in == 90  # a key that was registered by hand
    server = FakeClient("spiffe://example.org/ledger-api", key, house.clock.now)
    told = await introspect(house, server, answer.access_token)
    assert told["trust_tier"] == "medium"


def test_a_chain_is_trusted_as_its_weakest_link() -> None:
    assert lower_tier(Tier.HIGH, Tier.MEDIUM) is lower_tier(Tier.MEDIUM, Tier.HIGH) is Tier.MEDIUM
    assert read_tier("high") is Tier.HIGH
    assert {read_tier(value) for value in ("", "HIGH", None, 3, ["high"])} == {Tier.LOW}
    assert rate_proof("spiffe_jwt") is Tier.HIGH
    assert rate_proof("something else") is Tier.LOW
