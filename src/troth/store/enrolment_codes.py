"""The gateway to enrolment codes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, select, update

from troth.core.ids import CodeId, IdentityId
from troth.store.records import EnrolmentCode
from troth.store.session import Session
from troth.store.single_use import take_once
from troth.store.tables import enrolment_codes

_t = enrolment_codes.c
# Built once: building and hashing a statement costs more than running it.
_FIND = select(enrolment_codes).where(_t.id == bindparam("wanted"))
_ADD = insert(enrolment_codes).inline()


class EnrolmentCodeGateway:
    """Enrolment codes by id. Comparing the secret is the caller's part; here one use is one key."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, code_id: CodeId) -> EnrolmentCode | None:
        """The code, used and expired ones included, or None."""
        row = self._session.execute(_FIND, {"wanted": code_id}).first()
        return None if row is None else _read(row)

    def add_all(self, codes: Sequence[EnrolmentCode]) -> None:
        """Store new codes, all or none; `Conflict` if an id is taken."""
        if codes:
            rows = [_write(code) for code in codes]
            self._session.insert(_ADD, rows, {"id": "The enrolment code's id is taken."})

    def take(self, code_id: CodeId, now: datetime, key_hash: str, until: datetime) -> bool:
        """Use the code up for one key, as `take_once` says."""
        return take_once(self._session, enrolment_codes, code_id, now, key_hash, until)

    def end_for_identity(self, identity_id: IdentityId, now: datetime) -> int:
        """Let every code of an identity expire now, used or not; how many there were."""
        return self._session.execute(
            update(enrolment_codes).where(_t.identity_id == identity_id, _t.expires_at > now),
            {"expires_at": now},
        ).rowcount

    def void(self, now: datetime) -> int:
        """Let every code expire now, used or not; how many there were."""
        return self._session.execute(
            update(enrolment_codes).where(_t.expires_at > now), {"expires_at": now}
        ).rowcount

    def purge(self, before: datetime) -> int:
        """Forget codes that expired before `before`; how many went. The journal keeps what they
        did."""
        return self._session.execute(
            delete(enrolment_codes).where(_t.expires_at <= before)
        ).rowcount


def _write(code: EnrolmentCode) -> dict[str, Any]:
    return {
        "id": code.id,
        "secret_hash": code.secret_hash,
        "identity_id": code.identity_id,
        "created_by": code.created_by,
        "created_at": code.created_at,
        "expires_at": code.expires_at,
        "used_at": code.used_at,
        "key_hash": code.key_hash,
    }


def _read(row: Row[Any]) -> EnrolmentCode:
    return EnrolmentCode(
        id=CodeId(row.id),
        secret_hash=row.secret_hash,
        identity_id=IdentityId(row.identity_id),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
        key_hash=row.key_hash,
    )
