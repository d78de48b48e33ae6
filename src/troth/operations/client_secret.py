"""Client secrets (``client_secret_basic``, RFC 6749, section 2.3.1): for old programs alone.

A secret is 256 random bits, made here, shown once and stored as a hash; it always ends. Secrets can
be copied, so none can be made or used unless the server is told to allow them, and each is reported
for as long as it lives.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Refused, TrothError
from troth.core.ids import SecretId, SpiffeId, TrustDomain, new_id
from troth.identity.identity import Identity
from troth.identity.lifecycle import may_hold_credentials
from troth.operations.call import Call
from troth.operations.recording import record_event
from troth.operations.target import target_of
from troth.operations.throttle import Throttle
from troth.store.engine import Store
from troth.store.records import ClientSecret
from troth.store.transaction import Transaction
from troth.wire.api import client_secrets as wire
from troth.wire.oauth.basic import Credentials

PREFIX = "troth-secret"
"""How each begins, so that scanners of secrets can find them."""
SECRET_SIZE = 32
MOST = 2
"""Secrets of one identity: that it has, and that it goes over to."""

_FORM = re.compile(rf"{PREFIX}\.(csec_[0-9a-f]{{1,60}})\.[A-Za-z0-9_-]{{43}}")
_NO_HASH = "0" * 64
"""With what is compared where there is no secret: so that the answer takes as long."""


@dataclass(frozen=True, slots=True)
class CreateClientSecret:
    """``client_secret.create``: one more secret for an identity, if secrets are allowed at all."""

    store: Store
    clock: Clock
    entropy: Entropy
    allowed: bool

    async def __call__(self, call: Call[wire.CreateClientSecret]) -> wire.ClientSecretCreated:
        """The secret in clear, this once; `Refused` if it may have none, or no more."""
        if not self.allowed:
            raise Refused(
                "This server takes no client secrets: they can be copied. Let the program use "
                "its SVID, or a key of its own; if it can't, set [oauth] client_secrets = true."
            )
        now = self.clock.now()
        secret_id = SecretId(new_id("csec", self.entropy))
        text = render_secret(secret_id, self.entropy.token(SECRET_SIZE))

        def create(tx: Transaction) -> wire.ClientSecretCreated:
            identity = tx.identities.get_named(call.body.identity)
            call.gate.check(target_of(identity))
            _check_holder(tx, identity, now)
            secret = ClientSecret(
                id=secret_id,
                secret_hash=hash_secret(text),
                identity_id=identity.id,
                created_by=call.caller.principal,
                created_at=now,
                expires_at=min(now + timedelta(seconds=call.body.ttl), identity.expires_at),
            )
            tx.client_secrets.add(secret)
            _note(tx, call, "created", secret, identity, now)
            return wire.ClientSecretCreated(
                id=secret_id,
                client_id=str(identity.spiffe_id),
                secret=text,
                expires_at=secret.expires_at,
            )

        return await self.store.transact(create)


def _check_holder(tx: Transaction, identity: Identity, now: datetime) -> None:
    if not may_hold_credentials(identity, now):
        raise Refused(
            f"'{identity.name}' may hold no credentials now: it is {identity.state.value}, or its "
            "registration has ended."
        )
    if tx.client_secrets.count_live(identity.id, now) >= MOST:
        raise Refused(
            f"'{identity.name}' has {MOST} secrets already, as many as a rotation needs. Revoke "
            f"one: `troth client-secret ls {identity.name}`."
        )


@dataclass(frozen=True, slots=True)
class ListClientSecrets:
    """``client_secret.ls``: what is good now, and what could take its place."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.ListClientSecrets]) -> wire.ClientSecretPage:
        """A page by id; `NotFound` for an unknown identity."""
        body, now = call.body, self.clock.now()

        def collect(tx: Transaction) -> wire.ClientSecretPage:
            identity_id = None
            if body.identity is not None:
                identity = tx.identities.get_named(body.identity)
                call.gate.check(target_of(identity))
                identity_id = identity.id
            found = tx.client_secrets.page(
                now, identity_id=identity_id, after=body.after or "", limit=body.limit
            )
            holders = tx.identities.find_all({one.identity_id for one in found})
            return wire.ClientSecretPage(
                items=[
                    _view(one, holders[one.identity_id])
                    for one in found
                    if call.gate.allows(target_of(holders[one.identity_id]))
                ],
                next=found[-1].id if len(found) == body.limit else None,
            )

        return await self.store.read(collect)


