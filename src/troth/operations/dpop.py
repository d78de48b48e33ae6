"""DPoP at the token endpoint: proofs with nonces of ours, each taken once (RFC 9449; sections in
brackets).

A nonce is random, the same for everybody for a minute, and good for some more. All servers on a
database share them. They are no secrets: what counts is that nobody knew one before its minute, so
that no proof was made long in advance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Conflict, TrothError
from troth.core.jose.dpop import LEEWAY, MAX_AGE, normalise_url, read_proof
from troth.core.jose.jwk import encode_base64url
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.oauth.errors import InvalidDpopProof, UseDpopNonce

SETTING = "dpop_nonces"
SPAN = 60
"""Seconds for which a nonce is the newest."""
SPANS = 5
"""How many nonces are good: the newest, and those before it."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a proof binds a token to, and what is used up with it."""

    confirmation: Mapping[str, str]
    proofs: Mapping[str, datetime]


class DpopVerifier:
    """Takes proofs, and gives out nonces for them. Belongs to one event loop.

    `urls` are the endpoints that take them, as the metadata name them.
    """

    def __init__(self, store: Store, clock: Clock, entropy: Entropy, urls: Collection[str]) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._urls = frozenset(map(normalise_url, urls))
        self._nonces: dict[int, str] = {}
        self._looked = -1.0

    async def verify(
        self, text: str, method: str, url: str, access_token: str | None = None
    ) -> Bound:
        """What the proof for a request to `url` binds to; `UseDpopNonce` without a nonce of ours
        [8], `InvalidDpopProof` if it is none [5]. With `access_token` it must be for that [7]."""
        now = self._clock.now()
        # Who sends a request writes its Host: it must not make a proof for others one for us.
        if normalise_url(url) not in self._urls:
            raise InvalidDpopProof(
                "The request came to a name that isn't this server's: use the endpoints of its "
                "metadata, and make the DPoP proof for them."
            )
        try:
            proof = read_proof(text, method, url, now, access_token)
        except TrothError as error:
            raise InvalidDpopProof(error.detail.replace("The token", "The DPoP proof")) from error
        if proof.nonce is None or not await self._is_good(proof.nonce):
            nonce = await self.make_nonce()
            raise UseDpopNonce(
                "Make a new DPoP proof with the nonce of the DPoP-Nonce header.", nonce
            )
        digest = hashlib.sha256(f"dpop\0{proof.thumbprint}\0{proof.jti}".encode()).hexdigest()
        return Bound({"jkt": proof.thumbprint}, {digest: proof.issued_at + MAX_AGE + LEEWAY})

    async def make_nonce(self) -> str:
        """The newest nonce."""
        span = self._span()
        if span not in self._nonces:
            fresh = encode_base64url(self._entropy.token(18))
            try:
                self._nonces = await self._store.transact(lambda tx: _add(tx, span, fresh))
            except Conflict:  # another server was first, ever
                self._nonces = await self._store.read(_load)
        return self._nonces.get(span) or max(self._nonces.items())[1]

    async def _is_good(self, nonce: str) -> bool:
        if self._is_known(nonce):
            return True
        moment = self._clock.monotonic()
        if 0 <= moment - self._looked < 1:  # strangers can't make us read more often
            return False
        self._looked = moment
        self._nonces = await self._store.read(_load)  # another server may have made it
        return self._is_known(nonce)

    def _is_known(self, nonce: str) -> bool:
        span = self._span()
        return any(
            span - SPANS < made <= span + 1 and nonce == known
            for made, known in self._nonces.items()
        )

    def _span(self) -> int:
        return int(self._clock.now().timestamp()) // SPAN


def _load(tx: Transaction) -> dict[int, str]:
    known = tx.settings.get(SETTING)
    return {} if known is None else msgspec.json.decode(known, type=dict[int, str])


def _add(tx: Transaction, span: int, fresh: str) -> dict[int, str]:
    """Store `fresh` for `span` unless there is one; what is good by then."""
    nonces = {made: nonce for made, nonce in _load(tx).items() if made > span - SPANS}
    if span not in nonces:
        nonces[span] = fresh
        tx.settings.set(SETTING, msgspec.json.encode(nonces).decode())
    return nonces
