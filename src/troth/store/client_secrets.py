"""The gateway to secrets of OAuth clients."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, func, insert, select, update

from troth.core.errors import NotFound
from troth.core.ids import IdentityId, SecretId
from troth.store.records import ClientSecret
from troth.store.session import Session
from troth.store.tables import client_secrets, identities, is_living

_t = client_secrets.c


class ClientSecretGateway:
    """Client secrets by id. Comparing the hash is the caller's part."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, secret_id: str) -> ClientSecret | None:
        """The secret, whether or not it is still good, or None."""
        row = self._session.execute(select(client_secrets).where(_t.id == secret_id)).first()
        return None if row is None else _read(row)

    def get(self, secret_id: str) -> ClientSecret:
        """As `find`, but `NotFound` if there is none."""
        found = self.find(secret_id)
        if found is None:
            raise NotFound(
                f"There is no client secret with the id {secret_id[:80]!r}; `troth client-secret "
                "ls` lists them."
            )
        return found

    def add(self, secret: ClientSecret) -> None:
        """Store a new one; `Conflict` if its id is taken."""
        self._session.insert(
            insert(client_secrets), _write(secret), {"id": "The client secret's id is taken."}
        )

    def revoke(self, secret_id: str, now: datetime) -> None:
        """End it now; one that was revoked before stays as it is."""
        self._session.execute(
            update(client_secrets).where(_t.id == secret_id, _t.revoked_at.is_(None)),
            {"revoked_at": now},
        )

    def void(self, now: datetime) -> int:
        """End all that live; how many there were."""
        statement = update(client_secrets).where(_is_live(now))
        return self._session.execute(statement, {"revoked_at": now}).rowcount

    def count_live(self, identity_id: IdentityId, now: datetime) -> int:
        """How many of an identity are good now."""
        query = select(func.count()).where(_t.identity_id == identity_id, _is_live(now))
        return self._session.execute(query).scalar() or 0

    def page(
        self, now: datetime, *, identity_id: IdentityId | None, after: str, limit: int
    ) -> list[ClientSecret]:
        """Those that are good now, by id after `after`; of one living identity or of all."""
        living = select(identities.c.id).where(is_living)
        query = select(client_secrets).where(
            _is_live(now), _t.id > after, _t.identity_id.in_(living)
        )
        if identity_id is not None:
            query = query.where(_t.identity_id == identity_id)
        return [_read(row) for row in self._session.execute(query.order_by(_t.id).limit(limit))]

    def purge(self, now: datetime) -> int:
        """Forget those that have expired; how many went. The journal keeps what they did."""
        return self._session.execute(delete(client_secrets).where(_t.expires_at <= now)).rowcount


def _is_live(now: datetime) -> ColumnElement[bool]:
    return and_(_t.revoked_at.is_(None), _t.expires_at > now)


def _write(secret: ClientSecret) -> dict[str, Any]:
    return {
        "id": secret.id,
        "secret_hash": secret.secret_hash,
        "identity_id": secret.identity_id,
        "created_by": secret.created_by,
        "created_at": secret.created_at,
        "expires_at": secret.expires_at,
        "revoked_at": secret.revoked_at,
    }


def _read(row: Row[Any]) -> ClientSecret:
    return ClientSecret(
        id=SecretId(row.id),
        secret_hash=row.secret_hash,
        identity_id=IdentityId(row.identity_id),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
