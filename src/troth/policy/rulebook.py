"""The rule book: everything that manifests declare about access, compiled and ready to be asked.

What doesn't compile any more, since what it speaks of was removed, permits nothing and forbids
everything that it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

from troth.core import glob
from troth.core.errors import TrothError
from troth.core.manifest.problem import Limits, Node, PlainDocument
from troth.core.tier import Tier
from troth.policy.condition import (
    ALWAYS,
    Any_,
    Condition,
    Network,
    Not,
    Operator,
    Test,
    every,
)
from troth.policy.condition_manifest import Scope, read_condition
from troth.policy.fact import BY_NAME, FactKind
from troth.policy.index import PolicyIndex
from troth.policy.policy import BuiltIn, Policy, Segment
from troth.policy.raw import close_raw, read_raw
from troth.policy.resource import Instance, Resource
from troth.policy.role import ANY_ACTION, Role, expand_roles
from troth.policy.rule import EVERYBODY, Effect, Rule, Subjects

NEVER = Any_()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RuleBook:
    """What is declared, as of an epoch (a position of the journal), and its rules.

    `closures` are the roles that a role comes to, itself among them; `mistakes` are sentences about
    what doesn't compile.
    """

    epoch: int
    roles: Mapping[str, Role]
    resources: Mapping[str, Resource]
    policies: Mapping[str, Policy]
    segments: Mapping[str, Segment]
    index: PolicyIndex
    mistakes: tuple[str, ...] = ()
    _by_type: Mapping[str, tuple[Resource, ...]] = field(default_factory=dict, repr=False)
    _instances: Mapping[str, Mapping[str, Instance]] = field(default_factory=dict, repr=False)
    _whole: Mapping[str, Resource] = field(default_factory=dict, repr=False)
    """By type, those that have all of their type."""
    _closures: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict, repr=False)
    _matched: dict[tuple[str, str], Resource | None] = field(default_factory=dict, repr=False)
    _exact: Mapping[tuple[str, str], Resource] = field(default_factory=dict, repr=False)
    _known: Mapping[tuple[str, str], tuple[Instance, ...]] = field(default_factory=dict, repr=False)
    _kinds: Mapping[str, Mapping[str, FactKind]] = field(default_factory=dict, repr=False)

    def expand(self, names: Iterable[str]) -> tuple[str, ...]:
        """The roles of these names and all that they include, in order; a role that no manifest
        explains is held all the same, and policies may speak of it."""
        key = tuple(names)
        known = self._closures.get(key)
        if known is None:
            included = (role.name for role in expand_roles(key, self.roles))
            known = tuple(sorted({*key, *included}))
            if len(self._closures) < _MOST_REMEMBERED:
                self._closures[key] = known
        return known

    def match(self, type_: str, id_: str) -> Resource | None:
        """The resource that one of that type and id belongs to: of those whose pattern fits, the
        one whose pattern says most."""
        whole = self._whole.get(type_)
        if whole is not None:
            return whole
        key = (type_, id_)
        if key in self._matched:
            return self._matched[key]
        found = self._exact.get(key) or next(
            (one for one in self._by_type.get(type_, ()) if glob.matches(one.pattern, id_)),
            None,
        )
        if len(self._matched) < _MOST_REMEMBERED and len(id_) + len(type_) <= _LONGEST:
            self._matched[key] = found
        return found

    def find_instance(self, resource: Resource, id_: str) -> Instance | None:
        """The instance of that id that a resource declares."""
        known = self._instances.get(resource.name)
        return None if known is None else known.get(id_)

    def list_with_instances(self) -> list[Resource]:
        """The resources of which some are known by name."""
        return [self.resources[name] for name in self._instances]

    def list_of_type(self, type_: str) -> tuple[Resource, ...]:
        """The resources of that type."""
        return self._by_type.get(type_, ())

    def list_instances(self, type_: str, id_: str) -> tuple[Instance, ...]:
        """The instances of that type and id; several resources may each declare it."""
        return self._known.get((type_, id_), ())

    def find_kinds(self, type_: str) -> Mapping[str, FactKind]:
        """The attributes of one of that type, those that two resources disagree about left out."""
        return self._kinds.get(type_, {})


_MOST_REMEMBERED = 100_000
_LONGEST = 256
"""Characters of a name that is remembered: it may come from anybody."""


def make_rule_book(
    epoch: int,
    roles: Iterable[Role],
    resources: Iterable[Resource],
    policies: Iterable[Policy] = (),
    segments: Iterable[Segment] = (),
) -> RuleBook:
    """The rule book of these declarations."""
    by_name = {one.name: one for one in resources}
    compiler = _Compiler(
        {one.name: one for one in roles},
        by_name,
        {one.name: one for one in policies},
        {one.name: one for one in segments},
    )
    index = PolicyIndex(compiler.list_rules())
    return _bind(epoch, compiler, index)


def make_compiled_book(
    epoch: int, roles: Iterable[Role], resources: Iterable[Resource], rules: Iterable[Rule]
) -> RuleBook:
    """The rule book of rules that somebody else has compiled of what is declared."""
    by_name = {one.name: one for one in resources}
    holder = _Compiler({one.name: one for one in roles}, by_name, {}, {})
    return _bind(epoch, holder, PolicyIndex(rules))


def _bind(epoch: int, compiler: _Compiler, index: PolicyIndex) -> RuleBook:
    resources = compiler.resources
    by_type: dict[str, list[Resource]] = {}
    for one in resources.values():
        by_type.setdefault(one.entity_type, []).append(one)
    return RuleBook(
        epoch,
        compiler.roles,
        resources,
        compiler.policies,
        compiler.segments,
        index,
        tuple(compiler.mistakes),
        {
            type_: tuple(sorted(found, key=lambda one: glob.weigh(one.pattern), reverse=True))
            for type_, found in by_type.items()
        },
        {
            one.name: {instance.id: instance for instance in one.instances}
            for one in resources.values()
            if one.instances
        },
        _whole={
            type_: found[0]
            for type_, found in by_type.items()
            if len(found) == 1 and found[0].pattern == glob.ANY
        },
        _exact={
            (one.entity_type, one.pattern): one
            for one in reversed([*resources.values()])  # of two alike the first counts
            if glob.ANY not in one.pattern
        },
        _known=_index_instances(resources.values()),
        _kinds={type_: _merge_attributes(found) for type_, found in by_type.items()},
    )


def _index_instances(
    resources: Iterable[Resource],
) -> dict[tuple[str, str], tuple[Instance, ...]]:
    found: dict[tuple[str, str], tuple[Instance, ...]] = {}
    for one in resources:
        for instance in one.instances:
            key = (one.entity_type, instance.id)
            found[key] = (*found.get(key, ()), instance)
    return found


def _merge_attributes(resources: Iterable[Resource]) -> dict[str, FactKind]:
    merged = _merge_kinds(
        ("subject", key, kind) for one in resources for key, kind in one.attributes.items()
    )
    return {key: kind for (_, key), kind in merged.items()}


_Done = dict[tuple[str, str], tuple[Policy | Role, tuple[Rule, ...]]]


class _Memory:
    """What was compiled last: of ten thousand policies mostly one has changed. What a policy comes
    to follows from what it says and from what its words mean, so nothing else is asked for."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._known: tuple[tuple[object, _Done], ...] = ()

    def open(self, *meaning: object) -> _Done:
        """What was compiled while words meant the same; anybody may add to it."""
        for there, done in self._known:
            if there == meaning and len(done) < self._capacity:
                return done
        done = {}
        self._known = ((meaning, done), *self._known[:1])
        return done


