"""From the roles, resources and so on that manifests want to changes, told in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from troth.identity.plan import LEFT_ALONE, Action

MAX_SHOWN = 120


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
    plain: Mapping[str, Mapping[str, Any]],
    *,
    prune: bool,
) -> list[DeclaredChange[T]]:
    """Compare `wanted` with what is there of one kind; only `prune` removes.

    `plain` gives the fields of each as plain values, by ``wanted/NAME`` and ``stored/NAME``.
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
        new = plain[f"wanted/{one.name}"]
        if before is None:
            told = tuple(f"{path}: {_cut(value)}" for path, value in _flatten(new))
            changes.append(DeclaredChange(Action.ADD, kind, one.name, told, one))
            continue
        told = tuple(_compare(plain[f"stored/{one.name}"], new))
        action = Action.CHANGE if told else Action.KEEP
        changes.append(DeclaredChange(action, kind, one.name, told, one, before))
    order = (Action.REMOVE, Action.CHANGE, Action.ADD, Action.KEEP)
    changes.sort(key=lambda change: (order.index(change.action), change.name))
    return changes


def _compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before, after = dict(_flatten(old)), dict(_flatten(new))
    for path in dict.fromkeys((*before, *after)):
        was, now = before.get(path, "none"), after.get(path, "none")
        if was != now:
            yield f"{path}: {_cut(was)} → {_cut(now)}"


def _flatten(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, item in sorted(value.items()):
        if name == "name" and not path:
            continue
        where = f"{path}.{name}" if path else name
        if isinstance(item, Mapping):
            yield from _flatten(item, where)
        elif isinstance(item, list | tuple):
            yield where, ", ".join(_show(one) for one in item) or "none"
        else:
            yield where, str(item)


def _show(item: object) -> str:
    if isinstance(item, Mapping):
        return " ".join(f"{text}" for _, text in _flatten(item, "x"))
    return str(item)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
