"""The gateway to nodes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, case, func, insert, select, tuple_, update

from troth.core.errors import NotFound
from troth.core.ids import NodeId
from troth.store.identities import read_spiffe_id
from troth.store.records import Node, NodeState
from troth.store.session import Session
from troth.store.tables import is_active, nodes

_t = nodes.c
# Built once: building and hashing a statement costs more than running it.
_FIND = select(nodes).where(_t.id == bindparam("wanted"))
_ADD = insert(nodes).inline()
_MARK = " "  # between name and id; neither can contain it


def mark_page(last: Node) -> str:
    """What to pass as `after` for the page that follows `last`."""
    return f"{last.name}{_MARK}{last.id}"


class NodeGateway:
    """Nodes by id and name, and in pages."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, node_id: NodeId) -> Node | None:
        """The node, active or evicted, or None."""
        row = self._session.execute(_FIND, {"wanted": node_id}).first()
        return None if row is None else _read(row)

    def get(self, node_id: NodeId) -> Node:
        """The node; `NotFound` if there is none. Look at its state before trusting it."""
        found = self.find(node_id)
        if found is None:
            raise NotFound(f"There is no node with the id {node_id[:80]!r}.")
        return found

    def find_named(self, name: str) -> Node | None:
        """The active node of that name, else the one attested last of the evicted, else None."""
        query = select(nodes).where(_t.name == name)
        query = query.order_by(case((is_active, 0), else_=1), _t.attested_at.desc(), _t.id)
        row = self._session.execute(query.limit(1)).first()
        return None if row is None else _read(row)

    def get_named(self, name: str) -> Node:
        """As `find_named`, but `NotFound` if there is none."""
        found = self.find_named(name)
        if found is None:
            raise NotFound(f"There is no node named {name[:80]!r}.")
        return found

    def list_barred(self, fingerprint: str) -> list[Node]:
        """The evicted nodes that showed a certificate with this key and were not readmitted."""
        query = select(nodes).where(
            _t.fingerprint == fingerprint,
            _t.state == NodeState.EVICTED.value,
            _t.readmitted_at.is_(None),
        )
        return [_read(row) for row in self._session.execute(query.order_by(_t.id))]

    def add(self, node: Node) -> None:
        """Store a new node; `Conflict` if its id, or its name among the active, is taken."""
        self._session.insert(_ADD, _write(node), _taken(node))

    def save(self, node: Node) -> None:
        """Store a changed node; `NotFound` if there is none, `Conflict` if the name is taken."""
        statement = update(nodes).where(_t.id == node.id)
        if not self._session.change(statement, _write(node), _taken(node)):
            raise NotFound(f"There is no node with the id {node.id[:80]!r}.")

    def page(
        self, *, state: NodeState | None = None, after: str | None = None, limit: int = 100
    ) -> list[Node]:
        """Nodes by name, at most `limit`, after a `mark_page` or after a name."""
        query = select(nodes).order_by(_t.name, _t.id).limit(limit)
        if state is not None:
            query = query.where(_t.state == state.value)
        if after is not None:
            name, mark, node_id = after.partition(_MARK)
            if mark:
                query = query.where(tuple_(_t.name, _t.id) > tuple_(name, node_id))
            else:
                query = query.where(_t.name > name)
        return [_read(row) for row in self._session.execute(query)]

    def readmit(self, name: str, now: datetime) -> None:
        """Let a machine prove itself anew under this name."""
        self._session.execute(
            update(nodes)
            .where(_t.name == name, _t.readmitted_at.is_(None))
            .values(readmitted_at=now)
        )

    def count(self) -> int:
        """How many nodes are active."""
        query = select(func.count()).select_from(nodes).where(_t.state == NodeState.ACTIVE.value)
        return self._session.execute(query).scalar() or 0

    def count_silent(self, since: datetime) -> int:
        """How many active nodes were last heard of before `since`."""
        query = select(func.count()).select_from(nodes)
        query = query.where(_t.state == NodeState.ACTIVE.value, _t.last_seen < since)
        return self._session.execute(query).scalar() or 0

    def find_first_end(self) -> datetime | None:
        """When the first certificate of an active node ends, or None without any."""
        query = select(func.min(_t.expires_at, type_=_t.expires_at.type))
        found: datetime | None = self._session.execute(
            query.where(_t.state == NodeState.ACTIVE.value)
        ).scalar()
        return found

    def touch(self, node_id: NodeId, now: datetime) -> None:
        """Note that the node was heard of; never moves `last_seen` back."""
        self._session.execute(
            update(nodes).where(_t.id == node_id, _t.last_seen < now).values(last_seen=now)
        )


def _taken(node: Node) -> dict[str, str]:
    return {
        "id": f"The node id {node.id} is taken.",
        "name": f"The name '{node.name}' is taken by an active node. Evict that one first, "
        "or join under another name.",
    }


def _write(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "name": node.name,
        "spiffe_id": str(node.spiffe_id),
        "state": node.state.value,
        "attestation": node.attestation,
        "attested_at": node.attested_at,
        "certificate_serial": node.certificate_serial,
        "expires_at": node.expires_at,
        "last_seen": node.last_seen,
        "fingerprint": node.fingerprint,
        "readmitted_at": node.readmitted_at,
    }


def _read(row: Row[Any]) -> Node:
    return Node(
        id=NodeId(row.id),
        name=row.name,
        spiffe_id=read_spiffe_id(row.spiffe_id),
        state=NodeState(row.state),
        attestation=row.attestation,
        attested_at=row.attested_at,
        certificate_serial=row.certificate_serial,
        expires_at=row.expires_at,
        last_seen=row.last_seen,
        fingerprint=row.fingerprint,
        readmitted_at=row.readmitted_at,
    )