_MEMORY = _Memory(_MOST_REMEMBERED * 2)


class _Compiler:
    """Makes rules of declarations, and notes what it can't."""

    def __init__(
        self,
        roles: Mapping[str, Role],
        resources: Mapping[str, Resource],
        policies: Mapping[str, Policy],
        segments: Mapping[str, Segment],
    ) -> None:
        self.roles, self.resources = roles, resources
        self.policies, self.segments = policies, segments
        self.mistakes: list[str] = []
        self._networks: dict[str, tuple[Network, ...]] = {
            one.name: tuple(map(ip_network, one.networks)) for one in segments.values()
        }
        self._subject_kinds = list_subject_kinds(resources.values())
        self._scopes: dict[tuple[str, ...], Scope] = {}
        self._kinds: dict[tuple[str, str], FactKind | None] = {}
        self._done = _MEMORY.open(
            {
                one.name: (one.attributes, one.action_attributes)
                for one in resources.values()
                if one.attributes or one.action_attributes
            },
            self._subject_kinds,
            self._networks,
        )

    def list_rules(self) -> list[Rule]:
        """All of them: what is built in, then policies, then the permissions of roles."""
        policies = [self._recall_policy(policy) for policy in self.policies.values()]
        relaxing = tuple(
            rule
            for policy, rule in zip(self.policies.values(), policies, strict=True)
            if BuiltIn.ENVIRONMENTS in policy.relaxes and rule.effect is Effect.PERMIT
        )
        anywhere = tuple(rule for rule in relaxing if not rule.resources)
        by_name: dict[str, list[Rule]] = {}
        for rule in relaxing:
            for name in rule.resources:
                by_name.setdefault(name, []).append(rule)

        def choose(resource: Resource) -> tuple[Rule, ...]:
            here = by_name.get(resource.name)
            return (*anywhere, *here) if here else anywhere  # mostly one tuple for all

        rules = [rule for one in self.resources.values() for rule in _guard(one, choose(one))]
        rules += policies
        for role in self.roles.values():
            rules += self._recall_permissions(role)
        return rules

    def _recall_policy(self, policy: Policy) -> Rule:
        """As it was compiled before, if it is the same."""
        known = self._done.get(("policy", policy.name))
        if known is not None and (known[0] is policy or known[0] == policy):
            return known[1][0]
        before = len(self.mistakes)
        rule = self._make_policy(policy)
        if len(self.mistakes) == before:
            self._done["policy", policy.name] = (policy, (rule,))
        return rule

    def _recall_permissions(self, role: Role) -> tuple[Rule, ...]:
        known = self._done.get(("role", role.name))
        if known is not None and (known[0] is role or known[0] == role):
            return known[1]
        before = len(self.mistakes)
        rules = tuple(self._list_permissions(role))
        if len(self.mistakes) == before:
            self._done["role", role.name] = (role, rules)
        return rules

    def _list_permissions(self, role: Role) -> Iterator[Rule]:
        for number, permission in enumerate(role.permissions, 1):
            every_action = ANY_ACTION in permission.actions
            id_ = f"role/{role.name}/{number}"
            resources = (permission.resource,)
            condition = self._compile(id_, permission.when, resources)
            yield Rule(
                id=id_,
                effect=Effect.PERMIT,
                subjects=Subjects(roles=(role.name,)),
                actions=() if every_action else permission.actions,
                resources=resources,
                condition=NEVER if condition is None else condition,
            )

    def _make_policy(self, policy: Policy) -> Rule:
        id_ = f"policy/{policy.name}"
        if policy.cedar:
            return self._make_raw(id_, policy)
        condition = self._compile(id_, policy.when, policy.resources)
        if condition is None:
            condition = NEVER if policy.effect is Effect.PERMIT else ALWAYS
        return Rule(
            id=id_,
            effect=policy.effect,
            subjects=policy.subjects,
            actions=policy.actions,
            resources=policy.resources,
            condition=condition,
            expires=policy.expires_at,
        )

    def _make_raw(self, id_: str, policy: Policy) -> Rule:
        try:
            return read_raw(id_, policy.cedar, policy.expires_at, self.find_kind)
        except TrothError as error:
            self.mistakes.append(f"{id_}: {error.detail}")
            closed = close_raw(id_, policy.cedar, policy.expires_at)
            return closed or Rule(id_, Effect.PERMIT, EVERYBODY, condition=NEVER)

    def find_kind(self, group: str, key: str) -> FactKind | None:
        """The kind of an attribute that some resource declares."""
        if not self._kinds:
            for one in self.resources.values():
                for name, kind in one.attributes.items():
                    self._kinds.setdefault(("", name), kind)
                for name, kind in one.action_attributes.items():
                    self._kinds.setdefault(("action", name), kind)
        return self._kinds.get((group if group == "action" else "", key))

    def _compile(
        self, id_: str, when: tuple[Any, ...], resources: tuple[str, ...]
    ) -> Condition | None:
        """The condition; None if it doesn't compile."""
        if not when:
            return ALWAYS
        problems: list[Any] = []
        document = PlainDocument(list(when), id_)
        node = Node(list(when), (), document, Limits(), _EPOCH, problems)
        found = read_condition(node, self.scope_of(resources))
        if not problems:
            return found
        self.mistakes += (f"{one.source}: {one.path}: {one.message}" for one in problems)
        return None

    def scope_of(self, resources: tuple[str, ...]) -> Scope:
        """What names mean in conditions about these resources; about any, if there are none."""
        found = self._scopes.get(resources)
        if found is None:
            names = resources or tuple(self.resources)
            found = self._scopes[resources] = scope_conditions(
                (self.resources[name] for name in names if name in self.resources),
                self._subject_kinds,
                self._networks,
            )
        return found


