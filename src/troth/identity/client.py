"""How an identity proves itself as an OAuth client, where it does so with keys of its own.

An SVID needs none of this: any workload of the trust domain is a client by its SPIFFE ID.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A public key that signs client assertions (RFC 7523): its `kid`, DER SubjectPublicKeyInfo."""

    kid: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class Client:
    """What is registered for a client: keys for ``private_key_jwt``, and self-signed certificates
    (DER) for ``self_signed_tls_client_auth`` (RFC 8705, section 2.2)."""

    keys: tuple[ClientKey, ...] = ()
    certificates: tuple[bytes, ...] = ()

    def find_key(self, kid: str | None) -> ClientKey | None:
        """The key of that `kid`; without one, the only key there is."""
        if kid is None:
            return self.keys[0] if len(self.keys) == 1 else None
        return next((key for key in self.keys if key.kid == kid), None)


NO_CLIENT = Client()
