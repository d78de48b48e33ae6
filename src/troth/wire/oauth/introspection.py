"""What the introspection endpoint answers (RFC 7662, section 2.2).

`roles` is named by RFC 9068, section 2.2.3.1, `cnf` by RFC 8705, section 3.2, `act` by RFC 8693,
section 4.1, `authorization_details` by RFC 9396, section 9.2. `permitted_actions`, `trust_tier` and
`cache_until` are names of our own, as RFC 7662, section 2.2, allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET, Struct, UnsetType


class Introspection(Struct, frozen=True, kw_only=True):
    """A token, as the resource that asks may know it; of one that doesn't count `active` alone.

    `scope` is what the token says, and `permitted_actions` what of it the subject's roles permit on
    the asking resource now. The answer may be kept until `cache_until` (seconds of the Unix epoch)
    by who asks for each request; who does so learns of a revocation at the latest then.
    """

    active: bool
    scope: str | UnsetType = UNSET
    client_id: str | UnsetType = UNSET
    token_type: str | UnsetType = UNSET
    exp: int | UnsetType = UNSET
    iat: int | UnsetType = UNSET
    sub: str | UnsetType = UNSET
    aud: str | Sequence[str] | UnsetType = UNSET
    iss: str | UnsetType = UNSET
    jti: str | UnsetType = UNSET
    cnf: Mapping[str, Any] | UnsetType = UNSET
    act: Mapping[str, Any] | UnsetType = UNSET
    authorization_details: Sequence[Any] | UnsetType = UNSET
    roles: Sequence[str] | UnsetType = UNSET
    permitted_actions: Sequence[str] | UnsetType = UNSET
    trust_tier: str | UnsetType = UNSET
    cache_until: int | UnsetType = UNSET


INACTIVE = Introspection(active=False)
"""All that is said of a token that doesn't count, whatever the reason (section 2.2)."""


@dataclass(frozen=True, slots=True)
class Signed:
    """An answer that is a JWT, with its media type."""

    text: str
    media_type: str
