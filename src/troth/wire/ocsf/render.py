"""Events and decisions as OCSF: one JSON object each.

Source: https://schema.ocsf.io/1.5.0. What has no place in a class stands under ``unmapped``, so
nothing is lost. No token and no secret is in what is rendered, since none is in what is recorded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from troth.core.address import read_address
from troth.wire.ocsf.classes import (
    VERSION,
    Class,
    Line,
    Severity,
    classify_decision,
    classify_event,
    weigh_evidence,
)

Attributes = dict[str, Any]

REDACTED = "redacted"
"""Stands where a person was taken out."""
_SELF = "troth"
_BACKGROUND = "background"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", re.ASCII)
_LARGEST_PORT = 65_535

_STATUS = {"success": {"status_id": 1, "status": "Success"}}
_FAILURE = {"status_id": 2, "status": "Failure"}
_FINDING_STATUS = {
    1: {"status_id": 1, "status": "New"},
    2: {"status_id": 2, "status": "In Progress"},
    3: {"status_id": 4, "status": "Resolved"},
}
# The profile "Security Control": https://schema.ocsf.io/1.5.0/profiles/security_control
_ALLOWED = {
    "action_id": 1,
    "action": "Allowed",
    "disposition_id": 1,
    "disposition": "Allowed",
}
_DENIED = {"action_id": 2, "action": "Denied", "disposition_id": 2, "disposition": "Blocked"}


@dataclass(frozen=True, slots=True)
class Producer:
    """Who tells: troth in this version, for this trust domain."""

    trust_domain: str
    version: str


@dataclass(frozen=True, slots=True)
class Activity:
    """One event of the journal, or one decision.

    `kind` is ``event`` or ``decision``; `id` the event's position in decimal or the decision's id;
    `at` UTC; `action` the event's type or the decision's action; `outcome` ``success`` or
    ``failure``. `actor` did it (of a decision: who asked), `subject` it was done to (of a decision:
    who wanted to). `detail` is the event's body, or the decision's remaining fields, of which
    ``policies``, ``resource_type``, ``resource_id`` and ``subject_type`` are looked at here.
    `uid` is the name by which receivers know it again, if they have another one than `id`.
    """

    kind: str
    id: str
    at: datetime
    action: str
    outcome: str
    actor: str
    subject: str
    resource: str = ""
    request_id: str = ""
    source: str = ""
    reason: str = ""
    task: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    redacted: bool = False
    uid: str = ""


def classify_activity(activity: Activity) -> Line:
    """Its class, its activity and how severe it is."""
    if activity.kind == "decision":
        return classify_decision(activity.action, allowed=activity.outcome == "success")
    line = classify_event(activity.action)
    if activity.action == "evidence.added":
        severity = weigh_evidence(activity.detail.get("weight"))
        if severity is not Severity.INFORMATIONAL:
            return Line(line.class_, line.activity, severity)
    return line


def render_activity(activity: Activity, producer: Producer) -> Attributes:
    """It as OCSF: plain JSON values, valid by the schema, whatever is in the activity."""
    return render_as(classify_activity(activity), activity, producer)


def render_as(line: Line, activity: Activity, producer: Producer) -> Attributes:
    """It as an event of this class and activity."""
    at = activity.at
    shown: Attributes = {
        **line.attributes,
        "time": (at - _EPOCH) // _MILLISECOND,
        "time_dt": at.isoformat(),
        "timezone_offset": 0,
        "metadata": _render_metadata(line.class_, activity, producer),
    }
    if activity.reason:
        shown["status_detail"] = activity.reason
    _RENDERERS[line.class_](line, activity, producer, shown)
    detail = activity.detail
    unmapped: Attributes = {"detail": detail if type(detail) is dict else dict(detail)}
    if activity.task:
        unmapped["task"] = activity.task
    if activity.resource:
        unmapped["resource"] = activity.resource
    if activity.kind == "decision":
        unmapped["asked_by"] = activity.actor
    shown["unmapped"] = unmapped
    return shown


def _list_profiles(class_: Class, *, event: bool) -> list[str]:
    if not event:
        return ["security_control", "datetime"]
    return ["incident", "datetime"] if class_ is Class.INCIDENT_FINDING else ["datetime"]


def _render_metadata(class_: Class, activity: Activity, producer: Producer) -> Attributes:
    """https://schema.ocsf.io/1.5.0/objects/metadata"""
    domain = producer.trust_domain
    event = activity.kind == "event"
    shown: Attributes = {
        "version": VERSION,
        "product": {"name": _SELF, "vendor_name": _SELF, "version": producer.version},
        "tenant_uid": domain,
        "uid": activity.uid or (f"{domain}:{activity.id}" if event else activity.id),
        "event_code": activity.action if event else "decision",
        "log_name": "journal" if event else "decisions",
        "log_provider": _SELF,
        "profiles": _list_profiles(class_, event=event),
    }
    if event and activity.id.isdecimal():
        shown["sequence"] = int(activity.id)
    if activity.request_id and activity.request_id != _BACKGROUND:
        shown["correlation_uid"] = activity.request_id
    if activity.redacted:
        shown["labels"] = [REDACTED]
    return shown


