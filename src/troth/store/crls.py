"""The gateway to revocation lists."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, delete, func, insert, select, update

from troth.core.errors import Conflict, Invalid, NotFound
from troth.core.ids import AuthorityId
from troth.store.records import CrlRecord, IssuanceState
from troth.store.session import Session
from troth.store.settings import SettingGateway
from troth.store.tables import crls

FLOOR = "crl.floor"
"""The setting that numbers of lists stand above where an authority has none yet."""

_t = crls.c


@dataclass(frozen=True, slots=True)
class CrlTimes:
    """Number of a list, since when it holds and until when."""

    number: int
    this_update: datetime
    next_update: datetime


class CrlGateway:
    """Revocation lists by authority and number."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, authority_id: AuthorityId, number: int) -> CrlRecord | None:
        """The list, in whatever state, or None."""
        row = self._session.execute(select(crls).where(_is(authority_id, number))).first()
        return None if row is None else _read(row)

    def get(self, authority_id: AuthorityId, number: int) -> CrlRecord:
        """The list; `NotFound` if there is none."""
        found = self.find(authority_id, number)
        if found is None:
            raise NotFound(f"The authority {authority_id[:80]!r} has no CRL number {number}.")
        return found

    def add_intended(self, record: CrlRecord) -> None:
        """Keep the bytes to be signed; `Conflict` if the number is taken or not the next."""
        if record.state is not IssuanceState.INTENDED:
            raise Invalid("A CRL begins as an intent.")
        wanted = self.next_number(record.authority_id)
        if record.number != wanted:
            raise Conflict(f"The next CRL number is {wanted}, not {record.number}.")
        self._session.insert(
            insert(crls), _write(record), {"number": "Another CRL took the number meanwhile."}
        )

    def mark_issued(self, authority_id: AuthorityId, number: int, der: bytes) -> None:
        """Store the signed list; `Conflict` if it was abandoned or issued before."""
        done = self._session.execute(
            update(crls).where(_is(authority_id, number), _t.state == IssuanceState.INTENDED.value),
            {"state": IssuanceState.ISSUED.value, "der": der},
        )
        if not done.rowcount:
            state = self.get(authority_id, number).state.value
            raise Conflict(f"The CRL number {number} is {state} already.")

    def drop_superseded(self, authority_id: AuthorityId, number: int) -> None:
        """Forget the lists before `number`: a newer one holds all that they held."""
        self._session.execute(
            delete(crls).where(_t.authority_id == authority_id, _t.number < number)
        )

    def latest(self, authority_id: AuthorityId) -> CrlRecord | None:
        """The issued list with the highest number, or None."""
        query = select(crls).where(
            _t.authority_id == authority_id, _t.state == IssuanceState.ISSUED.value
        )
        row = self._session.execute(query.order_by(_t.number.desc()).limit(1)).first()
        return None if row is None else _read(row)

    def latest_times(self, authority_id: AuthorityId) -> CrlTimes | None:
        """Number and times of the latest list, for who looks often: a list may be megabytes."""
        query = select(_t.number, _t.this_update, _t.next_update).where(
            _t.authority_id == authority_id, _t.state == IssuanceState.ISSUED.value
        )
        row = self._session.execute(query.order_by(_t.number.desc()).limit(1)).first()
        return None if row is None else CrlTimes(row.number, row.this_update, row.next_update)

    def next_number(self, authority_id: AuthorityId) -> int:
        """One more than any number that was ever intended; the first is 1, or stands above all that
        may have been given before a backup was restored."""
        query = select(func.max(_t.number)).where(_t.authority_id == authority_id)
        highest = self._session.execute(query).scalar()
        if highest is None:
            highest = int(SettingGateway(self._session).get(FLOOR) or 0)
        return highest + 1

    def restart(self, floor: int) -> None:
        """Forget all lists, and begin above `floor` and every number that was known here."""
        highest = self._session.execute(select(func.max(_t.number))).scalar() or 0
        gateway = SettingGateway(self._session)
        gateway.set(FLOOR, str(max(floor, highest, int(gateway.get(FLOOR) or 0))))
        self._session.execute(delete(crls))

    def purge(self, before: datetime) -> int:
        """Forget lists that ended before `before`; how many went.

        Each authority keeps its latest and its highest number, so that numbers never return.
        """
        gone = 0
        for authority_id in (
            self._session.execute(select(_t.authority_id).distinct()).scalars().all()
        ):
            kept = {self.next_number(authority_id) - 1}
            latest = self.latest(authority_id)
            if latest is not None:
                kept.add(latest.number)
            old = and_(
                _t.authority_id == authority_id,
                _t.next_update < before,
                _t.number.not_in(sorted(kept)),
            )
            gone += self._session.execute(delete(crls).where(old)).rowcount
        return gone


def _is(authority_id: AuthorityId, number: int) -> Any:
    return and_(_t.authority_id == authority_id, _t.number == number)


def _write(record: CrlRecord) -> dict[str, Any]:
    return {
        "authority_id": record.authority_id,
        "number": record.number,
        "state": record.state.value,
        "tbs": record.tbs,
        "der": record.der,
        "this_update": record.this_update,
        "next_update": record.next_update,
    }


def _read(row: Row[Any]) -> CrlRecord:
    return CrlRecord(
        authority_id=AuthorityId(row.authority_id),
        number=row.number,
        state=IssuanceState(row.state),
        tbs=row.tbs,
        this_update=row.this_update,
        next_update=row.next_update,
        der=row.der,
    )
