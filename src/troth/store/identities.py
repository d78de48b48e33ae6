"""The gateway to identities and to the nodes that may host them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    tuple_,
    type_coerce,
    update,
)

from troth.core.errors import Conflict, NotFound
from troth.core.ids import IdentityId, SpiffeId, TrustDomain
from troth.identity.attendance import Phase
from troth.identity.identity import Identity, Kind, State
from troth.identity.selectors import CERTIFIED, Selector
from troth.store.bulk import RowInsert
from troth.store.clients import read_client, write_client
from troth.store.columns import Document, Moment, store_document, store_moment
from troth.store.session import Session
from troth.store.tables import (
    device_selectors,
    identities,
    identity_nodes,
    instances,
    is_client,
    is_living,
    is_retired,
    sightings,
)

_MICROSECOND = timedelta(microseconds=1)
_ANY_NODE = "*"
_MARK = " "  # between name and id; neither can contain it

MOST_CERTIFIED = 100
"""Devices that one certificate may find; who finds so many is nobody."""

Version = tuple[int, int]
"""Revision of an identity and when it came, in microseconds since 1970: of a database that was set
back, the same revision may come twice."""

_PAGE = 1000
_CHUNK = 500  # engines bound how many parameters a statement may have
_t = identities.c
# Built once: building and hashing a statement costs more than running it.
_FIND = select(identities).where(_t.id == bindparam("wanted"))
_FIND_ALL = select(identities).where(_t.id.in_(bindparam("wanted", expanding=True)))
_ADD = RowInsert(identities, *(column.name for column in identities.columns))
_ALLOW = RowInsert(identity_nodes, "node", "identity_id")
_living_first = (case((is_living, 0), else_=1), _t.updated_at.desc(), _t.id)


def read_spiffe_id(text: str) -> SpiffeId:
    """A SPIFFE ID that was checked when it was stored."""
    name, slash, rest = text.removeprefix("spiffe://").partition("/")
    return SpiffeId(TrustDomain(name), slash + rest)


def mark_page(last: Identity) -> str:
    """What to pass as `after` for the page that follows `last`."""
    return f"{last.name}{_MARK}{last.id}"


class IdentityGateway:
    """Identities by id and name, in pages, and those of a node."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, identity_id: IdentityId) -> Identity | None:
        """The identity, in whatever state, or None."""
        return self._first(_FIND, wanted=identity_id)

    def find_all(self, identity_ids: Iterable[IdentityId]) -> dict[IdentityId, Identity]:
        """Those of these identities that there are, in whatever state."""
        wanted = list(identity_ids)
        found: dict[IdentityId, Identity] = {}
        for start in range(0, len(wanted), _CHUNK):
            rows = self._session.execute(_FIND_ALL, {"wanted": wanted[start : start + _CHUNK]})
            found.update({IdentityId(row.id): _read(row) for row in rows})
        return found

    def get(self, identity_id: IdentityId) -> Identity:
        """The identity; `NotFound` if there is none."""
        found = self.find(identity_id)
        if found is None:
            raise NotFound(f"There is no identity with the id {identity_id[:80]!r}.")
        return found

    def find_named(self, name: str) -> Identity | None:
        """The living identity of that name, else the one retired last, else None."""
        return self._first(
            select(identities).where(_t.name == name).order_by(*_living_first).limit(1)
        )

    def get_named(self, name: str) -> Identity:
        """As `find_named`, but `NotFound` if there is none."""
        found = self.find_named(name)
        if found is None:
            raise NotFound(
                f"There is no identity named {name[:80]!r}; `troth identity ls` lists them."
            )
        return found

    def add(self, identity: Identity) -> None:
        """Store a new identity; `Conflict` if its id, or its name or path among the living, is
        taken."""
        self._session.insert_rows(_ADD, [tuple(_store(identity))], _taken(identity))
        self._allow_nodes([identity])
        self._index_selectors([identity])

    def add_all(self, added: Sequence[Identity]) -> None:
        """As `add` for many, all of them or none."""
        if len(added) == 1:
            self.add(added[0])  # which names what is taken
        elif added:
            self._session.insert_rows(_ADD, [tuple(_store(one)) for one in added], _TAKEN)
            self._allow_nodes(added)
            self._index_selectors(added)

    def save(self, identity: Identity, expected_revision: int) -> None:
        """Store a changed identity; `Conflict` if it is no longer at `expected_revision`."""
        before = self.get(identity.id)
        changed = self._session.change(
            update(identities).where(_t.id == identity.id, _t.revision == expected_revision),
            _write(identity),
            _taken(identity),
        )
        if not changed:
            raise Conflict(
                f"The identity '{before.name}' was changed by somebody else meanwhile "
                f"(revision {before.revision}, expected {expected_revision}). "
                "Look at it again, then repeat."
            )
        if _hosts(before) != _hosts(identity):
            self._session.execute(
                delete(identity_nodes).where(identity_nodes.c.identity_id == identity.id)
            )
            self._allow_nodes([identity])
        if _list_certified(before) != _list_certified(identity):
            self._session.execute(
                delete(device_selectors).where(device_selectors.c.identity_id == identity.id)
            )
            self._index_selectors([identity])

    def page(
        self,
        *,
        state: State | None = None,
        kind: Kind | None = None,
        text: str | None = None,
        template: str | None = None,
        unattended_since: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
        living: bool = False,
    ) -> list[Identity]:
        """Identities by name, at most `limit`, after a `mark_page` or after a name.

        `text` is looked for in name, SPIFFE ID, owner and purpose, ignoring case. With
        `unattended_since`, those that nobody uses: active, older, and no copy was seen since; of
        templates' own those that their clockwork calls so. Without a
        `state` the retired are listed too; they may share a name, so take `mark_page` of the
        last one for the next page.
        """
        query = select(identities).order_by(_t.name, _t.id).limit(limit)
        if state is not None:
            query = query.where(_t.state == state.value)
        if living:
            query = query.where(is_living)
        if kind is not None:
            query = query.where(_t.kind == kind.value)
        if text:
            fields = (_t.name, _t.spiffe_id, _t.owner, _t.purpose)
            query = query.where(or_(*(f.icontains(text, autoescape=True) for f in fields)))
        if template is not None:
            query = query.where(_t.template == template)
        if unattended_since is not None:
            query = query.where(_is_unattended(unattended_since))
        if after is not None:
            name, mark, identity_id = after.partition(_MARK)
            if mark:
                query = query.where(tuple_(_t.name, _t.id) > tuple_(name, identity_id))
            else:
                query = query.where(_t.name > name)
        return self._all(query)

    def for_node(self, node_name: str) -> list[Identity]:
        """Identities that `node_name` may host: neither proposed nor retired, by name."""
        return self._all(_narrow(select(identities), node_name))

    def list_versions(self, node_name: str) -> dict[IdentityId, Version]:
        """At which version each identity of `for_node` is, in the same order."""
        query = select(_t.id, _t.revision, type_coerce(_t.updated_at, BigInteger).label("at"))
        rows = self._session.execute(_narrow(query, node_name))
        return {IdentityId(row.id): (row.revision, row.at) for row in rows}

    def find_certified(self, selectors: Iterable[Selector]) -> list[Identity]:
        """Living devices whose most telling selector is one of these, by name; `MOST_CERTIFIED`
        at most, however large the fleet.

        Whether they ask for more is for the caller to see.
        """
        named = select(device_selectors.c.identity_id).where(
            device_selectors.c.selector.in_([str(selector) for selector in selectors])
        )
        query = select(identities).where(_t.id.in_(named)).order_by(_t.name)
        return self._all(query.limit(MOST_CERTIFIED))

    def list_managed(self, *, without: Container[str], limit: int | None) -> list[Identity]:
        """Living identities that a manifest brought and that aren't named `without`, by name; the
        first `limit` of them. Reads on until it has these: at worst all that manifests brought."""
        found: list[Identity] = []
        after = ""
        while True:
            query = select(identities).where(is_living, _t.managed.is_(True), _t.name > after)
            page = self._all(query.order_by(_t.name).limit(_PAGE))
            found += [one for one in page if one.name not in without]
            if len(page) < _PAGE or (limit is not None and len(found) >= limit):
                return found if limit is None else found[:limit]
            after = page[-1].name

    def list_certificates(self) -> set[bytes]:
        """The self-signed certificates (DER) of all living identities that registered any."""
        # Who is living is asked here: in SQL it would make the index of the living look as good.
        rows = self._session.execute(select(_t.client, _t.state).where(is_client))
        living = [row for row in rows if row.state != State.RETIRED.value]
        return {der for row in living for der in read_client(row.client).certificates}

    def list_named(self, names: Iterable[str]) -> list[Identity]:
        """The living identities that have any of these names."""
        return self._list_living(_t.name, list(names))

    def due_to_expire(self, now: datetime, limit: int) -> list[Identity]:
        """Living identities whose time is over, the longest over first.

        Those that templates made are left out: they wait for their workloads for a while.
        """
        return self._all(
            select(identities)
            .where(is_living, _t.expires_at <= now, _t.template.is_(None))
            .order_by(_t.expires_at)
            .limit(limit)
        )

    def count_of_template(self, template: str) -> int:
        """How many living identities a template has made."""
        living = [state.value for state in State if state is not State.RETIRED]
        query = select(func.count()).where(_t.template == template, _t.state.in_(living))
        return self._session.execute(query).scalar() or 0

    def find_intruder(self, spiffe_id: str, name: str, template: str) -> Identity | None:
        """A living identity at or below a SPIFFE ID or name that isn't of `template`, or None."""
        foreign = or_(_t.template.is_(None), _t.template != template)
        for column, value, mark in ((_t.spiffe_id, spiffe_id, "/"), (_t.name, name, ".")):
            after = chr(ord(mark) + 1)
            inside = and_(column > f"{value}{mark}", column < f"{value}{after}")
            # Two queries: an OR of the two would make SQLite read the whole index.
            for where in (column == value, inside):
                query = select(identities).where(is_living, where, foreign).limit(1)
                if (found := self._first(query)) is not None:
                    return found
        return None

    def list_held_on(self, node_name: str, states: Iterable[State]) -> list[Identity]:
        """Identities in `states` that `node_name` may host."""
        wanted = [state.value for state in states]
        return self._all(select(identities).where(_t.state.in_(wanted), _is_hosted_on(node_name)))

    def list_proposed_on(self, node_name: str) -> list[Identity]:
        """Registered identities that wait for approval and that `node_name` may host."""
        return self._all(
            select(identities).where(
                _t.state == State.PROPOSED.value, _t.template.is_(None), _is_hosted_on(node_name)
            )
        )

    def count_by_state(self) -> dict[State, int]:
        """How many there are in each state, zeros included."""
        query = select(_t.state, func.count().label("number")).group_by(_t.state)
        found = {row.state: row.number for row in self._session.execute(query)}
        return {state: found.get(state.value, 0) for state in State}

    def list_living_at(self, spiffe_ids: Iterable[SpiffeId]) -> list[Identity]:
        """The living identities that hold any of these SPIFFE IDs."""
        return self._list_living(_t.spiffe_id, [str(spiffe_id) for spiffe_id in spiffe_ids])

    def list_names_at(self, spiffe_id: SpiffeId, limit: int) -> list[str]:
        """Names of the identities that hold or held a SPIFFE ID: of the living one, and of so many
        retired ones."""
        names = select(_t.name).where(_t.spiffe_id == str(spiffe_id))
        former = names.where(is_retired).distinct().limit(limit)
        rows = (self._session.execute(query) for query in (names.where(is_living), former))
        return sorted({row.name for some in rows for row in some})

    def _list_living(self, column: Column[str], wanted: Sequence[str]) -> list[Identity]:
        found: list[Identity] = []
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            found += self._all(select(identities).where(is_living, column.in_(chunk)))
        return found

    def list_retired_since(self, moment: datetime) -> list[tuple[SpiffeId, datetime, bool]]:
        """SPIFFE IDs retired at `moment` or later, when, and whether a living identity holds it."""
        living = identities.alias()
        held = exists().where(
            living.c.spiffe_id == _t.spiffe_id, living.c.state != literal_column("'retired'")
        )
        query = select(_t.spiffe_id, func.max(_t.updated_at).label("at"), held.label("held"))
        query = query.where(is_retired, _t.updated_at >= moment).group_by(_t.spiffe_id)
        rows = self._session.execute(query)
        return [(read_spiffe_id(row.spiffe_id), row.at, bool(row.held)) for row in rows]

    def list_in_states(self, states: Iterable[State]) -> list[tuple[SpiffeId, State]]:
        """SPIFFE ID and state of every identity in one of `states`: for live snapshots."""
        wanted = [state.value for state in states]
        query = select(_t.spiffe_id, _t.state).where(_t.state.in_(wanted))
        rows = self._session.execute(query)
        return [(read_spiffe_id(row.spiffe_id), State(row.state)) for row in rows]

    def _allow_nodes(self, added: Iterable[Identity]) -> None:
        rows = [(node, one.id) for one in added for node in sorted(_hosts(one))]
        if rows:
            self._session.insert_rows(_ALLOW, rows, {})

    def _index_selectors(self, added: Iterable[Identity]) -> None:
        rows = [
            {"selector": selector, "identity_id": one.id}
            for one in added
            for selector in _list_certified(one)
        ]
        if rows:
            self._session.execute(insert(device_selectors), rows)

    def _first(self, query: Any, **values: str) -> Identity | None:
        row = self._session.execute(query, values).first()
        return None if row is None else _read(row)

    def _all(self, query: Any) -> list[Identity]:
        return [_read(row) for row in self._session.execute(query)]


