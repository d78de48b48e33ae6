"""Teams that manage what is their own: the example's own manifests, and who applies them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fakes.clients import apply, render_manifest
from tests.fakes.house import ADMIN, FakeHouse
from troth.operations.call import Caller
from troth.wire.api.manifests import ManifestDocument, ManifestPlan, SubmitManifests
from troth.wire.yaml import load_documents

EXAMPLE = Path(__file__).parents[2] / "examples/delegated-admin"
TEAM_A = Caller(
    "spiffe://example.org/team-a/deployer", frozenset({"workload"}), None, "10.1.2.3:40000", "0a"
)
TEAM_B = Caller(
    "spiffe://example.org/team-b/deployer", frozenset({"workload"}), None, "10.1.2.4:40000", "0b"
)


def read_example(*names: str) -> list[dict[str, Any]]:
    """The manifests of these files of the example."""
    found: list[dict[str, Any]] = []
    for name in names:
        found += (one.value for one in load_documents((EXAMPLE / name).read_bytes(), name))
    return found


def describe(kind: str, name: str, team: str = "a", /, **spec: Any) -> dict[str, Any]:
    """A manifest with a team's label."""
    document = render_manifest(kind, name)
    document["spec"] |= spec
    document["metadata"]["labels"] = {"team": team}
    return document


def identity(name: str, team: str = "a", **spec: Any) -> dict[str, Any]:
    """A service of a team, below its path, for no process yet."""
    values = {"kind": "service", "expires": "30d", "path": f"/team-{team}/{name}", **spec}
    return describe("Identity", name, team, **values)


async def settle_teams(house: FakeHouse) -> None:
    """The roles of both teams, their deployers, and one service of each."""
    await apply(house, *read_example("platform.yaml"))
    await apply(house, identity("a-web", "a"), identity("b-web", "b"))


async def submit(
    house: FakeHouse, caller: Caller, *documents: dict[str, Any], prune: bool = False
) -> ManifestPlan:
    """What a caller's apply comes to."""
    body = SubmitManifests(documents=[ManifestDocument(value=d) for d in documents], prune=prune)
    plan: ManifestPlan = await house.call("manifest.apply", body, caller)
    await house.settle()
    return plan


__all__ = ["ADMIN", "EXAMPLE", "TEAM_A", "TEAM_B"]