def list_subject_kinds(resources: Iterable[Resource]) -> dict[tuple[str, str], FactKind]:
    """The attributes of subjects that aren't identities: instances of any type can ask."""
    return _merge_kinds(
        ("subject", key, kind)
        for one in resources
        if one.instances
        for key, kind in one.attributes.items()
    )


def scope_conditions(
    resources: Iterable[Resource],
    subjects: Mapping[tuple[str, str], FactKind],
    networks: Mapping[str, tuple[Network, ...]],
    *,
    offline: bool = False,
    whole: bool = True,
) -> Scope:
    """What names mean in conditions about these resources. An attribute that two of them declare
    with different kinds means nothing. Offline segments may be declared elsewhere, and attributes
    too where the resources aren't the `whole`."""
    kinds = _merge_kinds(
        found
        for one in resources
        for found in (
            *(("resource", key, kind) for key, kind in one.attributes.items()),
            *(("action", key, kind) for key, kind in one.action_attributes.items()),
        )
    )
    return Scope({**subjects, **kinds}, networks, not whole, offline)


def _merge_kinds(
    found: Iterable[tuple[str, str, FactKind]],
) -> dict[tuple[str, str], FactKind]:
    kinds: dict[tuple[str, str], FactKind | None] = {}
    for group, key, kind in found:
        kinds[group, key] = kind if kinds.get((group, key), kind) is kind else None
    return {place: kind for place, kind in kinds.items() if kind is not None}


