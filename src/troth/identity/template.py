"""Templates: which processes get an identity of their own when they are seen for the first time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from troth.core.ids import IdentityId, SpiffeId, TrustDomain
from troth.identity.identity import Identity, Kind, State
from troth.identity.naming import VARIABLES, Naming, name_path
from troth.identity.pattern import Pattern
from troth.identity.readers import ANY_NODE
from troth.identity.selectors import Selector

MAX_TEMPLATES = 1_000


@dataclass(frozen=True, slots=True)
class Template:
    """What a manifest of kind Template says.

    An identity that it makes ends `unattended_after` its workload was seen last, and `lifetime`
    after its registration at the latest; it is retired `retire_after` that. With `needs_approval`
    it starts as proposed. `limit` bounds how many of its identities may live.
    """

    name: str
    prefix: str
    naming: Naming
    match: tuple[Pattern, ...]
    nodes: tuple[str, ...]
    kind: Kind
    owner: str
    purpose: str
    environment: str
    labels: Mapping[str, str]
    x509_ttl: timedelta
    jwt_ttl: timedelta
    hint: str
    unattended_after: timedelta
    retire_after: timedelta
    lifetime: timedelta
    limit: int
    needs_approval: bool

    def allows(self, node: str) -> bool:
        """Whether it holds on the node of that name."""
        return node in self.nodes or ANY_NODE in self.nodes


class Matching(Protocol):
    """What is needed of a template to find out whom it fits."""

    @property
    def name(self) -> str:
        """The template's name."""
        ...

    @property
    def match(self) -> tuple[Pattern, ...]:
        """The patterns that must all fit."""
        ...


T = TypeVar("T", bound=Matching)

Rank = tuple[int, int, int, int]


def rank_match(match: tuple[Pattern, ...]) -> Rank:
    """How special the patterns are; the larger one wins.

    More patterns, then more exact ones, then more fixed characters, then smaller ranges.
    """
    return (
        len(match),
        sum(pattern.is_exact for pattern in match),
        sum(pattern.literals for pattern in match),
        -sum(pattern.high - pattern.low for pattern in match),
    )


def fits_all(match: tuple[Pattern, ...], values: Mapping[str, str]) -> bool:
    """Whether every pattern fits what was attested for its attribute; none fits nobody."""
    return bool(match) and all(p.key in values and p.fits(values[p.key]) for p in match)


def read_values(attested: Iterable[Selector]) -> dict[str, str]:
    """Attribute → its value; an attribute attested twice counts as not attested."""
    values: dict[str, str] = {}
    twice = set()
    for selector in attested:
        if selector.key in values:
            twice.add(selector.key)
        values[selector.key] = selector.value
    return {key: value for key, value in values.items() if key not in twice}


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """The template that fits best, or None; `rivals` are several that fit equally well."""

    template: T | None
    rivals: tuple[str, ...] = ()


class Catalogue(Generic[T]):
    """Templates, so arranged that a process is compared with few of them."""

    def __init__(self, templates: Iterable[T] = ()) -> None:
        self._exact: dict[Selector, list[T]] = {}
        self._open: list[T] = []
        self._count = 0
        for one in templates:
            self._count += 1
            exact = next((p for p in one.match if p.is_exact), None)
            if exact is None:
                self._open.append(one)
            else:
                self._exact.setdefault(Selector(exact.key, exact.text), []).append(one)

    def __len__(self) -> int:
        return self._count

    def choose(self, attested: frozenset[Selector]) -> Choice[T]:
        """The one template for a process that proves `attested`."""
        if not self._count:
            return Choice(None)
        values = read_values(attested)
        likely = [one for selector in attested for one in self._exact.get(selector, ())]
        fitting = [one for one in (*likely, *self._open) if fits_all(one.match, values)]
        if not fitting:
            return Choice(None)
        best = max(rank_match(one.match) for one in fitting)
        winners = [one for one in fitting if rank_match(one.match) == best]
        if len(winners) > 1:
            return Choice(None, tuple(sorted(one.name for one in winners)))
        return Choice(winners[0])

    def list_nearest(self, attested: frozenset[Selector], most: int) -> list[tuple[T, Pattern]]:
        """Templates that lack one pattern, and that pattern: for explaining a refusal."""
        values = read_values(attested)
        found = []
        for one in (*self._open, *(t for group in self._exact.values() for t in group)):
            lacking = [p for p in one.match if p.key not in values or not p.fits(values[p.key])]
            if len(lacking) == 1:
                found.append((one, lacking[0]))
            if len(found) >= most:
                break
        return found


@dataclass(frozen=True, slots=True)
class Binding:
    """What makes a workload this one and no other: the values that its template asks for.

    `node` is where, if the template's names differ from node to node; `digest` stands for it all.
    """

    template: str
    selectors: tuple[Selector, ...]
    node: str
    path: str = field(compare=False)

    @property
    def digest(self) -> str:
        """64 hexadecimal digits, the same for the same workload of the same template."""
        parts = (self.template, self.node, *sorted(map(str, self.selectors)))
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def bind_workload(template: Template, attested: Iterable[Selector], node: str) -> Binding:
    """The binding of a process that `template` fits, seen on `node`."""
    values = read_values(attested)
    named = {name: values.get(key, "") for name, key in VARIABLES.items() if key}
    below = template.naming.render({**named, "node": node})
    return Binding(
        template=template.name,
        selectors=tuple(Selector(p.key, values[p.key]) for p in template.match),
        node=node if "node" in template.naming.variables else "",
        path=f"{template.prefix}/{below}",
    )


def make_identity(
    template: Template,
    binding: Binding,
    id: IdentityId,
    trust_domain: TrustDomain,
    node: str,
    now: datetime,
) -> Identity:
    """The identity of a workload on the node where it was seen: no DNS names, nothing beyond."""
    return Identity(
        id=id,
        name=name_path(binding.path),
        spiffe_id=SpiffeId.of(trust_domain, binding.path),
        kind=template.kind,
        owner=template.owner,
        purpose=template.purpose,
        environment=template.environment,
        labels=template.labels,
        selectors=binding.selectors,
        nodes=(node,),
        dns_names=(),
        x509_ttl=template.x509_ttl,
        jwt_ttl=template.jwt_ttl,
        hint=template.hint,
        expires_at=now + min(template.unattended_after, template.lifetime),
        state=State.PROPOSED if template.needs_approval else State.ACTIVE,
        state_reason="",
        managed=False,
        revision=1,
        created_at=now,
        updated_at=now,
        template=template.name,
    )


def refresh_identity(
    identity: Identity, template: Template, expires_at: datetime, now: datetime
) -> Identity:
    """The identity with a later end, and with what its template says by now."""
    return replace(
        identity,
        kind=template.kind,
        owner=template.owner,
        purpose=template.purpose,
        environment=template.environment,
        labels=template.labels,
        x509_ttl=template.x509_ttl,
        jwt_ttl=template.jwt_ttl,
        hint=template.hint,
        expires_at=expires_at,
        revision=identity.revision + 1,
        updated_at=now,
    )


def still_covers(template: Template, identity: Identity) -> bool:
    """Whether `template`, as it is now, would make such an identity on one of its nodes."""
    values = read_values(identity.selectors)
    return fits_all(template.match, values) and any(map(template.allows, identity.nodes))