def _narrow(query: Select[Any], node_name: str) -> Select[Any]:
    """Of identities, to those that a node may host, by name."""
    hosted = select(identity_nodes.c.identity_id).where(
        identity_nodes.c.node.in_((node_name, _ANY_NODE))
    )
    wanted = _t.state.not_in((State.PROPOSED.value, State.RETIRED.value))
    return query.where(and_(_t.id.in_(hosted), wanted)).order_by(_t.name)


def _is_hosted_on(node_name: str) -> ColumnElement[bool]:
    return exists().where(
        identity_nodes.c.identity_id == _t.id,
        identity_nodes.c.node.in_((node_name, _ANY_NODE)),
    )


def _is_unattended(since: datetime) -> ColumnElement[bool]:
    seen = exists().where(instances.c.identity_id == _t.id, instances.c.last_seen >= since)
    idle = and_(_t.state == State.ACTIVE.value, _t.created_at < since, ~seen)
    phases = (Phase.UNATTENDED.value, Phase.EXPIRED.value)
    missed = exists().where(sightings.c.identity_id == _t.id, sightings.c.phase.in_(phases))
    return or_(and_(_t.template.is_(None), idle), missed)


def _hosts(identity: Identity) -> frozenset[str]:
    """The nodes whose agents may be asked for it: none for a device that enrols by itself."""
    alone = identity.kind is Kind.DEVICE and all(s.key in CERTIFIED for s in identity.selectors)
    return frozenset() if alone or identity.state is State.RETIRED else frozenset(identity.nodes)


