"""A service's share of the rule book: the rules that are about what it serves, and whom they can
permit something. Cut by the index, so that it costs what the share has, not what the book has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from troth.live.rules import read_resource, read_rule, show_resource, show_rule
from troth.policy.resource import Resource
from troth.policy.role import Role
from troth.policy.rule import Effect, Rule
from troth.policy.rulebook import RuleBook, make_compiled_book
from troth.wire.api.rules import RuleSet

Includers = Mapping[str, frozenset[str]]
"""Role → the roles that include it, one step."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom rules can permit something: holders of `roles`, identities of these `names`, or
    `anyone`. All others are denied whatever is forbidden."""

    roles: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    anyone: bool = False

    def means(self, name: str, roles: Iterable[str]) -> bool:
        """Whether an identity with these roles may be permitted something."""
        return self.anyone or name in self.names or not self.roles.isdisjoint(roles)


@dataclass(frozen=True, slots=True)
class Share:
    """What a service that serves some resources is told of the rules. Shared by all who serve the
    same: nobody changes it."""

    served: tuple[str, ...]
    rules: RuleSet
    wanted: Wanted = field(default_factory=Wanted)


def find_includers(roles: Iterable[Role]) -> Includers:
    """Which roles include which: made once for each rule book."""
    found: dict[str, set[str]] = {}
    for role in roles:
        for name in role.includes:
            found.setdefault(name, set()).add(role.name)
    return {name: frozenset(names) for name, names in found.items()}


def list_served(book: RuleBook, server: str) -> tuple[str, ...]:
    """The names of the resources that the identity of that name serves, in order."""
    return tuple(sorted(one.name for one in book.resources.values() if server in one.servers))


def cut_share(book: RuleBook, includers: Includers, served: tuple[str, ...]) -> Share:
    """The share of whoever serves these resources, which the book has."""
    rules = book.index.find_about({name: book.resources[name].actions for name in served})
    named = {role for rule in rules for role in _list_roles(rule)}
    known = _climb(named, includers)
    kept = frozenset(served)
    views = [show_rule(rule, kept) for rule in rules]
    resources = [show_resource(one) for one in _list_resources(book, rules, served, known)]
    roles = {
        name: sorted(known.intersection(book.roles[name].includes))
        for name in sorted(known)
        if name in book.roles
    }
    content = msgspec.json.encode((served, resources, roles, views))
    digest = hashlib.sha256(content).hexdigest()[:32]
    return Share(
        served,
        RuleSet(
            digest=digest,
            epoch=book.epoch,
            served=served,
            resources=resources,
            roles=roles,
            rules=views,
        ),
        _find_wanted(rules, includers),
    )


def read_rules(found: RuleSet) -> RuleBook:
    """The rule book of a share; `Internal` for what isn't understood."""
    return make_compiled_book(
        found.epoch,
        [Role(name, {}, "", "", tuple(includes), ()) for name, includes in found.roles.items()],
        map(read_resource, found.resources),
        list(map(read_rule, found.rules)),
    )


def _list_roles(rule: Rule) -> Iterable[str]:
    yield from rule.subjects.roles
    for one in rule.exceptions:
        yield from one.subjects.roles


def _climb(names: Iterable[str], includers: Includers) -> frozenset[str]:
    """These roles, and all that include them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(includers.get(name, ()))
    return frozenset(found)


def _find_wanted(rules: Iterable[Rule], includers: Includers) -> Wanted:
    permits = [rule.subjects for rule in rules if rule.effect is Effect.PERMIT]
    return Wanted(
        _climb((role for one in permits for role in one.roles), includers),
        frozenset(name for one in permits for name in one.identities),
        any(one.anyone for one in permits),
    )


def _list_resources(
    book: RuleBook, rules: Iterable[Rule], served: Iterable[str], roles: frozenset[str]
) -> list[Resource]:
    """The resources that are served, those whose instances may be whoever asks; and of those among
    which questions are sorted, the patterns."""
    types = {type_ for rule in rules for type_ in rule.subjects.types}
    anyone = any(rule.subjects.anyone for rule in rules if rule.effect is Effect.PERMIT)
    for one in book.list_with_instances():
        if anyone or any(not roles.isdisjoint(instance.roles) for instance in one.instances):
            types.add(one.entity_type)
    found = {name: book.resources[name] for name in served}
    rivals = [
        rival
        for type_ in {one.entity_type for one in found.values()}
        for rival in book.list_of_type(type_)
    ]
    found |= {one.name: one for type_ in types for one in book.list_of_type(type_)}
    for one in rivals:
        found.setdefault(one.name, _strip(one))
    return [found[name] for name in sorted(found)]


def _strip(resource: Resource) -> Resource:
    """A resource of which nothing is told but which things are its own."""
    return Resource(
        name=resource.name,
        labels={},
        owner="",
        purpose="",
        identifiers=(),
        servers=(),
        actions={},
        passes_to=(),
        token=resource.token,
        type=resource.type,
        pattern=resource.pattern,
    )
