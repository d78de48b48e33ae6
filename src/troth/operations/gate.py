"""The gate: whether a caller may do something here, by the rules that hold everywhere else too.

A caller is first admitted to an operation: it is refused if nothing it might be done to would be
permitted. Where the permission depends on what it is done to, the operation asks again once it
knows, mostly in a thread of the store: so these rules have an index of their own, and a lock. Who
comes over the admin socket with the role admin can't be locked out by a forbid: that uid could
change the database itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from troth.core.address import read_address
from troth.core.clock import Clock
from troth.core.errors import Denied
from troth.live.bundle import Bundle
from troth.live.snapshot import Snapshot
from troth.operations.call import ANONYMOUS, OPEN, Caller, Gate, Target
from troth.operations.decision import DecisionMaker, Subject
from troth.policy.condition import Operator, list_tests
from troth.policy.decision import Decision, Question, decide
from troth.policy.explanation import Explanation, explain
from troth.policy.fact import Facts, Value, find_value
from troth.policy.index import PolicyIndex
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
    list_system_resources,
    name_noun,
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
        "device.invite",
        "resource.ls",
        "resource.show",
        "token.revoke",
        "trust.add",
        "trust.ls",
        "trust.show",
        "trust.withdraw",
    }
)
"""The operations that ask again once they know what they are done to. All others are decided before
they begin, without a target: a condition on one refuses."""

AUTHORING = frozenset({"manifest.plan", "manifest.apply", "policy.rollback", "policy.approve"})
"""The operations that ask about others, for each thing that they would change."""

INQUIRING = frozenset({"decision.evaluate", "decision.search"})
"""Operations that ask whether their caller may inquire about what it doesn't serve."""
INQUIRE = "decision.inquire"
ASKING = TARGETED | AUTHORING | INQUIRING
"""All that use their gate."""

OWN = "role/" + SYSTEM
"""How the ids begin of the rules that come with troth."""

_VERBS: Mapping[str, frozenset[str]] = {
    one.name: frozenset(one.actions) for one in list_system_resources()
}


@dataclass(frozen=True, slots=True, eq=False)
class _Rules:
    """The rules about troth itself, of one rule book. `own` is a book of these alone: that of the
    rest belongs to the event loop. `touched` are the operations that manifests speak of; all others
    are as they come. `book` tells whether it is still the present one."""

    book: RuleBook
    own: RuleBook
    touched: frozenset[str]
    lock: threading.Lock = field(default_factory=threading.Lock)


def _pick_rules(book: RuleBook) -> _Rules:
    rules = [rule for rule in book.index.rules if _is_about_system(rule)]
    own = replace(book, index=PolicyIndex(rules), _closures={}, _matched={})
    touched = {
        name for rule in rules if not rule.id.startswith(OWN) for name in _list_operations(rule)
    }
    return _Rules(book, own, frozenset(touched))


def _is_about_system(rule: Rule) -> bool:
    return any(resource.startswith(SYSTEM) for resource in rule.resources)


def _list_operations(rule: Rule) -> Iterator[str]:
    """The operations that a rule is about."""
    for resource in rule.resources:
        noun = name_noun(resource)
        for verb in rule.actions or _VERBS.get(resource, ()):
            yield f"{noun}.{verb}"


