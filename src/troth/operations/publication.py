"""What anybody may read: trust bundle, keys, revocation lists, and whether the server is ready."""

from __future__ import annotations

from typing import Protocol


class Publication(Protocol):
    """The public documents, ready to send. All raise `Unavailable` until there is something."""

    async def show_bundle(self) -> bytes:
        """The SPIFFE bundle document (JSON) of this trust domain."""
        ...

    async def show_jwks(self) -> bytes:
        """The JWK set (JSON) of the JWT-SVID authorities."""
        ...

    async def show_discovery(self) -> bytes:
        """The OpenID discovery document (JSON) of the JWT-SVID issuer."""
        ...

    async def show_crl(self, authority_id: str) -> bytes:
        """The newest CRL (DER) of an X.509 authority; `NotFound` for an unknown one."""
        ...

    async def find_obstacles(self) -> list[str]:
        """Why the server isn't ready, in sentences; empty when it is."""
        ...
