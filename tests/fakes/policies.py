"""Manifests about access, as tests of policy as code need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.fakes.clients import render_manifest
from tests.fakes.house import ADMIN, FakeHouse
from troth.operations.call import Caller
from troth.operations.decision import Asked, Source, Subject
from troth.policy.inquiry import Inquiry
from troth.wire.api.manifests import ManifestDocument, ManifestPlan, SubmitManifests

SECOND = Caller("uid:1001", frozenset({"admin"}), source="test")
AUDITOR = Caller("uid:1002", frozenset({"auditor"}), source="test")


def resource(name: str = "ledger", **spec: Any) -> dict[str, Any]:
    """A resource with two actions."""
    values = {"actions": {"read": "See it", "write": "Change it"}, "servers": []}
    return render_manifest("Resource", name, **{**values, **spec})


def role(name: str, *permissions: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A role with these permissions."""
    return render_manifest("Role", name, permissions=list(permissions), **spec)


def permission(actions: Sequence[str], on: str = "ledger", when: Any = None) -> dict[str, Any]:
    """One permission of a role."""
    made: dict[str, Any] = {"resource": on, "actions": list(actions)}
    return made if when is None else {**made, "when": when}


def policy(name: str, effect: str = "permit", **spec: Any) -> dict[str, Any]:
    """A policy."""
    values: dict[str, Any] = {"actions": ["*"], "resources": ["*"], "effect": effect}
    return render_manifest("Policy", name, **{**values, **spec})


def identity(name: str, *roles: str, **spec: Any) -> dict[str, Any]:
    """An identity that holds these roles."""
    values: dict[str, Any] = {
        "roles": list(roles),
        "selectors": ["unix:uid:1001"],
        "nodes": ["local"],
    }
    made = render_manifest("Identity", name, **{**values, **spec})
    return {**made, "spec": {"kind": "service", **made["spec"]}}


def submit(*documents: dict[str, Any], prune: bool = False) -> SubmitManifests:
    """The request for these."""
    return SubmitManifests(
        documents=[ManifestDocument(value=one) for one in documents], prune=prune
    )


@dataclass(frozen=True)
class Desk:
    """A house, and short ways to change and ask what it declares."""

    house: FakeHouse

    async def apply(
        self, *documents: dict[str, Any], prune: bool = False, caller: Caller = ADMIN
    ) -> ManifestPlan:
        """Apply, and take in what that says."""
        plan: ManifestPlan = await self.house.call(
            "manifest.apply", submit(*documents, prune=prune), caller
        )
        await self.house.settle()
        return plan

    async def plan(self, *documents: dict[str, Any], prune: bool = False) -> ManifestPlan:
        """Plan alone."""
        plan: ManifestPlan = await self.house.call("manifest.plan", submit(*documents, prune=prune))
        return plan

    async def ask(
        self,
        subject: str,
        action: str,
        on: str = "ledger",
        times: int = 1,
        **request: Any,
    ) -> bool:
        """One decision, written down `times` times."""
        asked = Asked(Subject("identity", subject), Inquiry(action, on, "x", {"request": request}))
        answers = [
            await self.house.parts.decider.answer(
                [asked], Source("spiffe://example.org/gateway", "authzen", "req_test")
            )
            for _ in range(times)
        ]
        return answers[0][0].allowed
