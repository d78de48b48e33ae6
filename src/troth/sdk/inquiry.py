"""Questions to the issuer about opaque tokens, which nobody else can read (RFC 7662)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Mapping
from typing import Any

from troth.core.clock import Clock
from troth.core.errors import Invalid, Passing, TrothError, Unavailable
from troth.core.jose.claims import list_audiences
from troth.issuance.accesstoken import TIER
from troth.issuance.opaque import read_span
from troth.sdk.client import OAuthClient
from troth.sdk.errors import InvalidToken

KEPT = 1.0
"""Seconds for which an answer is relied on: as long as the issuer allows (``cache_until``)."""
MOST_DEAD = 10_000
MOST_AT_ONCE = 16
"""Questions under way: whoever makes tokens up can cause each of them."""
NOT_ACTIVE = "The token is not active: it has ended, or is meant for somebody else."


class Inquirer:
    """Asks what opaque tokens mean, and for a moment remembers of which the answer was: nothing.
    Any thread may use it."""

    def __init__(self, client: OAuthClient, audiences: Collection[str], clock: Clock) -> None:
        self._client = client
        self._audiences = frozenset(audiences)
        self._clock = clock
        self._dead: dict[bytes, float] = {}
        self._turns = threading.BoundedSemaphore(MOST_AT_ONCE)

    def ask(self, text: str) -> Mapping[str, Any]:
        """What the issuer says of a live token for this resource, as claims; else `InvalidToken`.

        Blocks. Raises `Unavailable` if the issuer doesn't answer, or not what it must.
        """
        try:
            read_span(text, self._clock.now())
        except Invalid as error:
            raise InvalidToken(error.detail) from error
        digest = hashlib.sha256(text.encode("ascii")).digest()
        if self._clock.monotonic() < self._dead.get(digest, 0.0):
            raise InvalidToken(NOT_ACTIVE)
        if not self._turns.acquire(blocking=False):
            raise Unavailable("Too many tokens are asked about at once; try again.", 1.0)
        try:
            answer = self._client.introspect(text)
        except Passing:
            raise
        except TrothError as error:  # this resource's trouble, not its caller's
            raise Unavailable(
                f"The issuer doesn't say what the token means. {error.detail}"
            ) from error
        finally:
            self._turns.release()
        if not answer["active"]:
            if len(self._dead) >= MOST_DEAD:
                self._dead = {}
            self._dead[digest] = self._clock.monotonic() + KEPT
            raise InvalidToken(NOT_ACTIVE)
        return self._check(answer)

    def _check(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """An answer that says what it must; `Unavailable` if it doesn't."""
        texts = all(isinstance(answer.get(name), str) for name in ("sub", "client_id", "jti"))
        times = all(isinstance(answer.get(name), int) for name in ("iat", "exp"))
        if not texts or not times or answer.get("iss") != self._client.issuer.url:
            raise Unavailable("The issuer's answer about an opaque token lacks what it must say.")
        if self._audiences.isdisjoint(list_audiences(answer)):
            raise InvalidToken("The token is meant for another resource.")
        # What roles permit now, where the issuer tells it: less than the token said, never more.
        permitted = answer.get("permitted_actions")
        scope = " ".join(permitted) if isinstance(permitted, list) else answer.get("scope", "")
        return {**answer, "scope": scope, TIER: answer.get("trust_tier")}
