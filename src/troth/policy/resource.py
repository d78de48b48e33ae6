"""Resources: the APIs that workloads call, their actions, and the tokens that they want."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


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
    """What tokens for a resource are like. `ttl` is a ceiling, `algorithm` a JWS `alg`."""

    format: TokenFormat
    algorithm: str
    ttl: timedelta
    binding: Binding


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


def index_identifiers(resources: Iterable[Resource]) -> dict[str, Resource]:
    """Resources by each of their identifiers."""
    return {uri: resource for resource in resources for uri in resource.identifiers}
