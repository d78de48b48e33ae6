"""The gate: whether a caller may do something here, by the rules that hold everywhere else too.

A caller is first admitted to an operation: it is refused if nothing it might be done to would be
permitted. Where the permission depends on what it is done to, the operation asks again once it
knows. Who comes over the admin socket with the role admin can't be locked out by a forbid: that uid
could change the database itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from troth.core.clock import Clock
from troth.core.errors import Denied
from troth.identity.identity import Identity, IdentitySpec
from troth.live.bundle import Bundle
from troth.live.snapshot import Snapshot
from troth.operations.call import ANONYMOUS, Caller, Target
from troth.operations.decision import DecisionMaker, Subject
from troth.policy.decision import Question, decide
from troth.policy.explanation import explain
from troth.policy.fact import Facts, Value
from troth.policy.index import PolicyIndex
from troth.policy.inquiry import NO_FACTS
from troth.policy.permissions import decide_operation
from troth.policy.rule import (
    IDENTITY,
    SYSTEM,
    Effect,
    Principal,
    Rule,
    applies,
    is_over,
    mark_principal,
)
from troth.policy.rulebook import RuleBook
from troth.policy.system import (
    name_system_resource,
    name_system_role,
    name_verb,
)

TARGETED = frozenset(
    {
        "identity.ls",
        "identity.show",
        "identity.register",
        "identity.activate",
        "identity.suspend",
        "identity.resume",
        "identity.quarantine",
        "identity.release",
        "identity.retire",
        "instance.ls",
        "instance.lock",
        "instance.unlock",
        "certificate.ls",
        "certificate.revoke",
        "client_secret.create",
        "client_secret.ls",
        "client_secret.revoke",
        "resource.ls",
        "resource.show",
        "token.revoke",
        "trust.ls",
        "trust.show",
        "trust.add",
        "trust.withdraw",
    }
)
"""The operations that ask again once they know what they are done to. All others are decided before
they begin, without a target: a condition on one refuses."""


class Labelled(Protocol):
    """What a manifest declares."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        ...

    @property
    def owner(self) -> str:
        """Who answers for it."""
        ...


def target_of(identity: Identity | IdentitySpec) -> Target:
    """An identity as something that is acted on."""
    return Target(identity.name, identity.owner, identity.environment, identity.labels)


def target_of_declared(declared: Labelled) -> Target:
    """What a manifest declares as something that is acted on."""
    environment = getattr(declared, "environment", "")
    return Target(declared.name, declared.owner, environment, declared.labels)


@dataclass(frozen=True, slots=True, eq=False)
class _Rules:
    """The rules about troth itself, of one rule book. `touched` are its resources that manifests
    speak of; all others are as they come."""

    book: RuleBook
    index: PolicyIndex
    touched: frozenset[str]
    lock: threading.Lock = field(default_factory=threading.Lock)


def _pick_rules(book: RuleBook) -> _Rules:
    rules = [rule for rule in book.index.rules if _is_about_system(rule)]
    touched = {
        resource for rule in rules if not rule.id.startswith(_OWN) for resource in rule.resources
    }
    return _Rules(book, PolicyIndex(rules), frozenset(touched))


_OWN = f"role/{SYSTEM}"
"""How the ids begin of the rules that come with troth."""


def _is_about_system(rule: Rule) -> bool:
    return any(resource.startswith(SYSTEM) for resource in rule.resources)


@dataclass(frozen=True, slots=True)
class CallerGate:
    """What one caller may do in one call of `operation`. Any thread may ask.

    With `certain`, the operation is permitted whatever it is done to.
    """

    caller: Caller
    operation: str
    certain: bool
    clock: Clock
    rules: _Rules
    principal: Principal
    facts: Facts = field(default_factory=dict)

    def check(self, target: Target, operation: str = "") -> None:
        """Raise `Denied` unless that may be done to `target`."""
        refusal = self._find_refusal(target, operation or self.operation)
        if refusal:
            raise Denied(refusal)

    def allows(self, target: Target, operation: str = "") -> bool:
        """Whether that may be done to `target`."""
        return not self._find_refusal(target, operation or self.operation)

    def _find_refusal(self, target: Target, operation: str) -> str:
        if operation == self.operation and self.certain:
            return ""
        resource = name_system_resource(operation)
        basic = decide_operation(self.caller.roles, operation)
        if resource not in self.rules.touched or is_unlockable(self.caller):
            return "" if basic.allowed else basic.reason
        with self.rules.lock:
            return self._ask(resource, operation, target)

    def _ask(self, resource: str, operation: str, target: Target) -> str:
        facts = {**self.facts, "resource": describe_target(resource, target)}
        question = Question(self.principal, name_verb(operation), resource, facts)
        now = self.clock.now()
        decision = decide(self.rules.index, question, now)
        if decision.allowed:
            return ""
        why = explain(self.rules.book, decision, now)
        wanted = " and ".join(one.words for one in why.missing)
        tail = f" It would be permitted with {wanted}." if wanted else ""
        name = f" on {target.id[:128]!r}" if target.id else ""
        return f"This caller may not do {operation}{name}: {why.reason}{tail}"


