"""Resources: the APIs that workloads call, their actions, and the tokens that they want."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from troth.core.glob import ANY
from troth.core.tier import Tier
from troth.policy.fact import FactKind


class TokenFormat(StrEnum):
    """How an access token looks: a JWT that anybody verifies (RFC 9068), or sealed for troth."""

    JWT = "jwt"
    OPAQUE = "opaque"


class Binding(StrEnum):
    """Whether a resource takes tokens that whoever holds them may use.

    `NONE`: it does; `ANY`: only sender-constrained ones; or only by one of the two methods.
    """

    NONE = "none"
    ANY = "any"
    MTLS = "mtls"
    DPOP = "dpop"


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What tokens for a resource are like. `ttl` is a ceiling, `algorithm` a JWS `alg`.

    `ttls` are lower ceilings for holders of some trust tiers. `shared_with` names the resources
    with which one token may be for both; they must say the same.
    """

    format: TokenFormat
    algorithm: str
    ttl: timedelta
    binding: Binding
    ttls: Mapping[Tier, timedelta] = field(default_factory=dict)
    shared_with: tuple[str, ...] = ()

    def limit_ttl(self, tier: Tier) -> timedelta:
        """How long a token may live that is given to a holder of that tier."""
        return min(self.ttl, self.ttls.get(tier, self.ttl))


@dataclass(frozen=True, slots=True)
class Instance:
    """One thing of a resource's type that is known by name: it can be found by searches, has
    `properties`, and, where it asks for something itself, holds `roles`."""

    id: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """Requests that are an action: their methods (none: any), and the pattern of their path, in
    which ``{id}`` stands for the segment that says which one, ``*`` for one segment and ``**`` at
    the end for the rest."""

    action: str
    path: str
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resource:
    """What a manifest of kind Resource says.

    `identifiers` are the absolute URIs by which clients name it (RFC 8707, section 2), the first
    of them what its tokens say; without one there are no tokens for it. `servers` are the
    identities that serve it, by name; `actions` what can be done, with a sentence each: they are
    the scopes of its tokens. `passes_to` names the resources to which its servers may pass a
    caller's identity on.

    Questions about a `type` ("": the resource's own name) and an id that fits `pattern` are about
    this resource. It lies in an `environment` ("" for none), matters by its `sensitivity`, takes
    identities of `minimum_tier` and above, and tokens for `audiences` alone (none: for its own
    identifiers). `attributes` are what is known of one of the type, `action_attributes` of what is
    done with it, `instances` those that are known by name. `hosts` and `routes` are how it looks
    over HTTP.
    """

    name: str
    labels: Mapping[str, str]
    owner: str
    purpose: str
    identifiers: tuple[str, ...]
    servers: tuple[str, ...]
    actions: Mapping[str, str]
    passes_to: tuple[str, ...]
    token: TokenTerms
    type: str = ""
    pattern: str = ANY
    environment: str = ""
    sensitivity: str = "medium"
    minimum_tier: Tier = Tier.LOW
    audiences: tuple[str, ...] = ()
    attributes: Mapping[str, FactKind] = field(default_factory=dict)
    action_attributes: Mapping[str, FactKind] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()
    hosts: tuple[str, ...] = ()
    routes: tuple[HttpRoute, ...] = ()

    @property
    def entity_type(self) -> str:
        """The type of what it holds."""
        return self.type or self.name

    @property
    def audience(self) -> str:
        """What stands in `aud` of its tokens; "" if there are none for it."""
        return self.identifiers[0] if self.identifiers else ""


@dataclass(frozen=True, slots=True)
class Target:
    """What one token is for: a resource, or several that share tokens."""

    resources: tuple[Resource, ...]

    @property
    def name(self) -> str:
        """The resources' names."""
        return " ".join(resource.name for resource in self.resources)

    @property
    def audiences(self) -> tuple[str, ...]:
        """What stands in `aud`."""
        return tuple(resource.audience for resource in self.resources)

    @property
    def format(self) -> TokenFormat:
        """How its tokens look; alike for all."""
        return self.resources[0].token.format

    @property
    def algorithm(self) -> str:
        """What its tokens are signed with; alike for all."""
        return self.resources[0].token.algorithm

    def limit_ttl(self, tier: Tier) -> timedelta:
        """How long a token may live: no resource takes one for longer than it said."""
        return min(resource.token.limit_ttl(tier) for resource in self.resources)


def find_unshared(resources: Sequence[Resource]) -> str:
    """Why these resources can't share a token, in a sentence; "" if they can."""
    for one in resources:
        for other in resources:
            if other.name != one.name and other.name not in one.token.shared_with:
                return "Only resources that all name each other (sharedWith) share a token."
    if len({(one.token.format, one.token.algorithm) for one in resources}) > 1:
        return "Resources that want tokens of different forms share none: ask for one each."
    return ""


def index_identifiers(resources: Iterable[Resource]) -> dict[str, Resource]:
    """Resources by each of their identifiers."""
    return {uri: resource for resource in resources for uri in resource.identifiers}