def _list_certified(identity: Identity) -> list[str]:
    """The selector by which a manufacturer's certificate finds this device: the most telling one,
    since a whole fleet shares its authority."""
    if identity.kind is not Kind.DEVICE or identity.state is State.RETIRED:
        return []
    known = [s for s in identity.selectors if s.key in CERTIFIED]
    return [str(min(known, key=lambda s: (CERTIFIED.index(s.key), s.value)))] if known else []


def _taken(identity: Identity) -> dict[str, str]:
    return {
        "id": f"The identity id {identity.id} is taken.",
        "name": f"The name '{identity.name}' is taken by another identity. Choose another name, "
        "or retire that one first.",
        "spiffe_id": f"The path '{identity.spiffe_id.path}' is taken by another identity. "
        "Choose another path, or retire that one first.",
    }


_TAKEN = {
    "id": "The id of one of them is taken.",
    "name": "Another identity took the name of one of them just now. Apply again; the plan tells.",
    "spiffe_id": "Another identity took the path of one of them just now. Apply again; the plan "
    "tells.",
}


def _store(identity: Identity) -> Iterator[Any]:
    """The row of an identity in its stored form, in the order of the columns."""
    row = _write(identity)
    for column in identities.columns:
        value = row[column.name]
        if isinstance(column.type, Document):
            yield None if value is None else store_document(value)
        elif isinstance(column.type, Moment):
            yield store_moment(value)
        else:
            yield value