def describe_target(resource: str, target: Target) -> dict[str, Value]:
    """The facts of group ``resource`` about what an operation is done to."""
    facts: dict[str, Value] = {
        "name": resource,
        **{f"labels.{key}": value for key, value in target.labels.items()},
    }
    for key, value in (
        ("id", target.id),
        ("owner", target.owner),
        ("environment", target.environment),
    ):
        if value:
            facts[key] = value
    return facts


def is_unlockable(caller: Caller) -> bool:
    """Whether no forbid applies to a caller."""
    return caller.principal.startswith("uid:") and "admin" in caller.roles


class Gatekeeper:
    """Admits callers to operations. Belongs to one event loop."""

    def __init__(self, decider: DecisionMaker, snapshot: Snapshot, clock: Clock) -> None:
        self._decider = decider
        self._snapshot = snapshot
        self._clock = clock
        self._rules: _Rules | None = None

    async def admit(self, caller: Caller, operation: str) -> CallerGate:
        """What the caller may do in a call of `operation`; `Denied` if it may not begin."""
        bundle = self._snapshot.bundle or await self._decider.read_bundle()
        rules = self._load(bundle)
        if not self._is_asked(rules, caller, operation):
            return self._admit_simply(rules, caller, operation)
        return self._admit(rules, caller, operation, *await self._find_principal(bundle, caller))

    def confirm(self, caller: Caller, operation: str) -> bool:
        """Whether the caller certainly may call `operation` still, from memory alone; False if
        somebody must look closer. For streams, with each of their values."""
        rules = self._rules if self._snapshot.bundle is None else self._load(self._snapshot.bundle)
        if rules is None or self._is_asked(rules, caller, operation):
            return False
        return decide_operation(caller.roles, operation).allowed

    def _load(self, bundle: Bundle) -> _Rules:
        if self._rules is None or self._rules.book is not bundle.rules:
            self._rules = _pick_rules(bundle.rules)
        return self._rules

    def _is_asked(self, rules: _Rules, caller: Caller, operation: str) -> bool:
        """Whether manifests have a say: in this operation, or in whatever it does to what."""
        if is_unlockable(caller) or caller.principal == ANONYMOUS.principal:
            return False
        if operation.startswith("manifest."):
            return bool(rules.touched)
        return name_system_resource(operation) in rules.touched

    def _admit_simply(self, rules: _Rules, caller: Caller, operation: str) -> CallerGate:
        decision = decide_operation(caller.roles, operation)
        if not decision.allowed:
            raise Denied(decision.reason)
        principal = Principal("caller", caller.principal)
        return CallerGate(caller, operation, True, self._clock, rules, principal)

    async def _find_principal(self, bundle: Bundle, caller: Caller) -> tuple[Principal, Facts]:
        """Who calls, as the rules mean it."""
        roles = [name_system_role(role) for role in sorted(caller.roles)]
        roles += caller.declared
        if not caller.principal.startswith("spiffe://"):
            kind, _, name = caller.principal.partition(":")
            return Principal(kind, name, bundle.rules.expand(roles)), NO_FACTS
        party = await self._decider.find_party(bundle, Subject(IDENTITY, caller.principal))
        if party.refusal:
            return Principal("caller", caller.principal, tuple(roles)), NO_FACTS
        own = party.principal
        held = bundle.rules.expand((*own.roles, *roles))
        return Principal(own.type, own.id, held), party.facts

    def _admit(
        self,
        rules: _Rules,
        caller: Caller,
        operation: str,
        principal: Principal,
        facts: Facts,
    ) -> CallerGate:
        resource, verb = name_system_resource(operation), name_verb(operation)
        marks = mark_principal(principal)
        now = self._clock.now()
        found = [
            rule for rule in rules.index.find_rules(marks, resource, verb) if not is_over(rule, now)
        ]
        certain = _is_certain(found, marks, resource, verb, facts)
        gate = CallerGate(caller, operation, certain, self._clock, rules, principal, facts)
        if certain:
            return gate
        if operation not in TARGETED:
            gate.check(Target())
        elif not _is_possible(found, marks, resource, verb, facts):
            gate.check(Target())
            raise Denied(f"This caller may not do {operation}.")
        return gate


def _is_certain(
    rules: Iterable[Rule], marks: frozenset[str], resource: str, verb: str, facts: Facts
) -> bool:
    """Whether it is permitted whatever it is done to, and whatever else comes."""
    permitted = False
    for rule in rules:
        found = None if rule.cedar else applies(rule, marks, resource, verb, facts)
        if rule.effect is Effect.FORBID and found is not False:
            return False
        permitted = permitted or (rule.effect is Effect.PERMIT and found is True)
    return permitted


def _is_possible(
    rules: Iterable[Rule], marks: frozenset[str], resource: str, verb: str, facts: Facts
) -> bool:
    """Whether it is permitted to something."""
    possible = False
    for rule in rules:
        found = None if rule.cedar else applies(rule, marks, resource, verb, facts)
        if rule.effect is Effect.FORBID and found is True:
            return False
        possible = possible or (rule.effect is Effect.PERMIT and found is not False)
    return possible
