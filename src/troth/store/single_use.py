"""What join tokens and enrolment codes have in common: each is used for one key."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Table, update

from troth.store.session import Session


def take_once(
    session: Session,
    table: Table,
    wanted: str,
    now: datetime,
    key_hash: str,
    until: datetime,
    **more: str,
) -> bool:
    """Use a row of `table` up for the key with this hash: of any number of keys exactly one gets
    it, and may show it again before `until`.

    Whether it was taken now: False if it was used before, has expired or isn't there.
    """
    column = table.c
    # The condition stands in the UPDATE, so that it holds on every engine in every race.
    taken = session.execute(
        update(table).where(column.id == wanted, column.used_at.is_(None), column.expires_at > now),
        {"used_at": now, "key_hash": key_hash, "expires_at": until, **more},
    )
    return taken.rowcount == 1
