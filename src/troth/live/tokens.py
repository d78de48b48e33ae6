"""Access tokens that ended early: complete, for as long as they would have lived.

A token that was issued has no row. So single ones are known by their ``jti``, and all that an
identity or one running copy of it had by the second up to which they were issued.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from troth.core.clock import Clock
from troth.core.errors import Unavailable
from troth.issuance.profiles import TOKENS_OVER
from troth.live.recent import count_seconds


class TokenRevocations:
    """What ended early. Belongs to one event loop; reads never wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._revoked: dict[str, datetime] = {}
        self._issued_until: dict[str, int] = {}

    def load(self, revoked: Mapping[str, datetime], issued_until: Mapping[str, datetime]) -> None:
        """Start anew: ``jti`` with their expiry; SPIFFE IDs and ids of instances with the moment of
        the last token that counts no more."""
        self._revoked = dict(revoked)
        self._issued_until = {name: int(at.timestamp()) for name, at in issued_until.items()}

    def revoke(self, jti: str, until: datetime) -> None:
        """One token ended, that would have expired at `until`."""
        self._revoked[jti] = until

    def end_issued(self, holder: str, moment: datetime) -> None:
        """All tokens ended that concern this identity or instance and were issued up to `moment`.

        An ``iat`` has no fraction of a second, so those of the whole second are meant.
        """
        second = int(moment.timestamp())
        self._issued_until[holder] = max(second, self._issued_until.get(holder, 0))

    def is_revoked(self, jti: str) -> bool:
        """Whether the token of this ``jti`` ended by itself."""
        return jti in self._revoked

    def find_ended(self, parties: Collection[str], issued_at: int) -> str | None:
        """Whose tokens, of these identities and instances, ended since that ``iat``; None if
        nobody's."""
        for name in parties:
            if issued_at <= self._issued_until.get(name, -1):
                return name
        return None

    def check_issuing(self, parties: Collection[str], now: datetime) -> None:
        """Raise `Unavailable` while a token of theirs would be dead as soon as it is issued."""
        if self.find_ended(parties, int(now.timestamp())) is not None:
            raise Unavailable("All earlier tokens were revoked just now; ask again in a moment.", 1)

    def list_revoked(self) -> dict[str, int]:
        """Single tokens that ended, with their expiry in whole seconds of the Unix epoch."""
        return count_seconds(self._revoked.items())

    def list_issued_until(self) -> dict[str, int]:
        """SPIFFE IDs and ids of instances, and the second up to which their tokens ended."""
        return dict(self._issued_until)

    def drop_expired(self) -> None:
        """Forget what has expired by itself."""
        now = self._clock.now()
        over = int((now - TOKENS_OVER).timestamp())
        self._revoked = {jti: end for jti, end in self._revoked.items() if end > now}
        self._issued_until = {
            n: second for n, second in self._issued_until.items() if second > over
        }