def _make_user(principal: str, type_: str = "") -> Attributes:
    """https://schema.ocsf.io/1.5.0/objects/user"""
    if principal.startswith("spiffe://"):
        domain, _, path = principal[9:].partition("/")
        user = {"uid": principal, "domain": domain, "type_id": 99, "type": "Workload"}
        if path:
            user["name"] = path
        return user
    if principal.startswith("uid:"):
        return {"uid": principal, "type_id": 1, "type": "User"}
    if principal == _SELF:
        return {"uid": principal, "type_id": 3, "type": "System"}
    return {"uid": principal or REDACTED, "type_id": 99, "type": type_ or "Other"}


def _make_actor(principal: str) -> Attributes:
    """https://schema.ocsf.io/1.5.0/objects/actor"""
    if principal == _SELF:
        return {"app_name": _SELF, "user": _make_user(principal)}
    return {"user": _make_user(principal)}


def _make_endpoint(source: str, otherwise: str) -> Attributes:
    """Where it came from: an address, perhaps with its port, or a process on the same machine;
    or else who it was (https://schema.ocsf.io/1.5.0/objects/network_endpoint)."""
    if not source:
        return {"uid": otherwise or _SELF}
    if source[0] == "[":
        host, _, port = source[1:].partition("]:")
    elif _IPV4.fullmatch(source):
        return {"ip": source}
    else:
        host, _, port = source.rpartition(":")
    if _IPV4.fullmatch(host):
        pass
    elif (address := read_address(host)) or (address := read_address(source)):
        host, port = str(address), port if host else ""
    else:
        return {"uid": source}
    if port.isascii() and port.isdecimal() and len(port) < 6 and int(port) <= _LARGEST_PORT:
        return {"ip": host, "port": int(port)}
    return {"ip": host}


def _set_status(activity: Activity, shown: Attributes) -> None:
    shown.update(_STATUS.get(activity.outcome, _FAILURE))


def _set_outside(activity: Activity, shown: Attributes) -> None:
    """Who did it and from where, of classes that have places for them."""
    _set_status(activity, shown)
    shown["message"] = _say_event(activity)
    shown["actor"] = _make_actor(activity.actor)
    shown["src_endpoint"] = _make_endpoint(activity.source, activity.actor)


def _say_event(activity: Activity) -> str:
    return f"{activity.action}: {activity.subject or REDACTED}, by {activity.actor or REDACTED}"


def _render_api_activity(
    line: Line, activity: Activity, producer: Producer, shown: Attributes
) -> None:
    """https://schema.ocsf.io/1.5.0/classes/api_activity"""
    if activity.kind == "decision":
        _render_decision(activity, shown)
        return
    _set_outside(activity, shown)
    shown["api"] = _make_api(activity, _SELF)
    shown["resources"] = [{"uid": activity.subject or REDACTED}]


def _make_api(activity: Activity, service: str) -> Attributes:
    api: Attributes = {"operation": activity.action or "unknown"}
    if service:
        api["service"] = {"uid": service}
    if activity.request_id:
        api["request"] = {"uid": activity.request_id}
    return api


def _render_decision(activity: Activity, shown: Attributes) -> None:
    """An answer of the decision point: who wanted to do what with which resource, and who asked on
    its behalf, which is the service that the API belongs to."""
    _set_status(activity, shown)
    allowed = activity.outcome == "success"
    shown.update(_ALLOWED if allowed else _DENIED)
    detail = activity.detail
    kind, id_ = _text(detail, "resource_type"), _text(detail, "resource_id")
    name = activity.resource or id_ or kind or "unknown"
    may = "may" if allowed else "may not"
    shown["message"] = f"{activity.subject or REDACTED} {may} {activity.action} {name}"
    shown["actor"] = {"user": _make_user(activity.subject, _text(detail, "subject_type"))}
    shown["api"] = _make_api(activity, activity.actor)
    resource = {"name": name}
    if id_:
        resource["uid"] = id_
    if kind:
        resource["type"] = kind
    shown["resources"] = [resource]
    shown["src_endpoint"] = _make_endpoint(activity.source, activity.subject)
    decision = "Allow" if allowed else "Deny"
    policies = _texts(detail.get("policies"))
    shown["authorizations"] = [
        {"decision": decision, "policy": {"uid": one}} for one in policies
    ] or [{"decision": decision}]


def _render_account(line: Line, activity: Activity, producer: Producer, shown: Attributes) -> None:
    """https://schema.ocsf.io/1.5.0/classes/account_change"""
    _set_outside(activity, shown)
    shown["user"] = user = _make_user(activity.subject)
    if name := _text(activity.detail, "name"):
        user["name"] = name


