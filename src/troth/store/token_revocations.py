"""The gateway to revocations of access tokens, which have no rows themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update

from troth.issuance.profiles import TOKENS_OVER
from troth.store.session import Session
from troth.store.tables import token_revocations

_t = token_revocations.c


class TokenRevocationGateway:
    """What ended early: single tokens by their ``jti``, those of an identity by its SPIFFE ID, and
    those of a running copy by its id.

    They never meet in one key: neither a ``jti`` nor an id of ours is a URI, and their prefixes
    differ.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, jti: str, expires_at: datetime) -> bool:
        """Note that a token ended, until `expires_at`; False if that was noted before."""
        return self._add({"subject": jti, "issued_until": None, "expires_at": expires_at})

    def end_issued(self, holder: str, moment: datetime) -> None:
        """Note that all tokens ended that were issued up to `moment` to `holder`, an identity or a
        running copy; what is known of a later moment stays."""
        values = {"issued_until": moment, "expires_at": moment + TOKENS_OVER}
        if not self._add({"subject": holder, **values}):
            mine = _t.subject == holder, _t.issued_until < moment
            self._session.execute(update(token_revocations).where(*mine), values)

    def _add(self, row: dict[str, Any]) -> bool:
        statement = self._session.on_conflict_skip(token_revocations, [row])
        return self._session.execute(statement.returning(_t.subject)).first() is not None

    def list_tokens(self, now: datetime) -> list[tuple[str, datetime]]:
        """Single tokens that ended and would live else, with their expiry: for live snapshots."""
        query = select(_t.subject, _t.expires_at).where(_t.issued_until.is_(None))
        rows = self._session.execute(query.where(_t.expires_at > now))
        return [(row.subject, row.expires_at) for row in rows]

    def list_issued_until(self, now: datetime) -> list[tuple[str, datetime]]:
        """Identities and running copies, and up to when their tokens ended: for live snapshots."""
        query = select(_t.subject, _t.issued_until).where(_t.issued_until.is_not(None))
        rows = self._session.execute(query.where(_t.expires_at > now))
        return [(row.subject, row.issued_until) for row in rows]

    def purge(self, now: datetime, limit: int) -> int:
        """Forget at most `limit` of what would have expired by now; how many went."""
        old = select(_t.subject).where(_t.expires_at <= now).limit(limit)
        found = delete(token_revocations).where(_t.subject.in_(old))
        return self._session.execute(found).rowcount
