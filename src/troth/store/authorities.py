"""The gateway to signing authorities."""

from __future__ import annotations

import builtins
from typing import Any

from sqlalchemy import Row, bindparam, insert, select, update

from troth.core.errors import NotFound, Unavailable
from troth.core.ids import AuthorityId
from troth.issuance.authorities import Authority, AuthorityState, Use
from troth.store.session import Session
from troth.store.tables import authorities, is_signing

_t = authorities.c
# Built once: building and hashing a statement costs more than running it.
_FIND = select(authorities).where(_t.id == bindparam("wanted"))


class AuthorityGateway:
    """Authorities by id and use. At most one of a use is active."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, authority_id: AuthorityId) -> Authority | None:
        """The authority, in whatever state, or None."""
        row = self._session.execute(_FIND, {"wanted": authority_id}).first()
        return None if row is None else _read(row)

    def get(self, authority_id: AuthorityId) -> Authority:
        """The authority; `NotFound` if there is none."""
        found = self.find(authority_id)
        if found is None:
            raise NotFound(f"There is no signing authority with the id {authority_id[:80]!r}.")
        return found

    def add(self, authority: Authority) -> None:
        """Store a new authority; `Conflict` if its id or key is taken, or another is active."""
        self._session.insert(insert(authorities), _write(authority), _taken(authority))

    def save(self, authority: Authority) -> None:
        """Store a changed authority; `NotFound` if there is none.

        `Conflict` if another of its use is active: in a rotation save the one that steps down
        first, in the same transaction.
        """
        statement = update(authorities).where(_t.id == authority.id)
        if not self._session.change(statement, _write(authority), _taken(authority)):
            raise NotFound(f"There is no signing authority with the id {authority.id[:80]!r}.")

    def list(self, use: Use | None = None) -> builtins.list[Authority]:
        """All authorities (of one use), the oldest first."""
        query = select(authorities).order_by(_t.created_at, _t.id)
        if use is not None:
            query = query.where(_t.use == use.value)
        return [_read(row) for row in self._session.execute(query)]

    def find_active(self, use: Use) -> Authority | None:
        """The authority that signs for `use` now; None before there is one."""
        query = select(authorities).where(is_signing, _t.use == use.value)
        row = self._session.execute(query).first()
        return None if row is None else _read(row)

    def active(self, use: Use) -> Authority:
        """As `find_active`, but `Unavailable` if there is none: the server makes one as it
        starts."""
        found = self.find_active(use)
        if found is None:
            raise Unavailable(f"No authority signs {use.value} yet. Try again in a moment.")
        return found


def _taken(authority: Authority) -> dict[str, str]:
    return {
        "id": f"The authority id {authority.id} is taken.",
        "key_ref": f"The key '{authority.key_ref}' belongs to another authority.",
        "use": f"Another authority is active for {authority.use.value}. Retire it first.",
    }


def _write(authority: Authority) -> dict[str, Any]:
    return {
        "id": authority.id,
        "use": authority.use.value,
        "state": authority.state.value,
        "key_ref": authority.key_ref,
        "public_key": authority.public_key,
        "certificate": authority.certificate,
        "not_before": authority.not_before,
        "not_after": authority.not_after,
        "created_at": authority.created_at,
        "retired_at": authority.retired_at,
    }


def _read(row: Row[Any]) -> Authority:
    return Authority(
        id=AuthorityId(row.id),
        use=Use(row.use),
        state=AuthorityState(row.state),
        key_ref=row.key_ref,
        public_key=row.public_key,
        certificate=row.certificate,
        not_before=row.not_before,
        not_after=row.not_after,
        created_at=row.created_at,
        retired_at=row.retired_at,
    )