def _render_entity(line: Line, activity: Activity, producer: Producer, shown: Attributes) -> None:
    """https://schema.ocsf.io/1.5.0/classes/entity_management"""
    _set_outside(activity, shown)
    noun = activity.action.partition(".")[0]
    policy = noun in ("policy", "declaration")
    entity: Attributes = {
        "uid": activity.subject or REDACTED,
        "type_id": 5 if policy else 99,
        "type": "Policy" if policy else noun or "Other",
    }
    if name := _text(activity.detail, "name"):
        entity["name"] = name
    shown["entity"] = entity
    if activity.reason:
        shown["comment"] = activity.reason


def _render_authentication(
    line: Line, activity: Activity, producer: Producer, shown: Attributes
) -> None:
    """https://schema.ocsf.io/1.5.0/classes/authentication"""
    _set_outside(activity, shown)
    shown["user"] = _make_user(activity.subject)
    shown["service"] = {"name": _SELF, "uid": producer.trust_domain}
    shown["is_remote"] = not activity.source.startswith("uid:")
    if activity.action.startswith("token."):
        shown["auth_protocol_id"], shown["auth_protocol"] = 6, "OAUTH 2.0"
    else:
        shown["auth_protocol_id"], shown["auth_protocol"] = 99, "SPIFFE"
    if jti := _text(activity.detail, "jti"):
        shown["session"] = {"uid": jti}


def _render_session(line: Line, activity: Activity, producer: Producer, shown: Attributes) -> None:
    """https://schema.ocsf.io/1.5.0/classes/authorize_session"""
    _set_outside(activity, shown)
    detail = activity.detail
    shown["user"] = _make_user(activity.subject)
    session: Attributes = {"issuer": producer.trust_domain, "is_remote": True}
    if jti := _text(detail, "jti"):
        session["uid"] = jti
    if kid := _text(detail, "kid"):
        session["credential_uid"] = kid
    if (ends := _count_milliseconds(detail.get("expires_at"))) is not None:
        session["expiration_time"] = ends
    shown["session"] = session
    # Exactly one of `privileges` and `group` is there, says the class.
    shown["privileges"] = (
        _text(detail, "scope").split() or _texts(detail.get("audiences")) or [activity.action]
    )


def _render_finding(line: Line, activity: Activity, producer: Producer, shown: Attributes) -> None:
    """https://schema.ocsf.io/1.5.0/classes/detection_finding"""
    shown.update(_FINDING_STATUS[line.activity])
    shown["message"] = _say_event(activity)
    shown["finding_info"] = _make_finding(activity, shown["time"])
    shown["resources"] = [{"uid": activity.subject or REDACTED}]
    shown["evidences"] = [{"data": {"actor": activity.actor, "source": activity.source}}]
    if line.severity >= Severity.HIGH:
        shown["is_alert"] = True


def _render_incident(line: Line, activity: Activity, producer: Producer, shown: Attributes) -> None:
    """https://schema.ocsf.io/1.5.0/classes/incident_finding"""
    shown.update(_FINDING_STATUS[line.activity])
    shown["message"] = shown["desc"] = _say_event(activity)
    shown["finding_info_list"] = [_make_finding(activity, shown["time"])]
    # One of `assignee` and `assignee_group` must be there: it is whoever answers for the domain.
    shown["assignee_group"] = {"name": "administrators", "domain": producer.trust_domain}


def _make_finding(activity: Activity, time: int) -> Attributes:
    """https://schema.ocsf.io/1.5.0/objects/finding_info"""
    kind = _text(activity.detail, "kind") or activity.action
    finding: Attributes = {
        "uid": _text(activity.detail, "id") or activity.id,
        "title": kind,
        "types": [kind],
        "created_time": time,
    }
    if activity.reason:
        finding["desc"] = activity.reason
    return finding


def _text(detail: Mapping[str, Any], key: str) -> str:
    value = detail.get(key)
    return value if isinstance(value, str) else ""


def _texts(value: object) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    return [one for one in value if isinstance(one, str)]


def _count_milliseconds(value: object) -> int | None:
    """A moment in RFC 3339, in milliseconds since 1970; None if it is none."""
    if not isinstance(value, str):
        return None
    try:
        return (datetime.fromisoformat(value) - _EPOCH) // _MILLISECOND
    except (ValueError, TypeError, OverflowError):
        return None


_RENDERERS: Mapping[Class, Callable[[Line, Activity, Producer, Attributes], None]] = {
    Class.API_ACTIVITY: _render_api_activity,
    Class.ACCOUNT_CHANGE: _render_account,
    Class.ENTITY_MANAGEMENT: _render_entity,
    Class.AUTHENTICATION: _render_authentication,
    Class.AUTHORIZE_SESSION: _render_session,
    Class.DETECTION_FINDING: _render_finding,
    Class.INCIDENT_FINDING: _render_incident,
}
