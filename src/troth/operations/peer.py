"""Certificates that peers show on the mutual-TLS listener: proved to be X.509-SVIDs of ours.

That listener also lets registered self-signed certificates in (RFC 8705, section 2.2), so a chain
that TLS verified proves nothing here: any of them may carry a SPIFFE ID of ours, and a CA among
them may sign certificates that do. So the signature is verified again, with the authorities of the
trust domain alone.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

from troth.core.clock import Clock
from troth.core.errors import Unauthenticated
from troth.core.ids import TrustDomain
from troth.issuance.authorities import Use
from troth.issuance.der import identify_key
from troth.issuance.presented import Presented, check_end, is_signed_by, read_presented
from troth.live.bundle import Bundle
from troth.live.snapshot import Snapshot
from troth.operations.declaration import read_bundle
from troth.store.engine import Store

CAPACITY = 10_000
"""Certificates that are known to be ours; more are verified again."""


class Verified:
    """What certificates say that proved to be ours, by the digest of their very bytes: for as long
    as it is the same journal, since another one may know other authorities."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._known: OrderedDict[bytes, tuple[int, Presented]] = OrderedDict()

    def find(self, digest: bytes, loads: int) -> Presented | None:
        """What it says, if that was verified since the snapshot was loaded the `loads`-th time."""
        found = self._known.get(digest)
        if found is None or found[0] != loads:
            return None
        self._known.move_to_end(digest)
        return found[1]

    def remember(self, digest: bytes, loads: int, shown: Presented) -> None:
        """Keep what was verified after the snapshot was loaded for the `loads`-th time."""
        self._known[digest] = (loads, shown)
        self._known.move_to_end(digest)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)


@dataclass(frozen=True, slots=True)
class PeerReader:
    """The one place where a certificate that was shown counts for an identity."""

    store: Store
    snapshot: Snapshot
    clock: Clock
    trust_domain: TrustDomain
    _verified: Verified = field(default_factory=Verified)

    async def read(self, der: bytes) -> Presented:
        """What it says; `Unauthenticated` unless it is an X.509-SVID of ours that counts now."""
        found = self.find(der)
        if found is not None:
            return found
        loads = self.snapshot.loads
        bundle = await read_bundle(self.store, self.snapshot)
        shown = read_presented(der, self.trust_domain, self.clock.now())
        self._check_revoked(shown)
        _check_signature(der, shown, bundle)
        self._verified.remember(hashlib.sha256(der).digest(), loads, shown)
        return shown

    def find(self, der: bytes) -> Presented | None:
        """As `read` from memory alone; None if it wasn't verified yet."""
        self.snapshot.check_fresh()
        shown = self._verified.find(hashlib.sha256(der).digest(), self.snapshot.loads)
        if shown is not None:
            check_end(shown.not_after, self.clock.now())
            self._check_revoked(shown)
        return shown

    def _check_revoked(self, shown: Presented) -> None:
        if self.snapshot.is_revoked(shown.serial) or self.snapshot.is_distrusted(shown.signer):
            raise Unauthenticated("The client certificate was revoked; get a new one.")


def _check_signature(der: bytes, shown: Presented, bundle: Bundle) -> None:
    """Raise `Unauthenticated` unless the authority that it names has signed it."""
    for authority in bundle.authorities:
        if authority.use is Use.X509 and identify_key(authority.public_key).hex() == shown.signer:
            if is_signed_by(der, authority.certificate):
                return
            break
    raise Unauthenticated(
        "The certificate shown was not signed by an authority of this trust domain."
    )
