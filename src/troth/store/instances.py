"""The gateway to instances: running copies of identities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, case, delete, func, insert, select, update

from troth.core.errors import Conflict, NotFound
from troth.core.ids import IdentityId, InstanceId, NodeId
from troth.identity.identity import Instance
from troth.store.bulk import KeyedStatement
from troth.store.columns import store_document, store_moment
from troth.store.session import Session
from troth.store.tables import instances, is_locked

CHUNK = 500
"""Values in one IN list; engines bound how many parameters a statement may have."""

PRECISION = timedelta(seconds=10)
"""How far `last_seen` may lie behind: whoever fetches a dozen tokens at once is seen once. It is in
two indexes, so that rewriting it costs more than the record of a token."""

_t = instances.c
# Built once: building and hashing a statement costs more than running it.
_FIND = select(instances).where(_t.id == bindparam("wanted"))
_ADD = insert(instances).inline()
_FIND_KNOWN = KeyedStatement(
    "SELECT id, identity_id, node_id, pid, evidence, last_seen FROM instances WHERE id"
)
_TOUCH = KeyedStatement("UPDATE instances SET last_seen = {mark} WHERE last_seen < {mark} AND id")
_FIND_LOCKED = select(_t.id).where(is_locked, _t.node_id == bindparam("node"))
_seen = bindparam("seen", type_=_t.last_seen.type)
_SEE = (
    update(instances)
    .where(_t.id == bindparam("wanted"))
    .values(
        pid=bindparam("pid"),
        evidence=bindparam("evidence"),
        last_seen=case((_t.last_seen < _seen, _seen), else_=_t.last_seen),
    )
)


def split_chunks(values: Iterable[Any]) -> Iterable[Sequence[Any]]:
    """`values` in portions that fit into one statement."""
    wanted = list(values)
    for start in range(0, len(wanted), CHUNK):
        yield wanted[start : start + CHUNK]


class InstanceGateway:
    """Instances by id, identity and node. Whether one is locked, only `set_locked` decides."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, instance_id: InstanceId) -> Instance | None:
        """The instance, or None."""
        row = self._session.execute(_FIND, {"wanted": instance_id}).first()
        return None if row is None else _read(row)

    def get(self, instance_id: InstanceId) -> Instance:
        """The instance; `NotFound` if there is none."""
        found = self.find(instance_id)
        if found is None:
            raise NotFound(f"There is no instance with the id {instance_id[:80]!r}.")
        return found

    def upsert(self, instance: Instance) -> Instance:
        """Store an instance as its node reports it; returns what is stored now.

        Of one that is known, only the process, the evidence and `last_seen` change, the latter
        with a precision of ten seconds: a report never unlocks. `Conflict` if the id belongs to
        another identity or node.
        """
        self.upsert_all([instance])
        return self.get(instance.id)

    def upsert_all(self, reported: Iterable[Instance]) -> None:
        """As `upsert` for many; of two with the same id the last one counts."""
        wanted = {instance.id: instance for instance in reported}
        for chunk in split_chunks(wanted):
            known = {row.id: row for row in self._session.execute_keyed(_FIND_KNOWN, chunk)}
            for row in known.values():
                told = wanted[row.id]
                if (row.identity_id, row.node_id) != (told.identity_id, told.node_id):
                    raise Conflict(f"The instance {row.id} belongs to another identity or node.")
            new = [_write(wanted[key]) for key in chunk if key not in known]
            if new:
                self._session.insert(_ADD, new, {"id": "The instance's id is taken."})
            news = [_see(wanted[key]) for key, row in known.items() if _is_news(wanted[key], row)]
            if news:
                self._session.execute(_SEE, news)

    def list_locked(self, node_id: NodeId) -> frozenset[InstanceId]:
        """The copies on a node that are locked."""
        rows = self._session.execute(_FIND_LOCKED, {"node": node_id})
        return frozenset(InstanceId(row.id) for row in rows)

    def of_identity(self, identity_id: IdentityId) -> list[Instance]:
        """All known copies of an identity, the last seen first."""
        query = select(instances).where(_t.identity_id == identity_id)
        rows = self._session.execute(query.order_by(_t.last_seen.desc(), _t.id))
        return [_read(row) for row in rows]

    def set_locked(self, instance_id: InstanceId, locked: bool, reason: str) -> None:
        """Lock or unlock one copy; `NotFound` if there is none."""
        changed = self._session.execute(
            update(instances).where(_t.id == instance_id),
            {"locked": locked, "locked_reason": reason},
        )
        if not changed.rowcount:
            raise NotFound(f"There is no instance with the id {instance_id[:80]!r}.")

    def locked_for_node(self, node_id: NodeId) -> list[Instance]:
        """The locked copies on a node, by id."""
        query = select(instances).where(is_locked, _t.node_id == node_id).order_by(_t.id)
        return [_read(row) for row in self._session.execute(query)]

    def touch(
        self, ids: Iterable[InstanceId], now: datetime, of_node: NodeId | None = None
    ) -> None:
        """Note that these copies were seen; never moves `last_seen` back.

        With `of_node`, ids of other nodes' copies are passed over.
        """
        stale = update(instances).where(_t.last_seen < now)
        if of_node is not None:
            stale = stale.where(_t.node_id == of_node)
        wanted = _t.id.in_(bindparam("wanted", expanding=True))
        stale = stale.where(wanted).values(last_seen=now)
        for chunk in split_chunks(ids):
            self._session.execute(stale, {"wanted": chunk})

    def list_seen_last(self, limit: int) -> list[IdentityId]:
        """Identities of the `limit` copies that were seen last, the latest first, each once."""
        query = select(_t.identity_id).order_by(_t.last_seen.desc()).limit(limit)
        rows = self._session.execute(query)
        return list(dict.fromkeys(IdentityId(row.identity_id) for row in rows))

    def last_seen_by_identity(
        self, identity_ids: Iterable[IdentityId]
    ) -> dict[IdentityId, datetime]:
        """When any copy of each identity was seen last; those never seen are left out."""
        seen: dict[IdentityId, datetime] = {}
        for chunk in split_chunks(identity_ids):
            query = select(
                _t.identity_id, func.max(_t.last_seen, type_=_t.last_seen.type).label("at")
            )
            rows = self._session.execute(
                query.where(_t.identity_id.in_(chunk)).group_by(_t.identity_id)
            )
            seen.update({IdentityId(row.identity_id): row.at for row in rows})
        return seen

    def count_by_identity(self, identity_ids: Iterable[IdentityId]) -> dict[IdentityId, int]:
        """How many copies of each identity are on record; those with none are left out."""
        counts: dict[IdentityId, int] = {}
        for chunk in split_chunks(identity_ids):
            query = select(_t.identity_id, func.count().label("number"))
            rows = self._session.execute(
                query.where(_t.identity_id.in_(chunk)).group_by(_t.identity_id)
            )
            counts.update({IdentityId(row.identity_id): row.number for row in rows})
        return counts

    def purge(self, before: datetime, limit: int) -> int:
        """Forget copies not seen since `before`, never a locked one; how many went."""
        old = select(_t.id).where(_t.last_seen < before, _t.locked.is_(False)).limit(limit)
        return self._session.execute(delete(instances).where(_t.id.in_(old))).rowcount


def _is_news(told: Instance, row: Row[Any]) -> bool:
    """Whether a report says something new of what is stored."""
    if told.pid != row.pid or store_document(told.evidence) != row.evidence:
        return True
    return bool(row.last_seen <= store_moment(told.last_seen - PRECISION))


def _write(instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "identity_id": instance.identity_id,
        "node_id": instance.node_id,
        "pid": instance.pid,
        "evidence": instance.evidence,
        "locked": instance.locked,
        "locked_reason": instance.locked_reason,
        "first_seen": instance.first_seen,
        "last_seen": instance.last_seen,
    }


def _see(instance: Instance) -> dict[str, Any]:
    return {
        "wanted": instance.id,
        "pid": instance.pid,
        "evidence": instance.evidence,
        "seen": instance.last_seen,
    }


def _read(row: Row[Any]) -> Instance:
    return Instance(
        id=InstanceId(row.id),
        identity_id=IdentityId(row.identity_id),
        node_id=NodeId(row.node_id),
        pid=row.pid,
        evidence=tuple(row.evidence),
        locked=row.locked,
        locked_reason=row.locked_reason,
        first_seen=row.first_seen,
        last_seen=row.last_seen,
    )
