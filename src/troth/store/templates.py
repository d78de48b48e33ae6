"""The gateway to templates."""

from __future__ import annotations

import builtins
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, insert, select, type_coerce, update

from troth.core.errors import Conflict
from troth.identity.identity import Kind
from troth.identity.naming import Naming
from troth.identity.pattern import Pattern
from troth.identity.template import MAX_TEMPLATES, Template
from troth.identity.template_plan import StoredTemplate
from troth.store.columns import Text, read_document
from troth.store.session import Session
from troth.store.tables import templates

_t = templates.c
# Built once: building and hashing a statement costs more than running it.
_ROW = select(_t.name, _t.prefix, type_coerce(_t.spec, Text).label("spec"), _t.revision)
_FIND = _ROW.where(_t.name == bindparam("wanted"))
_ALL = _ROW.order_by(_t.name)
_OWNER = select(_t.name).where(_t.prefix.in_(bindparam("wanted", expanding=True))).limit(1)


class ReadTemplates:
    """Templates that were read before, by all that their rows say, so that each is parsed once.

    Belongs to whoever reads them again and again; bounded, and any thread may ask.
    """

    def __init__(self, capacity: int = MAX_TEMPLATES) -> None:
        self._capacity = capacity
        self._known: dict[str, tuple[tuple[Any, ...], StoredTemplate]] = {}

    def read(self, row: Row[Any]) -> StoredTemplate:
        """The template that `row` says."""
        said = tuple(row)
        known = self._known.get(row.name)
        if known is not None and known[0] == said:
            return known[1]
        if len(self._known) >= self._capacity:
            self._known = {}  # those that there still are come back by themselves
        template = _read(row)
        self._known[row.name] = (said, template)
        return template


class TemplateGateway:
    """Templates by name; there are a thousand at most."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, name: str) -> StoredTemplate | None:
        """The template, or None."""
        row = self._session.execute(_FIND, {"wanted": name}).first()
        return None if row is None else _read(row)

    def list(self, known: ReadTemplates | None = None) -> list[StoredTemplate]:
        """All of them, by name; those that are `known` as they were read before."""
        read = _read if known is None else known.read
        return [read(row) for row in self._session.execute(_ALL)]

    def list_for_node(
        self, node_name: str, known: ReadTemplates | None = None
    ) -> builtins.list[Template]:
        """Those that hold on the node of that name, by name."""
        found = (stored.template for stored in self.list(known))
        return [template for template in found if template.allows(node_name)]

    def find_owner(self, prefixes: frozenset[str]) -> str | None:
        """The name of a template that owns one of `prefixes`, or None."""
        return self._session.execute(_OWNER, {"wanted": sorted(prefixes)}).scalar()

    def count(self) -> int:
        """How many there are."""
        return self._session.execute(select(func.count()).select_from(templates)).scalar() or 0

    def add(self, template: Template, now: datetime) -> None:
        """Store a new one, at revision 1; `Conflict` if its name or prefix is taken."""
        values = {**_write(template, now), "revision": 1}
        self._session.insert(insert(templates).inline(), values, _taken(template))

    def save(self, stored: StoredTemplate, template: Template, now: datetime) -> None:
        """Store `template` in the place of `stored`; `Conflict` if that was changed meanwhile."""
        changed = self._session.change(
            update(templates).where(_t.name == template.name, _t.revision == stored.revision),
            {**_write(template, now), "revision": stored.revision + 1},
            _taken(template),
        )
        if not changed:
            raise Conflict(
                f"The template '{template.name}' was changed by somebody else meanwhile. Look at "
                "it again, then repeat."
            )

    def remove(self, name: str) -> None:
        """Forget a template; what it made stays."""
        self._session.execute(delete(templates).where(_t.name == name))


def _taken(template: Template) -> dict[str, str]:
    return {
        "name": f"The template '{template.name}' is there already. Look again, then repeat.",
        "prefix": f"The prefix '{template.prefix}' is taken by another template. Choose another.",
    }


def _write(template: Template, now: datetime) -> dict[str, Any]:
    spec = {
        "naming": template.naming.text,
        "match": [str(pattern) for pattern in template.match],
        "nodes": template.nodes,
        "kind": template.kind.value,
        "owner": template.owner,
        "purpose": template.purpose,
        "environment": template.environment,
        "labels": dict(template.labels),
        "x509_ttl": _seconds(template.x509_ttl),
        "jwt_ttl": _seconds(template.jwt_ttl),
        "hint": template.hint,
        "unattended_after": _seconds(template.unattended_after),
        "retire_after": _seconds(template.retire_after),
        "lifetime": _seconds(template.lifetime),
        "limit": template.limit,
        "needs_approval": template.needs_approval,
    }
    return {"name": template.name, "prefix": template.prefix, "spec": spec, "updated_at": now}


def _read(row: Row[Any]) -> StoredTemplate:
    spec = read_document(row.spec)
    template = Template(
        name=row.name,
        prefix=row.prefix,
        naming=Naming(spec["naming"]),
        match=tuple(map(Pattern.parse, spec["match"])),
        nodes=tuple(spec["nodes"]),
        kind=Kind(spec["kind"]),
        owner=spec["owner"],
        purpose=spec["purpose"],
        environment=spec["environment"],
        labels=spec["labels"],
        x509_ttl=timedelta(seconds=spec["x509_ttl"]),
        jwt_ttl=timedelta(seconds=spec["jwt_ttl"]),
        hint=spec["hint"],
        unattended_after=timedelta(seconds=spec["unattended_after"]),
        retire_after=timedelta(seconds=spec["retire_after"]),
        lifetime=timedelta(seconds=spec["lifetime"]),
        limit=spec["limit"],
        needs_approval=spec["needs_approval"],
    )
    return StoredTemplate(template, row.revision)


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())
