"""Which class and activity of OCSF each kind of event and decision is: one table for all of them.

Source: https://schema.ocsf.io/1.5.0/classes and the pages of the classes named here. ``type_uid``
is ``class_uid * 100 + activity_id`` (https://schema.ocsf.io/1.5.0/classes/base_event).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any

VERSION = "1.5.0"
"""Of the schema."""


class Class(IntEnum):
    """``class_uid``. Its thousands are the category."""

    DETECTION_FINDING = 2004
    INCIDENT_FINDING = 2005
    ACCOUNT_CHANGE = 3001
    AUTHENTICATION = 3002
    AUTHORIZE_SESSION = 3003
    ENTITY_MANAGEMENT = 3004
    API_ACTIVITY = 6003


class Severity(IntEnum):
    """``severity_id``, from what needs no action to what needs it at once and everywhere."""

    INFORMATIONAL = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5


CATEGORIES: Mapping[int, str] = MappingProxyType(
    {2: "Findings", 3: "Identity & Access Management", 6: "Application Activity"}
)
CAPTIONS: Mapping[Class, str] = MappingProxyType(
    {one: one.name.replace("_", " ").title().replace("Api", "API") for one in Class}
)
OTHER = 99
"""The activity that has no number in a class: then ``activity_name`` says what it is."""

_FINDING = {1: "Create", 2: "Update", 3: "Close"}
ACTIVITIES: Mapping[Class, Mapping[int, str]] = MappingProxyType(
    {
        Class.DETECTION_FINDING: _FINDING,
        Class.INCIDENT_FINDING: _FINDING,
        Class.ACCOUNT_CHANGE: {
            1: "Create",
            2: "Enable",
            5: "Disable",
            6: "Delete",
            9: "Lock",
            12: "Unlock",
        },
        Class.AUTHENTICATION: {1: "Logon", 2: "Logoff"},
        Class.AUTHORIZE_SESSION: {1: "Assign Privileges"},
        Class.ENTITY_MANAGEMENT: {
            1: "Create",
            2: "Read",
            3: "Update",
            4: "Delete",
            6: "Enroll",
            7: "Unenroll",
            8: "Enable",
            9: "Disable",
            10: "Activate",
            11: "Deactivate",
            12: "Suspend",
            13: "Resume",
        },
        Class.API_ACTIVITY: {1: "Create", 2: "Read", 3: "Update", 4: "Delete"},
    }
)
"""Those activities that something of ours is, with their captions."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one kind of event is. `words` are the activity's, where the class has no number for it.
    `attributes` are what every event of the kind has."""

    class_: Class
    activity: int
    severity: Severity = Severity.INFORMATIONAL
    words: str = ""
    attributes: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        category = self.class_ // 1000
        caption = CAPTIONS[self.class_]
        name = self.words or ACTIVITIES[self.class_][self.activity]
        attributes = {
            "category_uid": category,
            "category_name": CATEGORIES[category],
            "class_uid": int(self.class_),
            "class_name": caption,
            "activity_id": self.activity,
            "activity_name": name,
            "type_uid": self.type_uid,
            "type_name": f"{caption}: {'Other' if self.words else name}",
            "severity_id": int(self.severity),
            "severity": self.severity.name.title(),
        }
        object.__setattr__(self, "attributes", attributes)

    @property
    def type_uid(self) -> int:
        """The class and the activity in one number."""
        return self.class_ * 100 + self.activity


def _other(class_: Class, words: str, severity: Severity = Severity.INFORMATIONAL) -> Line:
    return Line(class_, OTHER, severity, words)


_LOW, _MEDIUM, _HIGH = Severity.LOW, Severity.MEDIUM, Severity.HIGH
_CRITICAL = Severity.CRITICAL
_ACCOUNT, _LOGON, _SESSION = Class.ACCOUNT_CHANGE, Class.AUTHENTICATION, Class.AUTHORIZE_SESSION
_ENTITY, _API = Class.ENTITY_MANAGEMENT, Class.API_ACTIVITY
_FOUND, _INCIDENT = Class.DETECTION_FINDING, Class.INCIDENT_FINDING

EVENTS: Mapping[str, Line] = MappingProxyType(
    {
        # Identities: the accounts of machines.
        "identity.registered": Line(_ACCOUNT, 1),
        "identity.changed": _other(_ACCOUNT, "Update"),
        "identity.activated": Line(_ACCOUNT, 2),
        "identity.suspended": Line(_ACCOUNT, 5, _LOW),
        "identity.resumed": Line(_ACCOUNT, 2),
        "identity.quarantined": Line(_ACCOUNT, 9, _HIGH),
        "identity.released": Line(_ACCOUNT, 12),
        "identity.retired": Line(_ACCOUNT, 6),
        "identity.extended": _other(_ACCOUNT, "Extend"),
        "identity.unattended": _other(_ACCOUNT, "Warn of Expiry", _LOW),
        "identity.expired": Line(_ACCOUNT, 5, _LOW),
        # Evidence: how severe it is depends on its weight (`weigh_evidence`).
        "evidence.added": Line(_FOUND, 1),
        "evidence.withdrawn": Line(_FOUND, 3),
        # What is declared.
        "policy.recorded": Line(_ENTITY, 1),
        "policy.held": _other(_ENTITY, "Hold", _LOW),
        "policy.approved": _other(_ENTITY, "Approve"),
        "policy.rejected": _other(_ENTITY, "Reject", _LOW),
        "template.added": Line(_ENTITY, 1),
        "template.changed": Line(_ENTITY, 3),
        "template.removed": Line(_ENTITY, 4),
        "declaration.added": Line(_ENTITY, 1),
        "declaration.changed": Line(_ENTITY, 3),
        "declaration.removed": Line(_ENTITY, 4),
        # Tokens: a session with its privileges, and attempts at one.
        "token.issued": Line(_SESSION, 1),
        "token.exchanged": Line(_SESSION, 1),
        "jwtsvid.issued": Line(_SESSION, 1),
        "token.refused": Line(_LOGON, 1, _LOW),
        "token.rejected": Line(_LOGON, 1, _MEDIUM),
        "token.revoked": Line(_LOGON, 2),
        "jwtsvid.intended": _other(_ENTITY, "Intend"),
        "jwtsvid.abandoned": _other(_ENTITY, "Abandon"),
        # Who proved what it is, and who couldn't.
        "node.attested": Line(_LOGON, 1),
        "workload.refused": Line(_LOGON, 1, _MEDIUM),
        "device.refused": Line(_LOGON, 1, _MEDIUM),
        "device.enrolled": Line(_ENTITY, 6),
        "device.invited": _other(_ENTITY, "Invite"),
        "node.evicted": Line(_ENTITY, 7, _LOW),
        "node.readmitted": Line(_ENTITY, 6),
        "instance.locked": Line(_ENTITY, 12, _MEDIUM),
        "instance.unlocked": Line(_ENTITY, 13),
        # Credentials and what signs them.
        "token.created": Line(_ENTITY, 1),
        "certificate.intended": _other(_ENTITY, "Intend"),
        "certificate.issued": Line(_ENTITY, 1),
        "certificate.abandoned": _other(_ENTITY, "Abandon"),
        "certificate.revoked": Line(_ENTITY, 11, _LOW),
        "crl.published": Line(_ENTITY, 3),
        "client_secret.created": Line(_ENTITY, 1),
        "client_secret.revoked": Line(_ENTITY, 11, _LOW),
        "authority.intended": _other(_ENTITY, "Intend"),
        "authority.prepared": Line(_ENTITY, 1),
        "authority.activated": Line(_ENTITY, 10),
        "authority.retired": Line(_ENTITY, 11),
        "authority.tainted": Line(_ENTITY, 9, _HIGH),
        "authority.revoked": Line(_ENTITY, 9, _HIGH),
        "authority.ended": Line(_ENTITY, 4),
        "key.erased": Line(_ENTITY, 4),
        # What sinks didn't deliver.
        "dead_letter.retried": _other(_ENTITY, "Retry"),
        "dead_letter.dropped": Line(_ENTITY, 4, _LOW),
        # The log and the state as a whole.
        "decisions.closed": Line(_ENTITY, 1),
        "decisions.removed": Line(_ENTITY, 4),
        "log.forked": Line(_INCIDENT, 1, _CRITICAL),
        "log.disputed": Line(_INCIDENT, 1, _CRITICAL),
        "checkpoint.abandoned": Line(_ENTITY, 3, _HIGH),
        "journal.altered": Line(_INCIDENT, 1, _CRITICAL),
        "journal.redacted": Line(_ENTITY, 3, _LOW),
        "log.restored": Line(_ENTITY, 3, _HIGH),
        "log.damaged": Line(_INCIDENT, 1, _HIGH),
        "journal.trimmed": Line(_ENTITY, 4),
        "hold.placed": Line(_ENTITY, 1),
        "hold.released": Line(_ENTITY, 4, _LOW),
        "archive.removed": Line(_ENTITY, 4),
        "store.restored": Line(_API, 3, _HIGH),
    }
)
"""Every type of event (docs/reference/events.md)."""

_VERBS = {
    1: ("create", "add", "insert", "register", "issue"),
    2: ("read", "get", "list", "ls", "show", "view", "search", "query"),
    3: ("update", "change", "edit", "write", "set"),
    4: ("delete", "remove", "erase"),
}
_DECISION_ACTIVITIES = {verb: activity for activity, verbs in _VERBS.items() for verb in verbs}
_ALLOWED = {one: Line(_API, one) for one in _VERBS}
_DENIED = {one: Line(_API, one, _LOW) for one in _VERBS}


def classify_event(type_: str) -> Line:
    """What an event of this type is. One that the table doesn't have, because a later version of
    troth wrote it, is some change of an entity."""
    line = EVENTS.get(type_)
    return _other(_ENTITY, type_) if line is None else line


def classify_decision(action: str, *, allowed: bool) -> Line:
    """What a decision about an action of this name is: ``read``, or ``orders.read``."""
    activity = _DECISION_ACTIVITIES.get(action.rpartition(".")[2].lower())
    if activity is None:
        return _other(_API, action or "Unknown", Severity.INFORMATIONAL if allowed else _LOW)
    return (_ALLOWED if allowed else _DENIED)[activity]


def weigh_evidence(weight: object) -> Severity:
    """How severe a piece of evidence is: by the points that it takes from the score."""
    if not isinstance(weight, int | float) or weight >= 0:
        return Severity.INFORMATIONAL
    return _LOW if weight > -20 else _MEDIUM if weight > -50 else _HIGH
