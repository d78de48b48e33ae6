"""The gateway to withdrawals: what is due to be revoked behind a change of state."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from troth.core.ids import RequestId
from troth.store.records import HolderKind, Withdrawal
from troth.store.session import Session
from troth.store.tables import withdrawals

_t = withdrawals.c


class WithdrawalGateway:
    """Withdrawals by their holder's id. There are few at any time, and mostly none."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, holder: str) -> Withdrawal | None:
        """What is still to be revoked of a holder, or None."""
        row = self._session.execute(select(withdrawals).where(_t.holder == holder)).first()
        return None if row is None else _read(row)

    def list_open(self) -> list[Withdrawal]:
        """All of them, the oldest first."""
        rows = self._session.execute(select(withdrawals).order_by(_t.began_at, _t.holder))
        return [_read(row) for row in rows]

    def find_subject(self, subjects: Iterable[str]) -> str | None:
        """One of these SPIFFE IDs under which something is still to be revoked, or None."""
        wanted = set(subjects)
        found = self._session.execute(select(_t.subject)).scalars()
        return next((subject for subject in found if subject in wanted), None)

    def add(self, withdrawal: Withdrawal) -> None:
        """Note what is to be revoked; one that is under way stays as it is."""
        if self.find(withdrawal.holder) is None:
            self._session.insert(
                insert(withdrawals),
                _write(withdrawal),
                {"holder": "Another withdrawal from the same holder began meanwhile."},
            )

    def advance(self, holder: str, reached: datetime) -> None:
        """Note that whatever ends before `reached` is done."""
        self._session.execute(update(withdrawals).where(_t.holder == holder), {"reached": reached})

    def end(self, holder: str) -> None:
        """Note that all is done."""
        self._session.execute(delete(withdrawals).where(_t.holder == holder))


def _write(withdrawal: Withdrawal) -> dict[str, Any]:
    return {
        "holder": withdrawal.holder,
        "kind": withdrawal.kind.value,
        "subject": withdrawal.subject,
        "reason": withdrawal.reason,
        "actor": withdrawal.actor,
        "source": withdrawal.source,
        "request_id": withdrawal.request_id,
        "began_at": withdrawal.began_at,
        "reached": withdrawal.reached,
    }


def _read(row: Row[Any]) -> Withdrawal:
    return Withdrawal(
        holder=row.holder,
        kind=HolderKind(row.kind),
        subject=row.subject,
        reason=row.reason,
        actor=row.actor,
        source=row.source,
        request_id=RequestId(row.request_id),
        began_at=row.began_at,
        reached=row.reached,
    )
