"""Signing authorities: which key signs what, and since when. Keys stay in a keystore."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from troth.core.ids import AuthorityId


class Use(StrEnum):
    """What an authority signs; one key never serves two uses."""

    X509 = "x509-svid"
    JWT = "jwt-svid"


class AuthorityState(StrEnum):
    """prepared (published, not signing) → active → retired (still published) → ended."""

    PREPARED = "prepared"
    ACTIVE = "active"
    RETIRED = "retired"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Authority:
    """One signing key's public record.

    `certificate` is the DER of the CA certificate for X.509, empty for JWT; `public_key` is DER
    SubjectPublicKeyInfo; `key_ref` names the key in its keystore.
    """

    id: AuthorityId
    use: Use
    state: AuthorityState
    key_ref: str
    public_key: bytes
    certificate: bytes
    not_before: datetime
    not_after: datetime
    created_at: datetime
