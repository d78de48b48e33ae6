"""Facts: what conditions may ask about, with their names, kinds and places in a Cedar context.

A fact has a group (``identity``, ``trust``, ``request`` …) and a key in it. The groups are the
records of the context that Cedar sees, so ``identity.environment`` in a manifest is
``context.identity.environment`` in Cedar. A fact that isn't known is absent, never empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from troth.core.address import Address
from troth.core.tier import Tier

Value = str | int | bool | tuple[str, ...] | Address | datetime
Facts = Mapping[str, Mapping[str, Value]]
"""Values by group and key; labels stand under ``labels.<key>``."""

LABELS = "labels."


class FactKind(StrEnum):
    """What a fact's value is: in Cedar a String, Long, Bool, Set of String, ipaddr; or a moment,
    of which Cedar is told the windows that it lies in."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXTS = "texts"
    ADDRESS = "address"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact. `order` are its values from the least to the most, where they have an order;
    `words` say what it is, for people."""

    group: str
    key: str
    kind: FactKind
    words: str = ""
    order: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As manifests write it."""
        return f"{self.group}.{self.key}"


def find_value(facts: Facts, fact: Fact) -> Value | None:
    """The fact's value; None if it isn't known."""
    group = facts.get(fact.group)
    return None if group is None else group.get(fact.key)


ASSURANCE = ("low", "medium", "high")
SENSITIVITY = ("low", "medium", "high", "critical")
TRANSPORT = ("plain", "tls", "mtls")
_TIERS = tuple(tier.value for tier in Tier)

_T, _N, _B = FactKind.TEXT, FactKind.NUMBER, FactKind.BOOLEAN

VOCABULARY: tuple[Fact, ...] = (
    Fact("identity", "name", _T, "the identity's name"),
    Fact("identity", "spiffe_id", _T, "its SPIFFE ID"),
    Fact("identity", "kind", _T, "service, job, device, pipeline, agent or bot"),
    Fact("identity", "owner", _T, "who answers for it"),
    Fact("identity", "environment", _T, "where it belongs, such as prod"),
    Fact("identity", "state", _T, "where it is in its life"),
    Fact("identity", "assurance", _T, "how strongly its holders are attested", ASSURANCE),
    Fact("trust", "score", _N, "its trust score, 0 to 100"),
    Fact("trust", "tier", _T, "its trust tier", _TIERS),
    Fact("request", "ip", FactKind.ADDRESS, "the address that the request came from"),
    Fact("request", "country", _T, "its country, two capital letters (ISO 3166-1)"),
    Fact("request", "network", _T, "the kind of network: cloud, cdn, vpn, tor, private …"),
    Fact("request", "time", FactKind.TIME, "when it is asked, by the clock of who decides"),
    Fact("request", "transport", _T, "how the request is protected", TRANSPORT),
    Fact("request", "bound", _B, "whether its credential is bound to a key that was proved"),
    Fact("request", "audience", FactKind.TEXTS, "the audiences of its access token"),
    Fact("request", "scopes", FactKind.TEXTS, "the scopes of its access token"),
    Fact("request", "method", _T, "its HTTP method"),
    Fact("request", "host", _T, "its HTTP host"),
    Fact("request", "path", _T, "its path, normalised"),
    Fact("grant", "roles", FactKind.TEXTS, "the roles of which a grant is approved and alive"),
    Fact("task", "id", _T, "the task or transaction that it is part of"),
    Fact("task", "purpose", _T, "what that is for"),
    Fact("delegation", "depth", _N, "how many act for the subject; 0 if it acts itself"),
    Fact("delegation", "actors", FactKind.TEXTS, "who acts, by SPIFFE ID"),
    Fact("resource", "name", _T, "the declared resource's name"),
    Fact("resource", "type", _T, "its type"),
    Fact("resource", "id", _T, "which one of that type"),
    Fact("resource", "owner", _T, "who answers for it"),
    Fact("resource", "environment", _T, "where it belongs"),
    Fact("resource", "sensitivity", _T, "how much it matters", SENSITIVITY),
    Fact("subject", "type", _T, "the subject's type; identity for those of troth"),
    Fact("subject", "id", _T, "which one of that type; an identity's name"),
    Fact("action", "name", _T, "the action's name"),
)
"""Every fact but labels and declared attributes."""

BY_NAME: Mapping[str, Fact] = {fact.name: fact for fact in VOCABULARY}

LABELLED = ("identity", "resource")
"""The groups that have labels."""

ATTRIBUTED = ("resource", "subject", "action")
"""The groups to which manifests add attributes of their own."""


def label_fact(group: str, key: str) -> Fact:
    """The fact of a label of an identity or resource."""
    return Fact(group, f"{LABELS}{key}", _T, f"the {group}'s label {key}")


def attribute_fact(group: str, key: str, kind: FactKind) -> Fact:
    """The fact of an attribute that a manifest declares."""
    return Fact(group, key, kind, f"the {group}'s {key}")


GRANTED = BY_NAME["grant.roles"]
NOW = BY_NAME["request.time"]
SOURCE = BY_NAME["request.ip"]


def render_value(value: Value) -> Any:
    """A fact's value as plain JSON."""
    if isinstance(value, str | int):
        return value
    if isinstance(value, tuple):
        return list(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)
