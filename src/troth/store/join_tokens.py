"""The gateway to join tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from troth.core.ids import TokenId
from troth.store.records import JoinToken
from troth.store.session import Session
from troth.store.single_use import take_once
from troth.store.tables import join_tokens

_t = join_tokens.c


class JoinTokenGateway:
    """Join tokens by id. Comparing the secret is the caller's part; here one use is one key."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, token_id: TokenId) -> JoinToken | None:
        """The token, used and expired ones included, or None."""
        row = self._session.execute(select(join_tokens).where(_t.id == token_id)).first()
        return None if row is None else _read(row)

    def add(self, token: JoinToken) -> None:
        """Store a new token; `Conflict` if its id is taken."""
        self._session.insert(
            insert(join_tokens), _write(token), {"id": "The join token's id is taken."}
        )

    def take(
        self, token_id: TokenId, now: datetime, key_hash: str, until: datetime, used_by: str
    ) -> bool:
        """Use the token up for one key, as `take_once` says; `used_by` is the node that joins."""
        return take_once(
            self._session, join_tokens, token_id, now, key_hash, until, used_by=used_by
        )

    def end_for_node(self, node_name: str, now: datetime) -> None:
        """Let every token for that name expire now, used or not."""
        self._session.execute(
            update(join_tokens).where(_t.node_name == node_name, _t.expires_at > now),
            {"expires_at": now},
        )

    def void(self, now: datetime) -> int:
        """Let every token expire now, used or not; how many there were."""
        return self._session.execute(
            update(join_tokens).where(_t.expires_at > now), {"expires_at": now}
        ).rowcount

    def list(self, now: datetime) -> list[JoinToken]:
        """Tokens that were not used yet, the first to expire first."""
        query = select(join_tokens).where(_t.used_at.is_(None), _t.expires_at > now)
        return [_read(row) for row in self._session.execute(query.order_by(_t.expires_at, _t.id))]

    def purge(self, now: datetime) -> int:
        """Forget expired tokens, used or not; how many went. The journal keeps what they did."""
        return self._session.execute(delete(join_tokens).where(_t.expires_at <= now)).rowcount


def _write(token: JoinToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "secret_hash": token.secret_hash,
        "node_name": token.node_name,
        "created_by": token.created_by,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "used_at": token.used_at,
        "used_by": token.used_by,
        "key_hash": token.key_hash,
    }


def _read(row: Row[Any]) -> JoinToken:
    return JoinToken(
        id=TokenId(row.id),
        secret_hash=row.secret_hash,
        node_name=row.node_name,
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
        used_by=row.used_by,
        key_hash=row.key_hash,
    )
