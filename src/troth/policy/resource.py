"""Resources: the APIs that workloads call, their actions, and the tokens that they want."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from troth.core.tier import Tier


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
class Resource:
    """What a manifest of kind Resource says.

    `identifiers` are the absolute URIs by which clients name it (RFC 8707, section 2), the first
    of them what its tokens say; `servers` the identities that serve it, by name; `actions` what can
    be done, with a sentence each: they are the scopes of its tokens. `passes_to` names the
    resources to which its servers may pass a caller's identity on.
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

    @property
    def audience(self) -> str:
        """What stands in `aud` of its tokens."""
        return self.identifiers[0]


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
