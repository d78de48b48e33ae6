"""Signing authorities: which key signs what, and since when. Keys stay in a keystore."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from troth.core.errors import Refused
from troth.core.ids import AuthorityId


class Use(StrEnum):
    """What an authority signs; one key never serves two uses."""

    X509 = "x509-svid"
    JWT = "jwt-svid"
    TOKEN = "access-token"  # noqa: S105 - a name
    TOKEN_EDDSA = "access-eddsa"  # noqa: S105 - a name
    TOKEN_RS256 = "access-rs256"  # noqa: S105 - a name


TOKEN_ALGORITHMS: Mapping[Use, str] = {
    Use.TOKEN: "ES256",
    Use.TOKEN_EDDSA: "EdDSA",
    Use.TOKEN_RS256: "RS256",
}
"""The uses that sign access tokens, each with the JWS `alg` of its keys."""

REQUIRED_USES = (Use.X509, Use.JWT, Use.TOKEN)
"""The uses that every server has; the others are made when something asks for them."""


def find_token_use(algorithm: str) -> Use:
    """The use that signs access tokens with `algorithm`."""
    return next(use for use, known in TOKEN_ALGORITHMS.items() if known == algorithm)


class AuthorityState(StrEnum):
    """prepared (published, not signing) → active → retired (still published) → ended.

    By hand also prepared or retired → tainted (still published, all that it signed is replaced)
    → revoked (published no longer).
    """

    PREPARED = "prepared"
    ACTIVE = "active"
    RETIRED = "retired"
    TAINTED = "tainted"
    REVOKED = "revoked"
    ENDED = "ended"


KNOWN_AFTER = timedelta(minutes=10)
"""How long a prepared authority is published before it may sign: twice the refresh hint of the
bundle document, so that verifiers that fetch it now and then have it too."""


@dataclass(frozen=True, slots=True)
class Authority:
    """One signing key's public record.

    `certificate` is the DER of the CA certificate for X.509, empty for tokens; `public_key` is DER
    SubjectPublicKeyInfo; `key_ref` names the key in its keystore; since `retired_at` it signs no
    more.
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
    retired_at: datetime | None = None

    @property
    def published(self) -> bool:
        """Whether verifiers are told to trust it."""
        return self.state not in (AuthorityState.REVOKED, AuthorityState.ENDED)

    @property
    def distrusted(self) -> bool:
        """Whether what it signed must be replaced now."""
        return self.state in (AuthorityState.TAINTED, AuthorityState.REVOKED)

    @property
    def ready_at(self) -> datetime:
        """When a prepared authority has been published for long enough to sign."""
        return self.created_at + KNOWN_AFTER

    def is_valid(self, now: datetime) -> bool:
        """Whether `now` lies within its life."""
        return self.not_before <= now < self.not_after


class Step(StrEnum):
    """What a use's authorities need next; `make` is a new one that signs at once."""

    REST = "rest"
    PREPARE = "prepare"
    ACTIVATE = "activate"
    MAKE = "make"


def plan_step(known: Iterable[Authority], now: datetime) -> tuple[Step, Authority | None]:
    """The step that is due for the authorities of one use, and whom `activate` concerns.

    Where nothing can be signed, a root that verifiers learn of late is better than none. (An
    authority that isn't valid yet was made under a clock that has been set back since.)
    """
    valid = [authority for authority in known if authority.is_valid(now)]
    active = next((a for a in valid if a.state is AuthorityState.ACTIVE), None)
    prepared = next((a for a in valid if a.state is AuthorityState.PREPARED), None)
    if active is None:
        return (Step.MAKE, None) if prepared is None else (Step.ACTIVATE, prepared)
    life, left = active.not_after - active.not_before, active.not_after - now
    if prepared is None:
        return (Step.PREPARE if left <= life / 2 else Step.REST), None
    if left <= life / 6 and now >= prepared.ready_at:
        return Step.ACTIVATE, prepared
    return Step.REST, None


def check_activation(authority: Authority, now: datetime, *, force: bool) -> None:
    """Raise `Refused` unless `authority` may begin to sign; `force` leaves out the waiting."""
    if authority.state is AuthorityState.ACTIVE:
        raise Refused(f"Authority {authority.id} signs already.")
    if authority.state is not AuthorityState.PREPARED:
        raise Refused(
            f"Authority {authority.id} is {authority.state.value} and never signs again; prepare "
            "a new one."
        )
    if not authority.is_valid(now):
        raise Refused(
            f"Authority {authority.id} is not valid now; check the clock, or revoke it and prepare "
            "a new one."
        )
    if now < authority.ready_at and not force:
        raise Refused(
            f"Authority {authority.id} must be published for {KNOWN_AFTER.seconds // 60} minutes "
            f"before it signs, until {authority.ready_at:%H:%M:%S} UTC: verifiers that don't know "
            "it yet would refuse what it signs. Wait, or force it if that is worse."
        )


def check_taint(authority: Authority) -> None:
    """Raise `Refused` unless `authority` may be tainted."""
    if authority.state is AuthorityState.ACTIVE:
        raise Refused(
            f"Authority {authority.id} signs now, so nothing could replace what it signed: prepare "
            "and activate its successor first."
        )
    if authority.state not in (AuthorityState.PREPARED, AuthorityState.RETIRED):
        raise Refused(f"Authority {authority.id} is {authority.state.value} already.")


def check_revocation(authority: Authority, holders: int, *, force: bool) -> None:
    """Raise `Refused` unless `authority` may leave the bundle.

    `holders` counts what lives of it and has no replacement yet; `force` leaves them behind.
    """
    if authority.state is AuthorityState.ACTIVE:
        raise Refused(
            f"Authority {authority.id} signs now; prepare and activate its successor first."
        )
    if not authority.published:
        raise Refused(f"Authority {authority.id} is {authority.state.value} already.")
    if holders and not force:
        raise Refused(
            f"{holders} credentials that authority {authority.id} signed live and are not replaced "
            "yet; their holders would be refused everywhere. Taint it and wait until there are "
            "none, or force it if the key was stolen."
        )


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


def require_token_signing(authority: Authority, now: datetime) -> None:
    """Raise `Refused` unless `authority` may sign new access tokens at `now`, by any algorithm."""
    use = authority.use if authority.use in TOKEN_ALGORITHMS else Use.TOKEN
    require_signing(authority, use, now)