@dataclass(frozen=True, slots=True)
class RevokeClientSecret:
    """``client_secret.revoke``: it gets no token from now on."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.RevokeClientSecret]) -> wire.ClientSecretView:
        """It as it is now; `NotFound` for an unknown one. One that is over already stays so."""
        now = self.clock.now()

        def revoke(tx: Transaction) -> wire.ClientSecretView:
            secret = tx.client_secrets.get(call.body.id)
            identity = tx.identities.get(secret.identity_id)
            call.gate.check(target_of(identity))
            if secret.is_live(now):
                tx.client_secrets.revoke(secret.id, now)
                _note(tx, call, "revoked", secret, identity, now, reason=call.body.reason)
            return _view(tx.client_secrets.get(secret.id), identity)

        return await self.store.transact(revoke)


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a secret was shown for, as far as it is registered, and whether it is theirs."""

    identity: Identity | None
    proved: bool


class SecretVerifier:
    """Checks secrets that clients show. Belongs to one event loop.

    `allowed` is whether any is taken. Every try takes the same steps, whether or not the client is
    known, has such a secret, or secrets are allowed.
    """

    def __init__(
        self, store: Store, clock: Clock, trust_domain: TrustDomain, *, allowed: bool
    ) -> None:
        self._store = store
        self._clock = clock
        self._trust_domain = trust_domain
        self._allowed = allowed
        self._failures = Throttle(clock)

    def check_pace(self, source: str) -> None:
        """Raise `Limited` if too many tries from there failed of late."""
        self._failures.check(source)

    def count_failure(self, source: str) -> None:
        """Note that one failed."""
        self._failures.count(source)

    async def verify(self, credentials: Credentials) -> Holder:
        """Whose secret it is, read anew each time: what was revoked is good no more at once."""
        spiffe_id = self._read_name(credentials.client_id)
        form = _FORM.fullmatch(credentials.secret)
        secret_id = form[1] if form else ""

        def look(tx: Transaction) -> tuple[list[Identity], ClientSecret | None]:
            found = tx.identities.list_living_at([spiffe_id] if spiffe_id else [])
            return found, tx.client_secrets.find(secret_id)

        found, secret = await self._store.read(look)
        identity = found[0] if found else None
        known = _NO_HASH if secret is None else secret.secret_hash
        fits = hmac.compare_digest(known, hash_secret(credentials.secret))
        proved = (
            fits
            and self._allowed
            and secret is not None
            and identity is not None
            and secret.identity_id == identity.id
            and secret.is_live(self._clock.now())
        )
        return Holder(identity, proved)

    def _read_name(self, client_id: str) -> SpiffeId | None:
        try:
            spiffe_id = SpiffeId.parse(client_id)
        except TrothError:
            return None
        return spiffe_id if spiffe_id.trust_domain == self._trust_domain else None


def render_secret(secret_id: SecretId, secret: bytes) -> str:
    """``troth-secret.<id>.<secret>``: the id finds the record, the whole of it is hashed."""
    return f"{PREFIX}.{secret_id}.{base64.urlsafe_b64encode(secret).rstrip(b'=').decode()}"


def hash_secret(text: str) -> str:
    """SHA-256 in hexadecimal: 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(text.encode()).hexdigest()


def _view(secret: ClientSecret, identity: Identity) -> wire.ClientSecretView:
    return wire.ClientSecretView(
        id=secret.id,
        identity=identity.name,
        client_id=str(identity.spiffe_id),
        owner=identity.owner,
        created_by=secret.created_by,
        created_at=secret.created_at,
        expires_at=secret.expires_at,
        instead=_suggest(identity),
        revoked_at=secret.revoked_at,
    )


def _suggest(identity: Identity) -> str:
    """How that client could prove itself without a secret, by what it has."""
    if identity.client.keys:
        return "private_key_jwt with the key that is registered"
    if identity.client.certificates:
        return "self_signed_tls_client_auth with the certificate that is registered"
    return "spiffe_x509 or spiffe_jwt with its SVID from the agent"


def _note(
    tx: Transaction,
    call: Call[Any],
    verbed: str,
    secret: ClientSecret,
    identity: Identity,
    now: datetime,
    **body: str,
) -> None:
    """Append what happened to a secret: its id, never the secret."""
    record_event(
        tx,
        call,
        f"client_secret.{verbed}",
        str(identity.spiffe_id),
        now,
        id=secret.id,
        name=identity.name,
        owner=identity.owner,
        expires_at=secret.expires_at.isoformat(),
        **body,
    )
