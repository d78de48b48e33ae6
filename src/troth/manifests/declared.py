"""From the roles, resources and so on that manifests want to changes, told in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Generic, Protocol, TypeVar

import msgspec

from troth.core.manifest.field import METADATA, Field
from troth.core.manifest.problem import Limits
from troth.core.manifest.reader import render_duration
from troth.identity.issuer import Condition, Rule
from troth.identity.plan import LEFT_ALONE, Action
from troth.manifests.reading import KINDS
from troth.policy.protection_manifest import PROTECTION
from troth.policy.role import Permission

MAX_SHOWN = 120
_FIELDS = {kind.name: (*METADATA[1:], *kind.spec) for kind in KINDS}
_EMPTY = ("", (), None)
_UNSAID = [(field.name, field.default(Limits())) for field in PROTECTION]
"""What a new resource is protected by where its manifest says nothing of it."""


class Declared(Protocol):
    """What a domain made of a manifest."""

    @property
    def name(self) -> str:
        """Its name, unique in its kind."""
        ...


T = TypeVar("T", bound=Declared)


@dataclass(frozen=True, slots=True)
class DeclaredChange(Generic[T]):
    """One step: add has a `wanted`, remove what is `stored`, change both."""

    action: Action
    kind: str
    name: str
    words: tuple[str, ...]
    wanted: T | None = None
    stored: T | None = None


def plan_declared(
    kind: str,
    wanted: Sequence[T],
    current: Iterable[T],
    *,
    prune: bool,
) -> list[DeclaredChange[T]]:
    """Compare `wanted` with what is there of one kind; only `prune` removes.

    The words are the manifest's own: its fields, and its way to write what they hold.
    """
    there = {one.name: one for one in current}
    names = {one.name for one in wanted}
    changes: list[DeclaredChange[T]] = []
    for name, stored in there.items():
        if name in names:
            continue
        if prune:
            words: tuple[str, ...] = ("removed: it is in no manifest",)
            changes.append(DeclaredChange(Action.REMOVE, kind, name, words, stored=stored))
        else:
            words = (LEFT_ALONE.replace("retire", "remove"),)
            changes.append(DeclaredChange(Action.KEEP, kind, name, words, stored=stored))
    for one in wanted:
        before = there.get(one.name)
        new = dict(_list_values(one, _FIELDS[kind]))
        if before is None:
            told = tuple(
                f"{path}: {_show(value)}"
                for path, value in new.items()
                if (path, value) not in _UNSAID
            )
            changes.append(DeclaredChange(Action.ADD, kind, one.name, told, one))
            continue
        told = tuple(_compare(dict(_list_values(before, _FIELDS[kind])), new))
        action = Action.CHANGE if told else Action.KEEP
        changes.append(DeclaredChange(action, kind, one.name, told, one, before))
    order = (Action.REMOVE, Action.CHANGE, Action.ADD, Action.KEEP)
    changes.sort(key=lambda change: (order.index(change.action), change.name))
    return changes


def _compare(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    for path in dict.fromkeys((*before, *after)):
        was, now = before.get(path), after.get(path)
        if was != now:
            yield f"{path}: {_show(was)} → {_show(now)}"


def _list_values(
    value: object, fields: Iterable[Field], path: str = ""
) -> Iterator[tuple[str, object]]:
    """What a manifest says, by its fields' own names; nothing of what is empty.

    Each entry of a mapping and each resource or identity that a list speaks of stands alone, so
    that a change names it.
    """
    for field in fields:
        where = f"{path}{field.name}"
        if field.members:
            yield from _list_values(getattr(value, field.name), field.members, f"{where}.")
            continue
        found = getattr(value, field.attribute)
        if isinstance(found, Mapping):
            yield from ((f"{where}.{key}", item) for key, item in sorted(found.items()))
        elif isinstance(found, tuple) and found and isinstance(found[0], Permission | Rule):
            yield from ((f"{where}: {name}", of) for name, of in _group(found).items())
        elif found not in _EMPTY:
            yield where, found


def _group(found: Iterable[Permission | Rule]) -> dict[str, tuple[object, ...]]:
    """What is said of each resource or identity, in order."""
    groups: dict[str, tuple[object, ...]] = {}
    for one in found:
        if isinstance(one, Permission):
            told = one.actions
            if one.when:  # a permission on another condition is another permission
                told = (f"{', '.join(one.actions)} when {_write_condition(one.when)}",)
            groups[one.resource] = (*groups.get(one.resource, ()), *told)
        else:
            groups[one.identity] = (*groups.get(one.identity, ()), one)
    return groups


def _write_condition(when: tuple[object, ...]) -> str:
    """A condition as one line of YAML, which JSON is too."""
    return msgspec.json.encode(when[0] if len(when) == 1 else when).decode()


def _show(value: object) -> str:
    """As a manifest would write it, cut to what people read."""
    if value in _EMPTY:
        return "none"
    text = ", ".join(map(_write, value)) if isinstance(value, tuple) else _write(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def _write(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        return render_duration(value)
    if isinstance(value, Rule):
        return f"{{{', '.join(map(_write, value.conditions))}}}"
    if isinstance(value, Condition):
        return f"{value.name}: {' or '.join(value.texts)}"
    text = str(value)
    if "\n" in text:  # certificates in PEM begin alike
        return f"{text.count('BEGIN')} in PEM, sha256 {sha256(text.encode()).hexdigest()[:16]}"
    return text
