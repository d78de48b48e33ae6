"""The decision point's metadata, with a signed copy: who isn't reached by TLS can check that."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import msgspec

from troth.core.clock import Clock
from troth.core.jose.jwk import derive_key_id
from troth.drivers.keystores import Keystore
from troth.issuance.jwtsvid import check_jwt, finish_jwt
from troth.live.snapshot import Snapshot
from troth.operations.accesstoken import find_signer
from troth.operations.declaration import read_bundle
from troth.store.engine import Store
from troth.wire.authzen.metadata import describe_point, render_signed

LIFE = timedelta(days=1)
RENEWED = timedelta(hours=1)
"""After which a signed copy is made anew."""


class PointMetadata:
    """Renders metadata, and keeps it for an hour or until another key signs. `issuer` is whose
    keys they are signed with: those of access tokens."""

    def __init__(
        self, store: Store, snapshot: Snapshot, clock: Clock, keystore: Keystore, issuer: str
    ) -> None:
        self._store = store
        self._snapshot = snapshot
        self._clock = clock
        self._keystore = keystore
        self._issuer = issuer
        self._kept: dict[str, tuple[str, datetime, bytes]] = {}

    async def show(self, base: str) -> bytes:
        """The document of the decision point at the URL `base`; `Unavailable` while there is no key
        that signs."""
        now = self._clock.now()
        authority = find_signer(await read_bundle(self._store, self._snapshot), now)
        kid = derive_key_id(authority.public_key)
        kept = self._kept.get(base)
        if kept is not None and kept[0] == kid and kept[1] <= now < kept[1] + RENEWED:
            return kept[2]
        described: dict[str, Any] = describe_point(base)
        content = render_signed(
            kid=kid,
            issuer=self._issuer,
            claims=described,
            now=int(now.timestamp()),
            end=int((now + LIFE).timestamp()),
        )
        signature = await asyncio.to_thread(self._keystore.sign, authority.key_ref, content)
        signed = finish_jwt(content, signature)
        check_jwt(signed, content, signature, authority.public_key)
        document = msgspec.json.encode({**described, "signed_metadata": signed})
        self._kept[base] = (kid, now, document)
        return document