@dataclass(frozen=True, slots=True)
class CallerGate:
    """What one caller may do in one call of `operation`, as of when it was admitted (`now`). Any
    thread may ask.

    With `certain`, the operation is permitted whatever it is done to. `given` are the roles that
    configuration gives to SPIFFE IDs.
    """

    caller: Caller
    operation: str
    certain: bool
    now: datetime
    rules: _Rules
    principal: Principal
    facts: Facts = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    _known: dict[tuple[object, ...], Decision] = field(default_factory=dict)

    def check(self, target: Target, operation: str = "") -> None:
        """Raise `Denied` unless that may be done to `target`."""
        for name, one in self._list_needs(target, operation or self.operation):
            refusal = self._find_refusal(one, name)
            if refusal:
                raise Denied(refusal)

    def allows(self, target: Target, operation: str = "") -> bool:
        """Whether that may be done to `target`."""
        return all(
            self._is_allowed(one, name)
            for name, one in self._list_needs(target, operation or self.operation)
        )

    def _list_needs(self, target: Target, operation: str) -> Iterator[tuple[str, Target]]:
        """What is asked for, and the roles that whoever obtains that SPIFFE ID would hold."""
        yield operation, target
        if self.given and target.spiffe_id and operation in _NAMING:
            for spiffe_id, role in self.given.items():
                if spiffe_id == target.spiffe_id or spiffe_id.startswith(f"{target.spiffe_id}/"):
                    yield name_giving(role)

    def _is_allowed(self, target: Target, operation: str) -> bool:
        """As `_find_refusal`, without a reason."""
        if operation == self.operation and self.certain:
            return True
        if self._is_simple(operation):
            return decide_operation(self.caller.roles, operation).allowed
        return self._ask(target, operation).allowed

    def _find_refusal(self, target: Target, operation: str) -> str:
        if self._is_allowed(target, operation):
            return ""
        if self._is_simple(operation):
            return decide_operation(self.caller.roles, operation).reason
        why = self._explain(self._ask(target, operation), operation)
        wanted = " and ".join(one.words for one in why.missing)
        tail = f" It would be permitted with {wanted}." if wanted else ""
        name = f" on {target.id[:128]!r}" if target.id else ""
        return f"This caller may not do {operation}{name}: {why.reason}{tail}"

    def _explain(self, decision: Decision, operation: str) -> Explanation:
        """Why not, by the rules that are about this caller: it is told what is missing of those,
        and not who else may, nor that an administrator might."""
        resource, verb = name_system_resource(operation), name_verb(operation)
        with self.rules.lock:
            marks = mark_principal(self.principal)
            about = self.rules.own.index.find_rules(marks, resource, verb)
        near = PolicyIndex(rule for rule in about if not rule.id.startswith(OWN))
        return explain(replace(self.rules.own, index=near), decision, self.now)

    def _is_simple(self, operation: str) -> bool:
        """Whether the roles that come with troth, and were given directly, decide alone."""
        if is_unlockable(self.caller):
            return True
        if operation in self.rules.touched:
            return False
        return decide_operation(self.caller.roles, operation).allowed or not self.principal.roles

    def _ask(self, target: Target, operation: str) -> Decision:
        """The answer of the rules; of many targets that look alike to them, once."""
        resource, verb = name_system_resource(operation), name_verb(operation)
        facts = {**self.facts, "resource": describe_target(resource, target)}
        with self.rules.lock:
            index = self.rules.own.index
            marks = index.enlist(self.principal).marks
            cut = index.cut(marks, resource, verb, self.now)
            seen = (operation, *(find_value(facts, fact) for fact in cut.reads))
            found = self._known.get(seen)
            if found is None:
                question = Question(self.principal, verb, resource, facts)
                found = decide(index, question, self.now)
                if len(self._known) < MOST_REMEMBERED:
                    self._known[seen] = found
            return found


MOST_REMEMBERED = 10_000
"""Sorts of targets of which one call remembers the answer."""

_NAMING = frozenset({"identity.register", "template.declare"})
"""What brings SPIFFE IDs into the world."""


def name_giving(role: str) -> tuple[str, Target]:
    """What whoever gives a role must be permitted: to assign it, or, of those that come with troth
    (in configuration without their prefix), to let others govern troth."""
    if role.startswith(DECLARED):
        return "role.assign", Target(role.removeprefix(DECLARED), type="role")
    return "role.delegate", Target(name_system_role(role.removeprefix(SYSTEM)), type="role")


DECLARED = "role:"
"""How configuration writes a role of a manifest."""


def describe_target(resource: str, target: Target) -> dict[str, Value]:
    """The facts of group ``resource`` about what an operation is done to."""
    facts: dict[str, Value] = {
        "name": resource,
        **{f"labels.{key}": value for key, value in target.labels.items()},
    }
    for key, value in (
        ("type", target.type),
        ("id", target.id),
        ("owner", target.owner),
        ("environment", target.environment),
        ("spiffe_id", target.spiffe_id),
    ):
        if value:
            facts[key] = value
    return facts


def describe_request(caller: Caller) -> dict[str, Value]:
    """The facts of group ``request`` about a call."""
    facts: dict[str, Value] = {"transport": "mtls", "bound": True} if caller.serial else {}
    host, _, port = caller.source.rpartition(":")
    address = read_address(host.strip("[]")) if port else None
    if address is not None:
        facts["ip"] = address
    return facts


def is_unlockable(caller: Caller) -> bool:
    """Whether no forbid applies to a caller."""
    return caller.principal.startswith("uid:") and "admin" in caller.roles


