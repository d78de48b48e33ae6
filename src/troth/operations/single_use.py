"""Permissions that are used once: join tokens and enrolment codes.

One use is one key. The answer to the first time may be lost, or the server may end between taking
it and certifying, so the same key may show it again for a while, and nobody has to make a new one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.core.errors import Refused
from troth.store.records import EnrolmentCode, JoinToken

RETRY = timedelta(hours=1)
"""How long after its use it may be shown again at least, by the same key alone."""


@dataclass(frozen=True, slots=True)
class Permission:
    """A kind of them: what it is called, and what to do without a good one."""

    name: str
    remedy: str

    def check(self, found: JoinToken | EnrolmentCode, key_hash: str, now: datetime) -> None:
        """Raise `Refused` unless it may be used now, for the key with this hash."""
        if found.used_at is not None and not hmac.compare_digest(found.key_hash or "", key_hash):
            raise Refused(f"The {self.name} was used before, for another key; {self.remedy}")
        if found.expires_at <= now:
            raise Refused(f"The {self.name} has expired or was withdrawn; {self.remedy}")

    def use(
        self,
        found: JoinToken | EnrolmentCode,
        key_hash: str,
        now: datetime,
        take: Callable[[datetime], bool],
    ) -> bool:
        """Use it up for a key, by `take` with the end of its time; whether this was its first use.

        Raises as `check` does.
        """
        self.check(found, key_hash, now)
        if found.used_at is not None:
            return False
        if take(max(found.expires_at, now + RETRY)):
            return True
        raise Refused(f"The {self.name} was used for another key just now; {self.remedy}")


def hash_key(public_key: bytes) -> str:
    """SHA-256 of a public key (DER), in hexadecimal: whom a permission is for from its use on."""
    return hashlib.sha256(public_key).hexdigest()
