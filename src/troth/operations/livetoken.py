"""Access tokens that come back to us: whether one is ours, and whether it still counts.

A token has no row. It counts while it is signed by a key of ours that nobody has cause to distrust,
hasn't ended, and everybody who stands in it may still hold one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from troth.core.errors import Invalid
from troth.core.jose.jwk import PublicKey, derive_key_id, load_key
from troth.identity.identity import Identity
from troth.identity.lifecycle import may_hold_credentials
from troth.issuance.accesstoken import list_actors, validate_access_token
from troth.issuance.authorities import TOKEN_ALGORITHMS, Authority, AuthorityState, Use
from troth.issuance.profiles import trim_seconds
from troth.live.bundle import Bundle
from troth.live.snapshot import Snapshot

NOT_LIVE = (
    "The token is not live: it has ended or was revoked, or somebody who stands in it may hold no "
    "tokens now."
)
"""One sentence for all that depends on what is registered: its bearer learns nothing from it."""

_SIGNED = (AuthorityState.ACTIVE, AuthorityState.RETIRED)
"""Who signs, or has signed. What a tainted authority signed is to be replaced, not lived on."""

Find = Callable[[str], Awaitable[Identity | None]]
"""The living identity of a SPIFFE ID."""


def list_signers(bundle: Bundle, use: Use) -> list[Authority]:
    """The authorities whose signatures count for what was issued until now."""
    return [one for one in bundle.authorities if one.use is use and one.state in _SIGNED]


class TokenKeys:
    """The keys that verify access tokens, ready for use: the same for as long as the bundle is."""

    def __init__(self) -> None:
        self._bundle: Bundle | None = None
        self._keys: Mapping[str, tuple[PublicKey, str]] = {}

    def list(self, bundle: Bundle) -> Mapping[str, tuple[PublicKey, str]]:
        """Key and algorithm by `kid`."""
        if bundle is not self._bundle:
            self._keys = {
                derive_key_id(one.public_key): (load_key(one.public_key), algorithm)
                for use, algorithm in TOKEN_ALGORITHMS.items()
                for one in list_signers(bundle, use)
            }
            self._bundle = bundle
        return self._keys


def read_own_token(
    text: str,
    bundle: Bundle,
    keys: Mapping[str, tuple[PublicKey, str]],
    issuer_url: str,
    now: datetime,
) -> Mapping[str, Any]:
    """The claims of a token that we issued for a resource that is declared; else `Invalid`.

    We know our own clock: it ends when it ends, without leeway.
    """
    claims = validate_access_token(
        text, issuer_url=issuer_url, audiences=bundle.by_identifier, keys=keys, now=now
    )
    if read_end(claims) <= now:
        raise Invalid("The token has expired; get a fresh one.")
    return claims


def read_end(claims: Mapping[str, Any]) -> datetime:
    """When a verified token ends."""
    return datetime.fromtimestamp(claims["exp"], UTC)


async def check_live(
    claims: Mapping[str, Any], snapshot: Snapshot, find: Find, now: datetime
) -> Identity:
    """The identity that a verified token speaks for; `Invalid` unless all who stand in it may
    still hold one: its subject, whom it was given to, and whoever acts."""
    subject = str(claims["sub"])
    issued_at = datetime.fromtimestamp(claims.get("iat", 0), UTC)
    found: dict[str, Identity] = {}
    parties = {subject, str(claims.get("client_id", subject)), *list_actors(claims)}
    ended = snapshot.tokens.find_ended(sorted(parties), int(issued_at.timestamp()))
    if ended is not None or snapshot.tokens.is_revoked(str(claims.get("jti"))):
        raise Invalid(NOT_LIVE)
    for name in parties:
        identity = await find(name)
        if (
            identity is None
            or snapshot.find_cut_off(name) is not None
            or not may_hold_credentials(identity, now)
            # Of its name's former holder, who was retired: a new one has nothing to do with it.
            or issued_at < trim_seconds(identity.created_at)
        ):
            raise Invalid(NOT_LIVE)
        found[name] = identity
    return found[subject]
