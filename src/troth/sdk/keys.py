"""The public keys of an issuer, kept: fetched anew now and then, and when a token names another.

They stay usable while the issuer is briefly away, and strangers can't make us ask it often.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from troth.core.clock import Clock
from troth.core.errors import TrothError, Unavailable
from troth.core.jose.jwk import PublicKey, load_jwk
from troth.core.jose.jws import ALGORITHMS, fits_algorithm
from troth.sdk.issuer import Issuer
from troth.sdk.tokens import Spawn, spawn_thread

log = logging.getLogger("troth.sdk")

FRESH_SECONDS = 300.0
"""After this they are fetched again, while nobody waits."""
STALE_SECONDS = 3600.0
"""After this without an answer they count no more."""
ASK_SECONDS = 10.0
"""The least between two requests, whatever tokens name."""
MAX_KEYS = 100


class KeySet:
    """The keys of `issuer`. Any thread may use it."""

    def __init__(self, issuer: Issuer, clock: Clock, spawn: Spawn = spawn_thread) -> None:
        self._issuer = issuer
        self._clock = clock
        self._spawn = spawn
        self._lock = threading.Lock()
        self._keys: Mapping[str, tuple[PublicKey, str]] = {}
        self._read_at = self._asked_at = float("-inf")
        self._renewing = False
        self._failure: TrothError | None = None

    @property
    def usable(self) -> Mapping[str, tuple[PublicKey, str]]:
        """Keys with their algorithm, by `kid`; none where what is known is too old."""
        age = self._clock.monotonic() - self._read_at
        if age > FRESH_SECONDS:
            if age > STALE_SECONDS:
                return {}
            self._renew()
        return self._keys

    @property
    def askable(self) -> bool:
        """Whether the issuer may be asked now."""
        return self._clock.monotonic() - self._asked_at >= ASK_SECONDS

    def check(self) -> None:
        """Raise `Unavailable` unless what is known is the issuer's last word."""
        if self._failure is not None:
            raise Unavailable(f"The issuer's keys can't be fetched. {self._failure.detail}", 1.0)

    def refresh(self) -> None:
        """Fetch them, unless that was just done; blocks. What goes wrong is told by `check`."""
        with self._lock:
            if not self.askable:
                return
            self._asked_at = self._clock.monotonic()
            try:
                fresh = _load(self._issuer.fetch_keys())
            except TrothError as error:
                log.warning("The issuer's keys can't be fetched: %s", error.detail)
                self._failure = error
                return
            self._keys, self._read_at, self._failure = fresh, self._asked_at, None

    def _renew(self) -> None:
        """Refresh while everybody goes on with what is known."""
        if self._renewing or not self.askable:
            return
        self._renewing = True

        def work() -> None:
            try:
                self.refresh()
            finally:
                self._renewing = False

        self._spawn(work)


def _load(members: Sequence[Any]) -> dict[str, tuple[PublicKey, str]]:
    """What of a JWK set can be used; the rest is passed over (RFC 7517, section 5)."""
    usable: dict[str, tuple[PublicKey, str]] = {}
    for jwk in members[:MAX_KEYS]:
        if not isinstance(jwk, Mapping) or jwk.get("use", "sig") != "sig":
            continue
        kid = jwk.get("kid")
        try:
            key = load_jwk(jwk)
        except TrothError:
            continue
        algorithm = jwk.get("alg") or _guess(key)
        known = isinstance(algorithm, str) and algorithm in ALGORITHMS
        if isinstance(kid, str) and known and fits_algorithm(algorithm, key):
            usable.setdefault(kid, (key, algorithm))
    return usable


def _guess(key: PublicKey) -> str:
    """The algorithm of a key that names none: the usual one of its kind."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return {256: "ES256", 384: "ES384", 521: "ES512"}[key.curve.key_size]
    return "EdDSA" if isinstance(key, ed25519.Ed25519PublicKey) else "RS256"
