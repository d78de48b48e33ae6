"""Inquiries: what a point that enforces wants to know, and the facts that answer it.

What is declared wins over what the point says: a point can add to what is known of its resources
and subjects, and change nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from troth.core.address import read_address
from troth.policy.decision import Question
from troth.policy.fact import VOCABULARY, FactKind, Facts, Value
from troth.policy.protection_manifest import check_property
from troth.policy.resource import Instance, Resource
from troth.policy.rule import IDENTITY, Principal
from troth.policy.rulebook import RuleBook


@dataclass(frozen=True, slots=True)
class Inquiry:
    """May somebody do `action` to the thing of that type and id? `told` is what the point says of
    the resource, the action, the request, the task and who acts for whom, by group and key; of the
    attributes in it those count that are declared, and are of their kind."""

    action: str
    resource_type: str
    resource_id: str
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Party:
    """Who asks, and what is known of them: good until `valid_until`, if time changes it.

    With a `refusal`, a sentence, nothing is permitted to them, whatever the rules say.
    """

    principal: Principal
    facts: Facts
    valid_until: datetime | None = None
    refusal: str = ""


class Registered(Protocol):
    """What of a registered identity matters here."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def spiffe_id(self) -> object:
        """Its SPIFFE ID."""
        ...

    @property
    def kind(self) -> str:
        """What sort of machine it is."""
        ...

    @property
    def owner(self) -> str:
        """Who answers for it."""
        ...

    @property
    def environment(self) -> str:
        """Where it belongs."""
        ...

    @property
    def state(self) -> str:
        """Where it is in its life."""
        ...

    @property
    def expires_at(self) -> datetime:
        """When it ends."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        ...

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Trust:
    """What is thought of an identity: its score (0 to 100), tier, and how strongly its holders are
    attested; until when that holds."""

    score: int
    tier: str
    assurance: str
    valid_until: datetime | None = None


def make_identity_party(
    book: RuleBook,
    identity: Registered,
    trust: Trust,
    grants: tuple[str, ...] = (),
    refusal: str = "",
) -> Party:
    """An identity of this trust domain, with the roles that are granted to it for a time. Whoever
    knows when the grants end makes it good until then at most."""
    facts: dict[str, Value] = {
        "name": identity.name,
        "spiffe_id": str(identity.spiffe_id),
        "kind": str(identity.kind),
        "owner": identity.owner,
        "state": str(identity.state),
        "assurance": trust.assurance,
        **{f"labels.{key}": value for key, value in identity.labels.items()},
    }
    if identity.environment:
        facts["environment"] = identity.environment
    return Party(
        Principal(IDENTITY, identity.name, book.expand((*identity.roles, *grants))),
        {
            "identity": facts,
            "trust": {"score": trust.score, "tier": trust.tier},
            "grant": {"roles": grants},
            "subject": {"type": IDENTITY, "id": identity.name},
        },
        min(trust.valid_until or identity.expires_at, identity.expires_at),
        refusal,
    )


def make_outside_party(
    book: RuleBook, type_: str, id_: str, properties: Mapping[str, Any]
) -> Party:
    """A subject that is no identity: an instance of a declared type, or nobody that is known.

    It holds the roles of its instance, and has the attributes of its type.
    """
    known = book.list_instances(type_, id_)
    roles = tuple(role for one in known for role in one.roles)
    declared = {name: value for one in reversed(known) for name, value in one.properties.items()}
    attributes = read_attributes(book.find_kinds(type_), properties, declared)
    facts: Facts = {"subject": {**attributes, "type": type_, "id": id_}}
    return Party(Principal(type_, id_, book.expand(roles)), facts)


def read_attributes(
    kinds: Mapping[str, FactKind], told: Mapping[str, Any], declared: Mapping[str, Any]
) -> dict[str, Value]:
    """The attributes of these kinds, of which what is declared wins."""
    found: dict[str, Value] = {}
    for name, kind in kinds.items():
        value = declared[name] if name in declared else told.get(name)
        if value is not None and (checked := check_property(value, kind)) is not None:
            found[name] = checked
    return found


def make_question(book: RuleBook, resource: Resource, inquiry: Inquiry, party: Party) -> Question:
    """The question that an inquiry about `resource` comes to."""
    told = inquiry.told
    facts: dict[str, Mapping[str, Value]] = {
        **party.facts,
        "resource": _describe(book, resource, inquiry),
        "action": {
            **read_attributes(resource.action_attributes, told.get("action", {}), {}),
            "name": inquiry.action,
        },
    }
    for group in ("request", "task", "delegation"):
        if group in told:
            facts[group] = read_told(group, told[group])
    return Question(party.principal, inquiry.action, resource.name, facts)


def read_told(group: str, told: Mapping[str, Any]) -> dict[str, Value]:
    """What a point says of the request, the task or the delegation, as facts. What is none of
    their vocabulary, or not of its kind, isn't known; nor is the time, which is ours to tell."""
    found: dict[str, Value] = {}
    for key, value in told.items():
        kind = _KINDS.get((group, key))
        checked = None if kind is None or value is None else _check_told(value, kind)
        if checked is not None:
            found[key] = checked
    return found


_KINDS = {(fact.group, fact.key): fact.kind for fact in VOCABULARY}


def _check_told(value: Any, kind: FactKind) -> Value | None:
    if kind is FactKind.TEXT:
        return value if isinstance(value, str) else None
    if kind is FactKind.ADDRESS:
        return read_address(value)
    if kind is FactKind.TIME:
        return None
    checked: Value | None = check_property(value, kind)
    return checked


def _describe(book: RuleBook, resource: Resource, inquiry: Inquiry) -> Mapping[str, Value]:
    instance: Instance | None = book.find_instance(resource, inquiry.resource_id)
    facts: dict[str, Value] = {
        **describe_resource(resource),
        "id": inquiry.resource_id,
        "type": inquiry.resource_type,
    }
    if resource.attributes:
        known = instance.properties if instance is not None else {}
        facts |= read_attributes(resource.attributes, inquiry.told.get("resource", {}), known)
    return facts


def describe_resource(resource: Resource) -> dict[str, Value]:
    """What is known of a resource whichever thing of it is meant."""
    facts: dict[str, Value] = {
        "name": resource.name,
        "owner": resource.owner,
        "sensitivity": resource.sensitivity,
        **{f"labels.{key}": value for key, value in resource.labels.items()},
    }
    if resource.environment:
        facts["environment"] = resource.environment
    return facts