class Gatekeeper:
    """Admits callers to operations. Belongs to one event loop.

    `given` are the roles that configuration gives to SPIFFE IDs, as it writes them.
    """

    def __init__(
        self,
        decider: DecisionMaker,
        snapshot: Snapshot,
        clock: Clock,
        given: Mapping[str, str] | None = None,
    ) -> None:
        self._decider = decider
        self._snapshot = snapshot
        self._clock = clock
        self._given = given or {}
        self._rules: _Rules | None = None

    async def admit(self, caller: Caller, operation: str) -> Gate:
        """What the caller may do in a call of `operation`; `Denied` if it may not begin."""
        bundle = self._snapshot.bundle or await self._decider.read_bundle()
        rules = self._load(bundle)
        if not self._is_asked(rules, caller, operation):
            basic = decide_operation(caller.roles, operation)
            if basic.allowed:
                return self._admit_simply(rules, caller, operation)
            if not _may_hold_more(caller):
                raise Denied(basic.reason)
        principal, facts = await self._find_principal(bundle, caller)
        return self._admit(rules, caller, operation, principal, facts)

    def confirm(self, caller: Caller, operation: str) -> bool:
        """Whether the caller certainly may call `operation` still, from memory alone; False if
        somebody must look closer. For streams, with each of their values."""
        bundle = self._snapshot.bundle
        if bundle is None:  # something was declared since: what was known means nothing
            return False
        if self._is_asked(self._load(bundle), caller, operation):
            return False
        return decide_operation(caller.roles, operation).allowed

    def _load(self, bundle: Bundle) -> _Rules:
        if self._rules is None or self._rules.book is not bundle.rules:
            self._rules = _pick_rules(bundle.rules)
        return self._rules

    def _is_asked(self, rules: _Rules, caller: Caller, operation: str) -> bool:
        """Whether manifests have a say: in this operation, or in whatever it does to what."""
        if not rules.touched:
            return False
        inquiring = operation in INQUIRING and INQUIRE in rules.touched
        if not inquiring and operation not in rules.touched and operation not in AUTHORING:
            return False
        return not is_unlockable(caller) and caller.principal != ANONYMOUS.principal

    def _admit_simply(self, rules: _Rules, caller: Caller, operation: str) -> Gate:
        if operation not in ASKING:
            return OPEN  # nobody asks it: node.sync, certificate.issue, token.request …
        principal = Principal("caller", caller.principal)
        return CallerGate(caller, operation, True, self._clock.now(), rules, principal)

    async def _find_principal(self, bundle: Bundle, caller: Caller) -> tuple[Principal, Facts]:
        """Who calls, as the rules mean it; `Denied` for an identity that nothing is permitted."""
        roles = [name_system_role(role) for role in sorted(caller.roles)]
        roles += caller.declared
        request = {"request": describe_request(caller)}
        if not caller.principal.startswith("spiffe://"):
            kind, _, name = caller.principal.partition(":")
            return Principal(kind, name, bundle.rules.expand(roles)), request
        held = bundle.rules.expand(roles)
        if caller.node_id is not None:  # no identity has a node's name: nothing need be read
            return Principal("node", caller.principal, held), request
        party = await self._decider.find_party(bundle, Subject(IDENTITY, caller.principal))
        if not party.facts:
            return Principal("caller", caller.principal, held), request
        if party.refusal:
            raise Denied(party.refusal)
        own = party.principal
        held = bundle.rules.expand((*own.roles, *roles))
        return Principal(own.type, own.id, held), {**party.facts, **request}

    def _admit(
        self,
        rules: _Rules,
        caller: Caller,
        operation: str,
        principal: Principal,
        facts: Facts,
    ) -> Gate:
        resource, verb = name_system_resource(operation), name_verb(operation)
        marks = mark_principal(principal)
        now = self._clock.now()
        with rules.lock:
            about = rules.own.index.find_rules(marks, resource, verb)
        found = [rule for rule in about if not is_over(rule, now)]
        certain = _is_certain(found, marks, resource, verb, facts)
        gate = CallerGate(caller, operation, certain, now, rules, principal, facts, self._given)
        if certain:
            return gate
        if operation not in TARGETED:
            gate.check(Target())
        elif not _is_possible(found, marks, resource, verb, facts):
            gate.check(Target())
            raise Denied(f"This caller may not do {operation}.")
        return gate


def _may_hold_more(caller: Caller) -> bool:
    """Whether manifests may give a caller roles that come with troth."""
    if caller.declared:
        return True
    return caller.principal.startswith("spiffe://") and caller.node_id is None


def _is_certain(
    rules: Iterable[Rule], marks: frozenset[str], resource: str, verb: str, facts: Facts
) -> bool:
    """Whether it is permitted whatever it is done to, and whatever else comes."""
    permitted = False
    for rule in rules:
        found = _judge_openly(rule, marks, resource, verb, facts)
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
        found = _judge_openly(rule, marks, resource, verb, facts)
        if rule.effect is Effect.FORBID and found is True:
            return False
        possible = possible or (rule.effect is Effect.PERMIT and found is not False)
    return possible


def _judge_openly(
    rule: Rule, marks: frozenset[str], resource: str, verb: str, facts: Facts
) -> bool | None:
    """Whether a rule applies whatever is done to what: None where that may matter. What isn't known
    of a target yet may be known later, so asking whether it is known has no answer."""
    if rule.cedar or any(_asks_whether_known(one) for one in (rule, *rule.exceptions)):
        return None
    return applies(rule, marks, resource, verb, facts)


def _asks_whether_known(rule: Rule) -> bool:
    return any(
        test.operator is Operator.KNOWN and test.fact.group == "resource"
        for test in list_tests(rule.condition)
    )
