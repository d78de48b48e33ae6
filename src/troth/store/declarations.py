"""The gateway to declarations: what manifests of kinds like Role and Resource say."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Text, bindparam, cast, delete, insert, select, update

from troth.core.errors import Conflict
from troth.identity.issuer import Issuer
from troth.policy.policy import Policy, Segment
from troth.policy.resource import Resource
from troth.policy.role import Role
from troth.store.session import Session
from troth.store.tables import declarations

Declared = Role | Resource | Policy | Segment | Issuer

TYPES: Mapping[str, type[Declared]] = {
    "Segment": Segment,
    "Role": Role,
    "Resource": Resource,
    "Policy": Policy,
    "Issuer": Issuer,
}
"""Kind of manifest → what its domain makes of it."""

_KINDS = {made: kind for kind, made in TYPES.items()}
_t = declarations.c
_COLUMNS = (_t.kind, _t.name, cast(_t.spec, Text).label("spec"), _t.revision)
_LIST = select(*_COLUMNS).order_by(_t.kind, _t.name)
_FIND = select(*_COLUMNS).where(_t.kind == bindparam("kind"), _t.name == bindparam("name"))

_MOST_READ = 500_000
_READ: dict[tuple[str, str], tuple[str, Declared]] = {}
"""What was read last, and the text that it was read from: of thousands mostly one has changed."""


def _read(kind: str, name: str, text: str) -> Declared:
    known = _READ.get((kind, name))
    if known is not None and known[0] == text:
        return known[1]
    value: Declared = msgspec.convert(msgspec.json.decode(text), TYPES[kind], strict=False)
    if len(_READ) >= _MOST_READ:
        _READ.clear()
    _READ[kind, name] = (text, value)
    return value


@dataclass(frozen=True, slots=True)
class Declaration:
    """A declaration as it is there; `revision` counts changes and starts at 1."""

    kind: str
    value: Declared
    revision: int


def name_kind(value: Declared) -> str:
    """The kind of manifest that `value` is."""
    return _KINDS[type(value)]


def describe_declared(value: Declared) -> dict[str, Any]:
    """Its fields as plain values: what is stored."""
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain


class DeclarationGateway:
    """Declarations by kind and name; there are few enough to read them all."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> builtins.list[Declaration]:
        """All of them, by kind and name. Kinds of a newer version are passed over."""
        rows = self._session.execute(_LIST)
        return [
            Declaration(row.kind, _read(row.kind, row.name, row.spec), row.revision)
            for row in rows
            if row.kind in TYPES
        ]

    def find(self, kind: str, name: str) -> Declaration | None:
        """The one of that kind and name, or None."""
        row = self._session.execute(_FIND, {"kind": kind, "name": name}).first()
        if row is None or row.kind not in TYPES:
            return None
        return Declaration(row.kind, _read(row.kind, row.name, row.spec), row.revision)

    def add(self, value: Declared, now: datetime) -> None:
        """Store a new one, at revision 1; `Conflict` if there is one of that kind and name."""
        kind = name_kind(value)
        taken = f"The {kind} '{value.name}' is there already. Look again, then repeat."
        self._session.insert(
            insert(declarations),
            {
                "kind": kind,
                "name": value.name,
                "spec": describe_declared(value),
                "revision": 1,
                "updated_at": now,
            },
            {"name": taken, "kind": taken},
        )

    def save(self, stored: Declaration, value: Declared, now: datetime) -> None:
        """Store `value` in the place of `stored`; `Conflict` if that was changed meanwhile."""
        changed = self._session.change(
            update(declarations).where(
                _t.kind == stored.kind, _t.name == value.name, _t.revision == stored.revision
            ),
            {
                "spec": describe_declared(value),
                "revision": stored.revision + 1,
                "updated_at": now,
            },
            {},
        )
        if not changed:
            raise Conflict(
                f"The {stored.kind} '{value.name}' was changed by somebody else meanwhile. Look "
                "at it again, then repeat."
            )

    def remove(self, kind: str, name: str) -> None:
        """Forget a declaration."""
        self._session.execute(delete(declarations).where(_t.kind == kind, _t.name == name))
