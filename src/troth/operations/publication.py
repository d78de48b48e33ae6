"""What anybody may read: trust bundle, keys, revocation lists, and whether the server is ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from troth.core.clock import Clock
from troth.core.errors import NotFound, TrothError, Unavailable
from troth.core.ids import AuthorityId
from troth.core.jose.jwk import derive_key_id, render_jwk
from troth.issuance.authorities import REQUIRED_USES, TOKEN_ALGORITHMS, Use
from troth.live.snapshot import Snapshot
from troth.operations.client import CLIENT_METHODS
from troth.operations.declaration import read_bundle
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.bundle import render_bundle, render_jwks
from troth.wire.oauth.metadata import render_metadata

REFRESH_HINT_SECONDS = 300


class Publication(Protocol):
    """The public documents, ready to send. All raise `Unavailable` until there is something."""

    @property
    def origin(self) -> str:
        """The URL under which the public listener is reached from outside."""
        ...

    @property
    def mutual_origin(self) -> str:
        """Likewise of the mutual-TLS listener."""
        ...

    async def show_bundle(self) -> bytes:
        """The SPIFFE bundle document (JSON) of this trust domain."""
        ...

    async def show_jwks(self) -> bytes:
        """The JWK set (JSON) of the JWT-SVID authorities."""
        ...

    async def show_discovery(self) -> bytes:
        """The OpenID discovery document (JSON) of the JWT-SVID issuer."""
        ...

    async def show_metadata(self) -> bytes:
        """The authorization server's metadata (JSON, RFC 8414)."""
        ...

    async def show_token_keys(self) -> bytes:
        """The JWK set (JSON) that verifies access tokens."""
        ...

    async def show_crl(self, authority_id: str) -> bytes:
        """The newest CRL (DER) of an X.509 authority; `NotFound` for an unknown one."""
        ...

    async def find_obstacles(self) -> list[str]:
        """Why the server isn't ready, in sentences; empty when it is."""
        ...


@dataclass(frozen=True, slots=True)
class StoredPublication:
    """The public documents, rendered from the store at each request."""

    store: Store
    snapshot: Snapshot
    clock: Clock
    origin: str
    mutual_origin: str
    methods: Sequence[str] = CLIENT_METHODS

    @property
    def issuer_url(self) -> str:
        """The issuer of JWT-SVIDs; never that of access tokens."""
        return f"{self.origin}/svid"

    async def show_bundle(self) -> bytes:
        """The bundle document; its sequence is the position of the last change of authorities."""

        def render(tx: Transaction) -> bytes:
            living = [a for a in tx.authorities.list() if a.published]
            if not living:
                raise Unavailable("There is no signing authority yet; try again in a moment.")
            return render_bundle(
                [a.certificate for a in living if a.use is Use.X509],
                collect_jwt_keys(tx),
                max(tx.journal.last_of("authority."), 1),
                REFRESH_HINT_SECONDS,
            )

        return await self.store.read(render)

    async def show_jwks(self) -> bytes:
        """The keys that verify JWT-SVIDs, and no others."""
        return await self.store.read(lambda tx: render_jwks(collect_jwt_keys(tx)))

    async def show_discovery(self) -> bytes:
        """OpenID Connect Discovery 1.0, section 3: what a verifier of JWT-SVIDs needs."""
        return msgspec.json.encode(
            {
                "issuer": self.issuer_url,
                "jwks_uri": f"{self.issuer_url}/jwks",
                "authorization_endpoint": "",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }
        )

    async def show_metadata(self) -> bytes:
        """What clients need to know; the scopes are the actions of all resources."""
        bundle = await read_bundle(self.store, self.snapshot)
        scopes = {action for one in bundle.resources.values() for action in one.actions}
        return msgspec.json.encode(
            render_metadata(self.origin, self.mutual_origin, self.methods, scopes)
        )

    async def show_token_keys(self) -> bytes:
        """The keys of access tokens, and no others; one is there before it signs."""
        keys = await self.store.read(
            lambda tx: [
                (one.public_key, TOKEN_ALGORITHMS[one.use])
                for one in tx.authorities.list()
                if one.use in TOKEN_ALGORITHMS and one.published
            ]
        )
        jwks = [render_jwk(derive_key_id(key), key, "sig", alg) for key, alg in keys]
        return msgspec.json.encode({"keys": jwks})

    async def show_crl(self, authority_id: str) -> bytes:
        """The newest published list."""
        crl = await self.store.read(lambda tx: tx.crls.latest(AuthorityId(authority_id)))
        if crl is None or crl.der is None:
            raise NotFound("There is no revocation list of that name; see /bundle for authorities.")
        return crl.der

    async def find_obstacles(self) -> list[str]:
        """Fresh state, both authorities, a list of revocations that hasn't run out."""
        try:
            self.snapshot.check_fresh()
            return await self.store.read(self._find_missing)
        except TrothError as error:
            return [error.detail]

    def _find_missing(self, tx: Transaction) -> list[str]:
        obstacles = []
        now = self.clock.now()
        for use in REQUIRED_USES:
            authority = tx.authorities.find_active(use)
            if authority is None:
                obstacles.append(f"There is no active {use.value} authority yet.")
            elif authority.not_after <= now:
                obstacles.append(f"The {use.value} authority expired.")
            elif use is Use.X509:
                crl = tx.crls.latest_times(authority.id)
                if crl is None or not crl.this_update <= now < crl.next_update:
                    obstacles.append("There is no current revocation list yet.")
        return obstacles


def collect_jwt_keys(tx: Transaction) -> list[tuple[str, bytes]]:
    """``kid`` and DER SubjectPublicKeyInfo of every JWT authority that may still verify."""
    return [
        (derive_key_id(authority.public_key), authority.public_key)
        for authority in tx.authorities.list(Use.JWT)
        if authority.published
    ]
