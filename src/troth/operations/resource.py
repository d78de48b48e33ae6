"""Resources as they are declared: listed and shown."""

from __future__ import annotations

from dataclasses import dataclass

from troth.core.errors import NotFound
from troth.operations.call import Call, Target
from troth.policy.resource import Resource
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import resources as wire


@dataclass(frozen=True, slots=True)
class ListResources:
    """``resource.ls``: all resources."""

    store: Store

    async def __call__(self, call: Call[wire.ListResources]) -> wire.ResourceList:
        """By name."""
        found = await self.store.read(_collect)
        kept = [view for view in found if call.gate.allows(_target_of(view))]
        return wire.ResourceList(items=kept)


@dataclass(frozen=True, slots=True)
class ShowResource:
    """``resource.show``: one resource."""

    store: Store

    async def __call__(self, call: Call[wire.NameResource]) -> wire.ResourceView:
        """Raises `NotFound` if no resource has that name."""
        name = call.body.name
        for view in await self.store.read(_collect):
            if view.name == name:
                call.gate.check(_target_of(view))
                return view
        raise NotFound(f"There is no resource {name[:128]!r}.")


def _target_of(view: wire.ResourceView) -> Target:
    return Target(view.name, view.owner, view.environment, view.labels)


def _collect(tx: Transaction) -> list[wire.ResourceView]:
    return [
        _view(stored.value, stored.revision)
        for stored in tx.declarations.list()
        if isinstance(stored.value, Resource)
    ]


def _view(resource: Resource, revision: int) -> wire.ResourceView:
    return wire.ResourceView(
        name=resource.name,
        owner=resource.owner,
        purpose=resource.purpose,
        labels=dict(resource.labels),
        identifiers=list(resource.identifiers),
        servers=list(resource.servers),
        actions=dict(resource.actions),
        passes_to=list(resource.passes_to),
        format=resource.token.format.value,
        algorithm=resource.token.algorithm,
        ttl=int(resource.token.ttl.total_seconds()),
        ttls={tier.value: int(ttl.total_seconds()) for tier, ttl in resource.token.ttls.items()},
        binding=resource.token.binding.value,
        shared_with=list(resource.token.shared_with),
        type=resource.entity_type,
        pattern=resource.pattern,
        environment=resource.environment,
        sensitivity=resource.sensitivity,
        minimum_tier=resource.minimum_tier.value,
        audiences=list(resource.audiences),
        attributes={name: kind.value for name, kind in resource.attributes.items()},
        hosts=list(resource.hosts),
        routes=[
            wire.RouteView(action=one.action, path=one.path, methods=list(one.methods))
            for one in resource.routes
        ],
        instances=len(resource.instances),
        revision=revision,
    )
