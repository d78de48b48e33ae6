"""Names in manifests that nothing explains are told when they are planned, and stop nothing."""

from __future__ import annotations

from typing import Any

from tests.fakes.clients import LEDGER_MANIFESTS, apply, render_identity, render_manifest
from tests.fakes.house import FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from troth.wire.api.manifests import ManifestDocument, SubmitManifests


async def plan(house: FakeHouse, *documents: dict[str, Any]) -> list[str]:
    body = SubmitManifests(documents=[ManifestDocument(value=d) for d in documents])
    warnings: list[str] = (await house.call("manifest.plan", body)).warnings
    return [text for text in warnings if "there is no" in text or "has no action" in text]


@in_house
async def test_each_name_without_a_meaning_is_told(house: FakeHouse) -> None:
    await apply(house, *LEDGER_MANIFESTS)
    found = await plan(
        house,
        render_manifest(
            "Resource",
            "vault",
            identifiers=["https://vault.example.org"],
            servers=["nobody"],
            actions={"open": "Open it"},
            passesTo=["nothing", "ledger"],
            token={"sharedWith": ["nowhere"]},
        ),
        render_manifest(
            "Role",
            "writer",
            includes=["raeder"],
            permissions=[
                {"resource": "ledger", "actions": ["wriet"]},
                {"resource": "vault", "actions": ["opne", "open"]},
                {"resource": "cellar", "actions": ["*"]},
            ],
        ),
        render_identity("clerk-1", make_private_key(3), roles=["clerc"], delegates=["clerk-2"]),
    )
    for name, what in [
        ("nobody", "Resource 'vault': there is no identity"),
        ("nothing", "Resource 'vault': there is no resource"),
        ("nowhere", "Resource 'vault': there is no resource"),
        ("raeder", "Role 'writer': there is no role"),
        ("cellar", "Role 'writer': there is no resource"),
        ("wriet", "Role 'writer': resource 'ledger' has no action"),
        ("opne", "resource 'vault' has no action"),
        ("clerc", "Identity 'clerk-1': there is no role"),
        ("clerk-2", "Identity 'clerk-1': there is no identity"),
    ]:
        assert [text for text in found if name in text and what in text], (name, found)
    assert len(found) == 9
    assert any("did you mean 'write'?" in text for text in found)


@in_house
async def test_what_is_there_already_or_comes_along_explains(house: FakeHouse) -> None:
    await apply(house, *LEDGER_MANIFESTS, render_identity("ledger-api", make_private_key(4)))
    identity = render_identity("a", make_private_key(5), roles=["clerk", "new"], delegates=["b"])
    other = render_identity("b", make_private_key(6), roles=["reader"])
    role = render_manifest(
        "Role", "new", includes=["clerk"], permissions=[{"resource": "ledger", "actions": ["read"]}]
    )
    assert await plan(house, identity, other, role) == []
    assert await plan(house, *LEDGER_MANIFESTS) == []
