"""The server's own certificate: issued by its own authority, renewed at half life, in place."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.ids import AuthorityId, SpiffeId, TrustDomain
from troth.drivers.keystores.software import encode_public, make_key
from troth.operations.leaf import LeafIssuer, Wish
from troth.operations.node import collect_roots
from troth.operations.recording import BACKGROUND
from troth.store.engine import Store
from troth.store.records import CertificateKind
from troth.store.transaction import Transaction
from troth.wire.pem import render_pem_certificates

SERVER_TTL = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class ServerPair:
    """Chain and key (PEM), who signed them, from when on they hold and when to renew them, and the
    roots (DER) for client certificates."""

    chain_pem: bytes
    key_pem: bytes
    authority_id: AuthorityId
    not_before: datetime
    renew_at: datetime
    roots: tuple[bytes, ...]

    @property
    def not_after(self) -> datetime:
        """When the certificate ends."""
        return x509.load_pem_x509_certificate(self.chain_pem).not_valid_after_utc


def name_server(trust_domain: TrustDomain) -> SpiffeId:
    """The SPIFFE ID of the server."""
    return SpiffeId.of(trust_domain, "/troth/server")


@dataclass(frozen=True, slots=True)
class CertifyServer:
    """Makes a fresh key, which lives in this process only, and a certificate for it."""

    store: Store
    clock: Clock
    entropy: Entropy
    leaves: LeafIssuer
    trust_domain: TrustDomain
    names: tuple[str, ...]

    async def __call__(self) -> ServerPair:
        """The new pair; `names` are host names and addresses."""
        key = make_key(self.entropy)
        addresses, hosts = split_names(self.names)
        wish = Wish(
            kind=CertificateKind.SERVER,
            spiffe_id=name_server(self.trust_domain),
            public_key=encode_public(key),
            ttl=SERVER_TTL,
            dns_names=hosts,
            ip_addresses=addresses,
        )
        leaf = await self.leaves.issue_one(BACKGROUND, wish, permit_always)
        roots = await self.store.read(collect_roots)
        now = self.clock.now()
        return ServerPair(
            chain_pem=render_pem_certificates([leaf.der]),
            key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            authority_id=leaf.authority_id,
            not_before=x509.load_der_x509_certificate(leaf.der).not_valid_before_utc,
            renew_at=now + (leaf.not_after - now) / 2,
            roots=tuple(roots),
        )


def permit_always(tx: Transaction) -> None:
    """The guard of the server's own certificate: nothing can forbid it."""


def split_names(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Addresses and host names apart, each once, in the forms that certificates hold."""
    addresses: dict[str, None] = {}
    hosts: dict[str, None] = {}
    for name in names:
        try:
            addresses[str(ipaddress.ip_address(name))] = None
        except ValueError:
            hosts[name.lower().rstrip(".")] = None
    return tuple(addresses), tuple(hosts)


@dataclass(frozen=True, slots=True)
class RenewServer:
    """Background: a new pair at half life, when the roots change, when what signed the present one
    is tainted or revoked, or when the clock was set back to before it holds; installed without
    dropping a connection. `installed` is the pair in use; `install` may be called in any thread."""

    certify: CertifyServer
    store: Store
    clock: Clock
    installed: Callable[[], ServerPair]
    install: Callable[[ServerPair], None]

    async def __call__(self) -> None:
        """Renew when due."""
        pair = self.installed()
        roots, signer = await self.store.read(
            lambda tx: (tuple(collect_roots(tx)), tx.authorities.get(pair.authority_id))
        )
        timely = pair.not_before <= self.clock.now() < pair.renew_at
        if not timely or roots != pair.roots or signer.distrusted:
            # In a thread: with thousands of anchors it takes a while.
            await asyncio.to_thread(self.install, await self.certify())
