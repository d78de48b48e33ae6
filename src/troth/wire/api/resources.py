"""Resources on the wire: the APIs that are declared, and what tokens for them are like."""

from __future__ import annotations

from msgspec import Struct

from troth.wire.api.identities import Name


class ListResources(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List resources by name."""


class NameResource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name one resource."""

    name: Name


class RouteView(Struct, frozen=True, kw_only=True):
    """Requests over HTTP that are an action; no methods: any."""

    action: str
    path: str
    methods: list[str] = []


class ResourceView(Struct, frozen=True, kw_only=True):
    """One resource as its manifest has it; the first of `identifiers` is the audience of its
    tokens, `ttl` their longest life in seconds, `ttls` that for each tier of trust. It shares
    tokens with the resources in `shared_with`. Questions about a `type` and an id that fits
    `pattern` are about it; `instances` is how many of them are known by name."""

    name: str
    owner: str
    purpose: str
    labels: dict[str, str]
    identifiers: list[str]
    servers: list[str]
    actions: dict[str, str]
    passes_to: list[str]
    format: str
    algorithm: str
    ttl: int
    ttls: dict[str, int]
    binding: str
    shared_with: list[str]
    revision: int
    type: str = ""
    pattern: str = "*"
    environment: str = ""
    sensitivity: str = "medium"
    minimum_tier: str = "low"
    audiences: list[str] = []
    attributes: dict[str, str] = {}
    instances: int = 0
    hosts: list[str] = []
    routes: list[RouteView] = []


class ResourceList(Struct, frozen=True, kw_only=True):
    """All resources."""

    items: list[ResourceView]
