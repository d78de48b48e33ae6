"""Signing authorities: which key signs what, and since when. Keys stay in a keystore."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from troth.core.errors import Refused
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


def require_signing(authority: Authority, use: Use, now: datetime) -> None:
    """Raise `Refused` unless `authority` may sign new credentials of `use` at `now`."""
    if authority.use is not use:
        raise Refused(
            f"Authority {authority.id} signs {authority.use.value}, not {use.value};"
            " choose one of the right use."
        )
    if authority.state is not AuthorityState.ACTIVE:
        raise Refused(
            f"Authority {authority.id} is {authority.state.value}; only an active one signs."
        )
    if not authority.not_before <= now < authority.not_after:
        raise Refused(
            f"Authority {authority.id} is not valid now: it holds from"
            f" {authority.not_before.isoformat()} to {authority.not_after.isoformat()}."
            " Check the clock, or rotate the authority."
        )
