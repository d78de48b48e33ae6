"""Plans of roles, resources and issuers: in the manifest's own words, and nothing is lost."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest

from troth.core.manifest.field import Field
from troth.core.manifest.problem import Limits, PlainDocument
from troth.identity.issuer import Issuer
from troth.identity.plan import Action
from troth.manifests.declared import plan_declared
from troth.manifests.reading import KINDS, parse_manifests
from troth.policy.resource import Resource, TokenTerms
from troth.policy.role import Role

NOW = datetime(2026, 11, 1, tzinfo=UTC)
ABOUT = {"owner": "team-pay", "purpose": "Books"}
SPECS: dict[str, dict[str, Any]] = {
    "Resource": {
        "identifiers": ["https://ledger.example.org"],
        "servers": ["ledger-api"],
        "actions": {"read": "See it", "write": "Change it"},
        "passesTo": ["archive"],
    },
    "Role": {
        "permissions": [
            {"resource": "ledger", "actions": ["read", "write"]},
            {"resource": "archive", "actions": ["get"]},
        ]
    },
    "Issuer": {
        "url": "https://ci.example.org",
        "identities": [
            {"identity": "deploy", "claims": {"sub": "repo:shop", "ref": ["main", "next"]}}
        ],
    },
}


def make(kind: str, **changes: Any) -> Role | Resource | Issuer:
    document = {
        "apiVersion": "troth/v1",
        "kind": kind,
        "metadata": {"name": "one", "labels": {"env": "prod"}},
        "spec": {**ABOUT, **SPECS[kind], **changes},
    }
    found = parse_manifests([PlainDocument(document)], Limits(), NOW)
    assert found.errors == ()
    values: list[Role | Resource | Issuer] = [*found.roles, *found.resources, *found.issuers]
    (value,) = values
    return value


def tell(kind: str, wanted: Any, stored: Any = None) -> tuple[str, ...]:
    current = [] if stored is None else [stored]
    (change,) = plan_declared(kind, [wanted], current, prune=False)
    assert bool(change.words) is (change.action is not Action.KEEP)
    return change.words


def test_a_new_resource_is_told_as_its_manifest_writes_it() -> None:
    assert tell("Resource", make("Resource")) == (
        "labels.env: prod",
        "owner: team-pay",
        "purpose: Books",
        "identifiers: https://ledger.example.org",
        "servers: ledger-api",
        "actions.read: See it",
        "actions.write: Change it",
        "passesTo: archive",
        "token.format: jwt",
        "token.algorithm: ES256",
        "token.ttl: 5m",
        "token.ttlByTier.low: 5m",
        "token.binding: none",
    )


def test_a_new_role_is_told_with_its_permissions() -> None:
    words = tell("Role", make("Role"))
    assert words[-2:] == ("permissions: ledger: read, write", "permissions: archive: get")


def test_a_new_issuer_is_told_without_what_is_empty() -> None:
    words = tell("Issuer", make("Issuer"))
    assert "privateNetwork: false" in words
    assert any(one.startswith("maxLife: ") for one in words)
    assert words[-1] == "identities: deploy: {sub: repo:shop, ref: main or next}"
    assert not [one for one in words if one.startswith(("audience", "ca", "jwksUri"))]


def test_a_change_names_what_was_and_what_will_be() -> None:
    before = make("Resource")
    after = make("Resource", token={"ttl": "1m30s", "ttlByTier": {}}, passesTo=[])
    assert tell("Resource", after, before) == (
        "passesTo: archive → none",
        "token.ttl: 5m → 1m30s",
        "token.ttlByTier.low: 5m → none",
    )
    fewer = make("Role", permissions=[{"resource": "ledger", "actions": ["read"]}])
    assert tell("Role", fewer, make("Role")) == (
        "permissions: ledger: read, write → read",
        "permissions: archive: get → none",
    )
    open_one = make("Issuer", privateNetwork=True)
    assert tell("Issuer", open_one, make("Issuer")) == ("privateNetwork: false → true",)


@pytest.mark.parametrize("kind", SPECS)
def test_the_same_again_changes_nothing(kind: str) -> None:
    assert tell(kind, make(kind), make(kind)) == ()


def test_claims_that_read_alike_still_differ() -> None:
    one = make("Issuer", identities=[{"identity": "deploy", "claims": {"sub": "a or b"}}])
    two = make("Issuer", identities=[{"identity": "deploy", "claims": {"sub": ["a", "b"]}}])
    assert len(tell("Issuer", two, one)) == 1


def list_attributes(members: tuple[Field, ...]) -> set[str]:
    found: set[str] = set()
    for field in members:
        found |= list_attributes(field.members) | {field.attribute or field.name}
    return found


@pytest.mark.parametrize(("kind", "types"), [("Role", (Role,)), ("Issuer", (Issuer,)),
                                             ("Resource", (Resource, TokenTerms))])  # fmt: skip
def test_every_field_is_one_that_a_plan_compares(kind: str, types: tuple[Any, ...]) -> None:
    (spec,) = (one.spec for one in KINDS if one.name == kind)
    attributes = {field.name for one in types for field in fields(one)}
    assert list_attributes(spec) == attributes - {"name", "labels"}


def test_another_condition_is_another_permission() -> None:
    plain = {"resource": "ledger", "actions": ["read", "write"]}
    before = make("Role", permissions=[plain])
    after = make("Role", permissions=[{**plain, "when": {"trust.score": {"atLeast": 60}}}])
    assert tell("Role", after, before) == (
        'permissions: ledger: read, write → read, write when {"trust.score":{"atLeast":60}}',
    )
    assert tell("Role", before, after) != ()
