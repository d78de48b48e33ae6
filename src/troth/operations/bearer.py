"""Tokens that come back to us: whether one is ours, and whether it still counts.

A token has no row. It counts while it is signed by a key of ours that nobody has cause to distrust,
hasn't ended, and everybody who stands in it may still hold one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from troth.core.clock import Clock
from troth.core.errors import TrothError
from troth.core.ids import SpiffeId, TrustDomain
from troth.core.jose.jwk import PublicKey, derive_key_id, load_key
from troth.core.tier import Tier
from troth.identity.identity import Identity
from troth.identity.lifecycle import may_hold_credentials
from troth.issuance.accesstoken import ACCESS, Kind, index_headers, verify_access_token
from troth.issuance.authorities import TOKEN_ALGORITHMS, Use
from troth.issuance.instance import list_instances
from troth.issuance.opaque import is_opaque
from troth.live.bundle import Bundle
from troth.live.snapshot import Snapshot
from troth.operations.declaration import read_bundle
from troth.operations.sealing import TokenSealer
from troth.operations.standing import find_lowest_tier, read_lowest_tier
from troth.store.engine import Store


@dataclass(frozen=True, slots=True)
class Verified:
    """A token of ours that hasn't expired, whatever has become of it since.

    `parties` are its subject, its client and its actors, each once; all of them must be good.
    `instances` are the running copies that obtained it, as far as they are known.
    """

    claims: Mapping[str, Any]
    kid: str
    parties: tuple[str, ...]
    instances: tuple[str, ...] = ()

    @property
    def jti(self) -> str:
        """Which token it is."""
        return str(self.claims["jti"])

    @property
    def subject(self) -> str:
        """The SPIFFE ID for which it speaks."""
        return str(self.claims["sub"])

    @property
    def end(self) -> datetime:
        """When it ends, if nothing ends it before."""
        return datetime.fromtimestamp(self.claims["exp"], UTC)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a token doesn't count, in a sentence for the journal.

    `token` is there once its signature was found to be ours. `evident` says that the reason is to
    be seen in the token itself; any other is not for whoever asks, who would learn from it what is
    registered.
    """

    reason: str
    token: Verified | None = None
    evident: bool = False


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token that counts now, its subject, and how much all who stand in it are relied on now: the
    lowest of the tiers of their scores."""

    token: Verified
    subject: Identity
    tier: Tier


class TokenJudge:
    """Says whether a token counts. Belongs to one event loop; it reads live state alone, but for
    identities that weren't met of late."""

    def __init__(
        self,
        store: Store,
        snapshot: Snapshot,
        clock: Clock,
        trust_domain: TrustDomain,
        issuer_url: str,
        sealer: TokenSealer,
    ) -> None:
        self._store = store
        self._snapshot = snapshot
        self._clock = clock
        self._trust_domain = trust_domain
        self._issuer_url = issuer_url
        self._sealer = sealer
        self._signers: _Signers | None = None

    async def read_bundle(self) -> Bundle:
        """What is declared now."""
        return await read_bundle(self._store, self._snapshot)

    async def verify(self, text: str, bundle: Bundle, kind: Kind = ACCESS) -> Verified | Rejected:
        """What a token says, in either form, if it is one of ours of that kind and its time isn't
        over."""
        try:
            return self._verify(await self._open(text), bundle, kind)
        except TrothError as error:
            if error.retryable:
                raise
            return Rejected(error.detail, evident=True)

    async def _open(self, text: str) -> str:
        """The signed token in an opaque one; any other as it is."""
        if not is_opaque(text):
            return text
        now = self._clock.now()
        if self._sealer.is_ready(text, now):
            return self._sealer.open(text, now)
        return await asyncio.to_thread(self._sealer.open, text, now)

    def _verify(self, text: str, bundle: Bundle, kind: Kind) -> Verified | Rejected:
        now = self._clock.now()
        try:
            signers = self._load(bundle)
            token = verify_access_token(
                text,
                issuer_url=self._issuer_url,
                keys=signers.keys,
                now=now,
                kind=kind,
                headers=signers.headers,
            )
            claims = token.claims
            parties = dict.fromkeys(kind.list_parties(claims))
            instances = list_instances(claims)
        except TrothError as error:
            return Rejected(error.detail, evident=True)
        verified = Verified(claims, str(token.header["kid"]), tuple(parties), instances)
        # By our own clock: leeway is for verifiers.
        if now.timestamp() >= claims["exp"]:
            return Rejected("The token has expired; get a fresh one.", verified, evident=True)
        return verified

    async def judge(self, text: str, bundle: Bundle, kind: Kind = ACCESS) -> Bearer | Rejected:
        """The bearer of a token that counts now, whomever it is meant for."""
        token = await self.verify(text, bundle, kind)
        return token if isinstance(token, Rejected) else await self.weigh(token, bundle)

    async def weigh(self, token: Verified, bundle: Bundle) -> Bearer | Rejected:
        """The bearer of a token that was verified, if it counts now."""
        objection = self._find_objection(token, bundle)
        if objection:
            return Rejected(objection, token)
        known, waited = await self._find_identities(token.parties)
        now = self._clock.now()
        for name in token.parties:
            identity = known.get(name)
            if identity is None and self._is_ours(name):
                return Rejected(f"{name} is registered no more.", token)
            if identity is not None and not may_hold_credentials(identity, now):
                over = "expired" if identity.expires_at <= now else identity.state.value
                return Rejected(f"{name} is {over}.", token)
            if identity is not None and token.claims["iat"] < int(identity.created_at.timestamp()):
                # A new holder of the name has nothing to do with the tokens of a retired one.
                return Rejected(f"{name} was registered after the token was issued.", token)
        tier = find_lowest_tier(self._snapshot, self._clock, known.values())
        if tier is None:
            waited = True
            tier = await read_lowest_tier(
                self._store, self._snapshot, self._clock, [*known.values()]
            )
        if waited:  # the journal may have moved on meanwhile
            objection = self._find_objection(token, bundle)
        subject = known.get(token.subject)
        if objection or subject is None:
            return Rejected(objection or f"{token.subject} is of another trust domain.", token)
        return Bearer(token, subject, tier)

    def _find_objection(self, token: Verified, bundle: Bundle) -> str:
        """What the snapshot knows against a token, in a sentence; "" if nothing."""
        snapshot = self._snapshot
        if snapshot.tokens.is_revoked(token.jti):
            return "The token was revoked."
        for name in token.parties:
            state = snapshot.find_cut_off(name)
            if state is not None:
                return f"{name} is {state.value}."
        issued_at = token.claims.get("iat")
        if not isinstance(issued_at, int):
            return "The token has no iat."
        ended = snapshot.tokens.find_ended((*token.parties, *token.instances), issued_at)
        if ended is not None:
            return f"All tokens of {ended} up to then were revoked."
        if token.kid in self._load(bundle).distrusted or snapshot.is_distrusted(token.kid):
            return "The authority that signed the token is trusted no more."
        return ""

    async def _find_identities(self, names: tuple[str, ...]) -> tuple[dict[str, Identity], bool]:
        """Living identities by SPIFFE ID, live where they are known; whether others were read."""
        facts, epoch = self._snapshot.facts, self._snapshot.epoch
        known = {name: found for name in names if (found := facts.find_named(name)) is not None}
        missing = [SpiffeId.parse(n) for n in names if n not in known and self._is_ours(n)]
        if missing:
            for identity in await self._store.read(
                lambda tx: tx.identities.list_living_at(missing)
            ):
                facts.remember(identity, epoch)
                known[str(identity.spiffe_id)] = identity
        return known, bool(missing)

    def _is_ours(self, name: str) -> bool:
        return name.startswith(f"{self._trust_domain.id}/")

    def _load(self, bundle: Bundle) -> _Signers:
        if self._signers is None or self._signers.bundle is not bundle:
            self._signers = _load_signers(bundle)
        return self._signers


@dataclass(frozen=True, slots=True)
class _Signers:
    """Who signs access tokens or did, retired ones as long as what they signed may live: keys with
    their algorithms by `kid`, and the headers of what they sign; and which of them, or of those of
    JWT-SVIDs, are trusted no more."""

    bundle: Bundle
    keys: Mapping[str, tuple[PublicKey, str]]
    headers: Mapping[str, Mapping[str, Any]]
    distrusted: frozenset[str]


def _load_signers(bundle: Bundle) -> _Signers:
    named = {
        derive_key_id(one.public_key): one
        for one in bundle.authorities
        if one.use in (*TOKEN_ALGORITHMS, Use.JWT)
    }
    keys = {
        kid: (load_key(a.public_key), TOKEN_ALGORITHMS[a.use])
        for kid, a in named.items()
        if a.use in TOKEN_ALGORITHMS
    }
    distrusted = frozenset(kid for kid, authority in named.items() if authority.distrusted)
    return _Signers(bundle, keys, index_headers(keys), distrusted)
