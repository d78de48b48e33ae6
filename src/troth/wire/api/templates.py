"""Templates on the wire: what a node asks at first sight, and what people see of them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from troth.wire.api.nodes import MAX_SELECTOR, MAX_SELECTORS

Selectors = Annotated[
    list[Annotated[str, Meta(max_length=MAX_SELECTOR)]],
    Meta(min_length=1, max_length=MAX_SELECTORS),
]


class SightWorkload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node met a process that no identity is registered for; what it attested about it."""

    selectors: Selectors
    pid: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class SightedWorkload(Struct, frozen=True, kw_only=True):
    """The identity that the process gets, from the template named; `state` may be proposed."""

    identity_id: str
    name: str
    spiffe_id: str
    state: str
    template: str


class ListTemplates(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List templates by name."""


class TemplateView(Struct, frozen=True, kw_only=True):
    """One template as the API shows it; times in seconds, `identities` are those that live."""

    name: str
    prefix: str
    naming: str
    match: list[str]
    nodes: list[str]
    kind: str
    owner: str
    purpose: str
    environment: str
    labels: dict[str, str]
    x509_ttl: int
    jwt_ttl: int
    hint: str
    unattended_after: int
    retire_after: int
    lifetime: int
    max: int
    start: str
    identities: int
    revision: int


class TemplateList(Struct, frozen=True, kw_only=True):
    """All templates."""

    items: list[TemplateView]
