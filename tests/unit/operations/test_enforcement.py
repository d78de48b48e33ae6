"""`decision.enforce`: what proxies ask, in a whole house."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from tests.fakes.clients import (
    LEDGER,
    FakeClient,
    apply,
    render_identity,
    render_manifest,
    request_token,
)
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from troth.core.errors import Denied
from troth.drivers.geo import Place
from troth.operations.call import Caller
from troth.operations.places import Places
from troth.wire.api.enforcement import EnforcedDecision, EnforceDecision
from troth.wire.api.identities import MoveIdentity

HOST = "ledger.example.org"
PROXY = Caller("spiffe://example.org/edge", frozenset({"workload"}), source="test")
BILLING = "spiffe://example.org/billing"
ROUTES = [
    {"action": "read", "path": "/entries/{id}", "methods": ["GET"]},
    {"action": "write", "path": "/entries", "methods": ["POST"]},
]


def ledger(**spec: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "identifiers": [LEDGER],
        "servers": ["edge"],
        "actions": {"read": "See entries", "write": "Add entries"},
        "hosts": [HOST],
        "routes": ROUTES,
    }
    return render_manifest("Resource", "ledger", **{**values, **spec})


async def furnish(house: FakeHouse, **spec: Any) -> FakeClient:
    """A ledger behind a proxy, who may read it, and a proxy that serves nothing."""
    key = make_private_key(41)
    await apply(
        house,
        ledger(**spec),
        render_manifest(
            "Role", "reader", permissions=[{"resource": "ledger", "actions": ["read"]}]
        ),
        render_identity("billing", key, roles=["reader"]),
        render_identity("edge", make_private_key(42)),
        render_identity("stranger", make_private_key(43)),
    )
    return FakeClient(BILLING, key, house.clock.now)


async def ask(house: FakeHouse, **fields: Any) -> EnforcedDecision:
    """What a proxy is told, or another `caller`."""
    caller: Caller = fields.pop("caller", PROXY)
    values: dict[str, Any] = {"method": "GET", "host": HOST, "path": "/entries/7"}
    body = EnforceDecision(**{**values, "point": "envoy", **fields})
    answer: EnforcedDecision = await house.call("decision.enforce", body, caller)
    return answer


def records(house: FakeHouse) -> list[Any]:
    now = house.clock.now()
    hour = timedelta(hours=1)
    return list(house.parts.decisions.scan(now - hour, now + hour))


async def get_certificates(house: FakeHouse, *names: str) -> list[bytes]:
    node = await house.join()
    found = await house.parts.store.read(lambda tx: tx.identities.list_named(names))
    ids = {one.name: one.id for one in found}
    return [one.chain[0] for one in await house.issue(node, *(ids[name] for name in names))]


@in_house
async def test_a_peer_with_the_permission_passes_and_is_named(house: FakeHouse) -> None:
    await furnish(house)
    answer = await ask(house, peer=BILLING, ip="::ffff:192.0.2.7", transport="mtls")
    assert answer.allowed
    assert (answer.status, answer.subject, answer.actors) == (200, BILLING, [])
    assert (answer.resource, answer.action, answer.id) == ("ledger", "read", "7")
    assert answer.decision.startswith("dec_")


@in_house
async def test_what_is_not_permitted_is_denied(house: FakeHouse) -> None:
    await furnish(house)
    for fields, status, reason in (
        ({"peer": BILLING, "method": "POST", "path": "/entries"}, 403, "denied"),
        ({"peer": "spiffe://example.org/stranger"}, 403, "denied"),
        ({"peer": "spiffe://example.org/nobody"}, 403, "denied"),
        ({"peer": "spiffe://elsewhere.org/billing"}, 403, "denied"),
        ({"peer": BILLING, "path": "/entries/../entries/7"}, 403, "no_route"),
        ({"peer": BILLING, "path": "/entries/%2e%2e/7"}, 403, "no_route"),
        ({"peer": BILLING, "host": "other.example.org"}, 403, "no_route"),
        ({"peer": BILLING, "method": "DELETE"}, 403, "no_route"),
        ({"peer": "billing"}, 401, "bad_certificate"),
        ({"peer": BILLING, "fingerprint": "xyz"}, 401, "bad_certificate"),
        ({}, 401, "no_credential"),
        ({"authorization": "Basic YTpi"}, 401, "no_credential"),
        ({"authorization": "Bearer"}, 401, "bad_token"),
        ({"authorization": "Bearer a b"}, 401, "bad_token"),
        ({"authorization": "Bearer abc", "peer": BILLING}, 401, "bad_token"),
    ):
        answer = await ask(house, **fields)
        assert not answer.allowed
        assert (answer.status, answer.reason) == (status, reason), fields
        assert answer.decision.startswith("dec_")
        if status == 401:
            assert answer.challenge.startswith("Bearer")
            assert "oauth-protected-resource" in answer.challenge


@in_house
async def test_every_answer_is_written_down(house: FakeHouse) -> None:
    await furnish(house)
    answers = [
        await ask(house, peer=BILLING),
        await ask(house, peer=BILLING, path="//"),
        await ask(house),
    ]
    found = records(house)
    assert [one.id for one in found] == [one.decision for one in answers]
    assert [one.point for one in found] == ["envoy"] * 3
    assert [one.caller for one in found] == [PROXY.principal] * 3
    assert [one.allowed for one in found] == [True, False, False]
    assert found[0].subject == "billing"
    assert found[1].reason.startswith("no_route: ")


@in_house
async def test_only_those_that_serve_the_resource_may_ask(house: FakeHouse) -> None:
    await furnish(house)
    stranger = Caller("spiffe://example.org/stranger", frozenset({"workload"}))
    with pytest.raises(Denied, match="servers"):
        await ask(house, caller=stranger, peer=BILLING)
    other = ledger(hosts=["other.example.org"], identifiers=[], servers=["stranger"])
    other["metadata"]["name"] = "other"
    await apply(house, other)
    answer = await ask(house, caller=stranger, peer=BILLING)
    assert (answer.status, answer.reason) == (403, "not_server")
    assert (await ask(house, caller=ADMIN, peer=BILLING)).allowed
    await house.call("identity.quarantine", MoveIdentity(name="edge", reason="test"), ADMIN)
    await house.settle()
    with pytest.raises(Denied, match="quarantined"):
        await ask(house, peer=BILLING)


@in_house
async def test_who_is_cut_off_passes_no_more(house: FakeHouse) -> None:
    await furnish(house)
    assert (await ask(house, peer=BILLING)).allowed
    await house.call("identity.quarantine", MoveIdentity(name="billing", reason="test"), ADMIN)
    await house.settle()
    answer = await ask(house, peer=BILLING)
    assert (answer.allowed, answer.reason) == (False, "denied")


@in_house
async def test_a_certificate_is_verified_again(house: FakeHouse) -> None:
    await furnish(house)
    (der,) = await get_certificates(house, "billing")
    assert (await ask(house, certificate=der)).subject == BILLING
    digest = hashlib.sha256(der).hexdigest()
    assert (await ask(house, certificate=der, peer=BILLING, fingerprint=digest)).allowed
    forged = der[:-1] + bytes([der[-1] ^ 1])
    for fields in (
        {"certificate": forged},
        {"certificate": b"no certificate"},
        {"certificate": der, "peer": "spiffe://example.org/edge"},
        {"certificate": der, "fingerprint": "00" * 32},
    ):
        answer = await ask(house, **fields)
        assert (answer.status, answer.reason) == (401, "bad_certificate")


@in_house
async def test_a_token_speaks_for_its_subject_and_within_its_scope(house: FakeHouse) -> None:
    client = await furnish(house)
    token = (await request_token(house, client.ask())).access_token
    shown = {"authorization": f"bearer {token}"}
    answer = await ask(house, **shown, peer="spiffe://example.org/stranger")
    assert answer.allowed
    assert answer.subject == BILLING
    assert (await ask(house, authorization=f"DPoP {token}")).reason == "unbound"
    assert (await ask(house, **shown, method="POST", path="/entries")).reason == "scope"
    assert (await ask(house, authorization=f"Bearer {token[:-6]}AAAAAA")).reason == "bad_token"
    await house.call("identity.suspend", MoveIdentity(name="billing", reason="test"), ADMIN)
    await house.settle()
    answer = await ask(house, **shown)
    assert (answer.status, answer.reason) == (401, "bad_token")
    assert 'error="invalid_token"' in answer.challenge


@in_house
async def test_a_token_for_another_resource_is_none(house: FakeHouse) -> None:
    client = await furnish(house)
    token = (await request_token(house, client.ask())).access_token
    await apply(house, ledger(identifiers=["https://elsewhere.example.org"]))
    assert (await ask(house, authorization=f"Bearer {token}")).reason in (
        "bad_audience",
        "bad_token",
    )


@in_house
async def test_a_bound_token_needs_the_certificate_that_it_is_bound_to(house: FakeHouse) -> None:
    client = await furnish(house, token={"binding": "mtls"})
    der, other = await get_certificates(house, "billing", "stranger")
    request = replace(client.ask(), certificate=der)
    token = (await request_token(house, request)).access_token
    shown = {"authorization": f"Bearer {token}"}
    assert (await ask(house, **shown, certificate=der)).allowed
    digest = hashlib.sha256(der).hexdigest()
    assert (await ask(house, **shown, peer=BILLING, fingerprint=digest.upper())).allowed
    for fields in ({}, {"certificate": other}, {"peer": BILLING}):
        answer = await ask(house, **shown, **fields)
        assert (answer.status, answer.reason) == (401, "unbound")


@in_house
async def test_a_resource_that_wants_bound_tokens_takes_no_other(house: FakeHouse) -> None:
    client = await furnish(house)
    token = (await request_token(house, client.ask())).access_token
    await apply(house, ledger(token={"binding": "any"}))
    assert (await ask(house, authorization=f"Bearer {token}")).reason == "unbound"


class FakeLocator:
    """Everything is in Germany."""

    def __init__(self) -> None:
        self.asked = 0

    def locate(self, address: object) -> Place:
        self.asked += 1
        return Place("DE", "cloud")


def test_places_are_looked_up_where_a_rule_reads_them() -> None:
    locator = FakeLocator()
    places, address = Places(locator), ip_address("192.0.2.1")
    assert places.describe(address, frozenset({"request.ip"})) == {}
    assert locator.asked == 0
    found = places.describe(address, frozenset({"request.network"}))
    assert found == {"country": "DE", "network": "cloud"}
    assert Places().describe(address, frozenset({"request.network"})) == {}