def _guard(resource: Resource, relaxing: tuple[Rule, ...]) -> Iterator[Rule]:
    """What is forbidden at a resource without anybody having to say so."""
    here = (resource.name,)
    if resource.environment:
        environment = BY_NAME["identity.environment"]
        yield Rule(
            id=f"troth/environments/{resource.name}",
            effect=Effect.FORBID,
            subjects=EVERYBODY,
            resources=here,
            condition=every(
                (
                    Test(environment, Operator.KNOWN),
                    Not(Test(environment, Operator.IN, (resource.environment,))),
                )
            ),
            exceptions=relaxing,
        )
    if resource.minimum_tier.rank:
        enough = tuple(tier.value for tier in Tier if tier.rank >= resource.minimum_tier.rank)
        words = f"trust.tier ≥ {resource.minimum_tier.value}"
        yield Rule(
            id=f"troth/minimum-tier/{resource.name}",
            effect=Effect.FORBID,
            subjects=EVERYBODY,
            resources=here,
            condition=Not(Test(BY_NAME["trust.tier"], Operator.IN, enough, words=words)),
        )
    audiences = resource.audiences or resource.identifiers
    if audiences:
        audience = BY_NAME["request.audience"]
        yield Rule(
            id=f"troth/audience/{resource.name}",
            effect=Effect.FORBID,
            subjects=EVERYBODY,
            resources=here,
            condition=every(
                (
                    Test(audience, Operator.KNOWN),
                    Not(Test(audience, Operator.MEETS, audiences)),
                )
            ),
        )
