"""Registrations that a process could confuse: the same boundary, told apart by the program alone.

The kernel vouches for the uid, the unit and the container. Under one and the same of these, a
program can pass for another (see docs: attestation), so two identities that share them there are
as safe as the less trusted of the two programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from troth.identity.readers import ANY_NODE
from troth.identity.selectors import BOUNDARIES, Selector


class Registration(Protocol):
    """What identities and their specs have in common."""

    @property
    def name(self) -> str:
        """The name that people use."""
        ...

    @property
    def selectors(self) -> tuple[Selector, ...]:
        """What a process must prove."""
        ...

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where it may run."""
        ...


@dataclass(frozen=True, slots=True)
class Overlap:
    """`name` shares its boundary with `other`, which came earlier; `words` say what follows."""

    name: str
    other: str
    words: str


def find_overlaps(registrations: Iterable[Registration]) -> list[Overlap]:
    """For each registration the first earlier one that shares its boundary on some node."""
    groups: dict[frozenset[Selector], dict[str, Registration]] = {}
    found: list[Overlap] = []
    for one in registrations:
        boundary = frozenset(s for s in one.selectors if s.key in BOUNDARIES)
        if not boundary:
            continue
        nodes = groups.setdefault(boundary, {})
        other = _find_neighbour(one, nodes)
        if other is not None:
            found.append(Overlap(one.name, other.name, _explain_overlap(one, other, boundary)))
        for node in one.nodes:
            nodes.setdefault(node, one)
    return found


def _find_neighbour(one: Registration, nodes: dict[str, Registration]) -> Registration | None:
    if ANY_NODE in one.nodes:
        return next(iter(nodes.values()), None)
    return next((nodes[name] for name in (*one.nodes, ANY_NODE) if name in nodes), None)


def _explain_overlap(one: Registration, other: Registration, boundary: frozenset[Selector]) -> str:
    shared = join_selectors(sorted(boundary))
    if set(one.selectors) == set(other.selectors):
        return f"asks for the same selectors as '{other.name}': each process obtains both."
    return (
        f"shares {shared} with '{other.name}': only the program tells them apart there, and a "
        "program can pass for another under the same uid. Give each its own uid, unit or container."
    )


def join_selectors(selectors: Sequence[Selector]) -> str:
    """``unix:uid:1 and unix:path:/bin/x``."""
    return " and ".join(str(s) for s in selectors)