def _write(identity: Identity) -> dict[str, Any]:
    return {
        "id": identity.id,
        "name": identity.name,
        "spiffe_id": str(identity.spiffe_id),
        "kind": identity.kind.value,
        "owner": identity.owner,
        "purpose": identity.purpose,
        "environment": identity.environment,
        "labels": dict(identity.labels),
        "selectors": [str(selector) for selector in identity.selectors],
        "nodes": identity.nodes,
        "dns_names": identity.dns_names,
        "x509_ttl": identity.x509_ttl // _MICROSECOND,
        "jwt_ttl": identity.jwt_ttl // _MICROSECOND,
        "hint": identity.hint,
        "expires_at": identity.expires_at,
        "state": identity.state.value,
        "state_reason": identity.state_reason,
        "state_before": identity.state_before.value if identity.state_before else None,
        "managed": identity.managed,
        "revision": identity.revision,
        "created_at": identity.created_at,
        "updated_at": identity.updated_at,
        "template": identity.template or None,
        "roles": identity.roles or None,
        "delegates": identity.delegates or None,
        "client": write_client(identity.client),
    }


def _read(row: Row[Any]) -> Identity:
    return Identity(
        id=IdentityId(row.id),
        name=row.name,
        spiffe_id=read_spiffe_id(row.spiffe_id),
        kind=Kind(row.kind),
        owner=row.owner,
        purpose=row.purpose,
        environment=row.environment,
        labels=row.labels,
        selectors=_read_selectors(row.selectors),
        nodes=tuple(row.nodes),
        dns_names=tuple(row.dns_names),
        x509_ttl=row.x509_ttl * _MICROSECOND,
        jwt_ttl=row.jwt_ttl * _MICROSECOND,
        hint=row.hint,
        expires_at=row.expires_at,
        state=State(row.state),
        state_reason=row.state_reason,
        state_before=State(row.state_before) if row.state_before else None,
        managed=row.managed,
        revision=row.revision,
        created_at=row.created_at,
        updated_at=row.updated_at,
        template=row.template or "",
        roles=tuple(row.roles or ()),
        delegates=tuple(row.delegates or ()),
        client=read_client(row.client),
    )


def _read_selectors(texts: Iterable[str]) -> tuple[Selector, ...]:
    # Not Selector.parse: what an earlier version accepted must stay readable.
    parts = (text.split(":", 2) for text in texts)
    return tuple(Selector(f"{kind}:{attribute}", value) for kind, attribute, value in parts)
