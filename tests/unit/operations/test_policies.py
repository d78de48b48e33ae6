"""Rules that don't hold together change nothing; and a set that doesn't any more denies."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.clients import LEDGER_MANIFESTS, apply, render_manifest
from tests.fakes.house import FakeHouse, in_house
from troth.core.errors import Invalid, Refused
from troth.wire.api.manifests import ManifestDocument, SubmitManifests


def make_policy(name: str = "one", **changes: Any) -> dict[str, Any]:
    return render_manifest(
        "Policy",
        name,
        **{
            "effect": "permit",
            "subjects": {"roles": ["clerk"]},
            "actions": ["read"],
            "resources": ["ledger"],
            **changes,
        },
    )


def make_raw(text: str) -> dict[str, Any]:
    return render_manifest("Policy", "raw", cedar=text)


def make_vault(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"actions": {"read": "Read"}, "attributes": {"status": "text"}}
    return render_manifest("Resource", "vault", **{**values, **changes})


async def warn(house: FakeHouse, *documents: dict[str, Any]) -> list[str]:
    body = SubmitManifests(documents=[ManifestDocument(value=d) for d in documents])
    warnings: list[str] = (await house.call("manifest.plan", body)).warnings
    return warnings


@in_house
async def test_a_broken_set_replaces_nothing(house: FakeHouse) -> None:
    await apply(house, *LEDGER_MANIFESTS, make_policy(when={"trust.score": {"atLeast": 60}}))
    for broken, words in (
        (make_policy(when={"trust.scor": 3}), "trust.score"),
        (make_policy(when={"trust.score": {"atLeast": "x"}}), "whole number"),
        (make_policy(when={"resource.status": "open"}), "status"),
        (make_raw("permit (principal, action, resource"), "Cedar"),
        (make_raw("(" * 4000), "Cedar policy|nested"),
        (make_raw('permit (principal, action == Action::"ledger/fly", resource);'), "action"),
        (render_manifest("Role", "a", includes=["a"]), "include"),
    ):
        with pytest.raises((Invalid, Refused), match=words) as told:
            await apply(house, broken, make_policy("two"))
        assert "Nothing was changed" in told.value.detail
    assert not [text for text in await warn(house, make_policy("three")) if "two" in text]


@in_house
async def test_what_a_policy_asks_for_can_not_be_taken_away(house: FakeHouse) -> None:
    asks = make_policy(when={"resource.status": "open"}, resources=["vault"])
    await apply(house, make_vault(), asks)
    with pytest.raises(Refused, match=r"Nothing was changed.*status"):
        await apply(house, make_vault(attributes={}))
    with pytest.raises(Refused, match=r"Nothing was changed.*whole number"):
        await apply(house, make_vault(attributes={"status": "number"}))


@in_house
async def test_a_plan_tells_findings_beside_what_is_there(house: FakeHouse) -> None:
    await apply(house, *LEDGER_MANIFESTS, make_policy("no", effect="forbid"))
    found = await warn(house, make_policy())
    assert [text for text in found if "policy/no forbids all" in text and "'one'" in text]
    # Of what isn't touched nothing is said again.
    await apply(house, make_policy())
    found = await warn(house, make_policy(), make_policy("other", actions=["write"]))
    assert not [text for text in found if "'one'" in text]
