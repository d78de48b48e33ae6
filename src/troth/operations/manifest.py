"""Manifests: plan in words, apply all or nothing."""

from __future__ import annotations

from dataclasses import dataclass

from troth.operations.applying import Applier
from troth.operations.call import Call
from troth.operations.planning import Content
from troth.wire.api import manifests as wire


@dataclass(frozen=True, slots=True)
class PlanManifests:
    """``manifest.plan``: what applying would do, and whose access would change."""

    applier: Applier

    async def __call__(self, call: Call[wire.SubmitManifests]) -> wire.ManifestPlan:
        """`Invalid` lists every problem, `Refused` what can't be done together."""
        return await self.applier.plan(call, _read(call))


@dataclass(frozen=True, slots=True)
class ApplyManifests:
    """``manifest.apply``: the same, and then it is so; unless somebody else must agree."""

    applier: Applier

    async def __call__(self, call: Call[wire.SubmitManifests]) -> wire.ManifestPlan:
        """What was applied, in one transaction; or under which number it is held."""
        return await self.applier.apply(call, _read(call))


def _read(call: Call[wire.SubmitManifests]) -> Content:
    return Content(documents=call.body.documents, prune=call.body.prune)
