"""Manifests of a small town, as plain documents: a ledger that a till may read, a vault that is
somebody else's."""

from __future__ import annotations

from typing import Any

from tests.fakes.house import FakeHouse
from troth.wire.api.manifests import ManifestDocument, SubmitManifests


def document(kind: str, name: str, /, **spec: Any) -> ManifestDocument:
    value = {
        "apiVersion": "troth/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"owner": "team@example.org", "purpose": "A test", **spec},
    }
    return ManifestDocument(value=value, source="test.yaml")


def resource(name: str, *servers: str, **spec: Any) -> ManifestDocument:
    actions = {"read": "Read it", "write": "Write it"}
    return document("Resource", name, servers=list(servers), actions=actions, **spec)


def role(name: str, of: str, *actions: str, **spec: Any) -> ManifestDocument:
    return document("Role", name, permissions=[{"resource": of, "actions": list(actions)}], **spec)


def identity(name: str, uid: int, *roles: str, **spec: Any) -> ManifestDocument:
    selectors = [f"unix:uid:{uid}"]
    given = {"kind": "service", "selectors": selectors, "roles": list(roles), **spec}
    return document("Identity", name, **given)


def policy(name: str, **spec: Any) -> ManifestDocument:
    return document("Policy", name, **spec)


TOWN = (
    resource("ledger", "ledger"),
    resource("vault", "guard"),
    role("reader", "ledger", "read"),
    document("Role", "clerk", includes=["reader"]),
    role("banker", "vault", "read"),
)


async def apply(house: FakeHouse, *documents: ManifestDocument, prune: bool = False) -> None:
    body = SubmitManifests(documents=list(documents), prune=prune)
    await house.call("manifest.apply", body)
    await house.settle()


async def open_town(house: FakeHouse) -> None:
    """A ledger that the till may read as a clerk, and a vault that is nobody's business."""
    await apply(house, *TOWN)
    await apply(house, identity("ledger", 1))
    await apply(house, identity("guard", 2))
    await apply(house, identity("till", 3, "clerk"))
    await apply(house, identity("banker", 4, "banker"))
    await house.settle()
