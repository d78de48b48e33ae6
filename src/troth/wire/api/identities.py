"""Identities and instances on the wire. Times are RFC 3339, durations whole seconds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct, field

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Reason = Annotated[str, Meta(min_length=1, max_length=500)]
Limit = Annotated[int, Meta(ge=1, le=1000)]


class RegisterIdentity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Register one identity; it starts as `proposed` unless `activate` is true."""

    name: Name
    kind: str
    owner: str
    purpose: str
    environment: str = "default"
    path: str = ""
    labels: dict[str, str] = {}
    selectors: list[str] = []
    nodes: list[str] = field(default_factory=lambda: ["local"])
    dns_names: list[str] = []
    x509_ttl: int = 3600
    jwt_ttl: int = 300
    hint: str = ""
    expires_at: datetime | None = None
    activate: bool = False


class NameIdentity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name one identity."""

    name: Name


class MoveIdentity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Move an identity along its life cycle, with the reason that the journal keeps."""

    name: Name
    reason: Reason


class ListIdentities(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List identities by name; `after` is the last name of the page before.

    `unattended` leaves those that nobody uses, `template` those that the template made.
    `living` leaves the retired out. `order` is ``name``, or ``attention``: what is cut off first,
    then what was seen last, living ones alone and one page at most.
    """

    state: str | None = None
    kind: str | None = None
    text: str | None = None
    template: str | None = None
    unattended: bool = False
    after: str | None = None
    limit: Limit = 100
    living: bool = False
    order: str = "name"


class IdentityView(Struct, frozen=True, kw_only=True):
    """One identity as the API shows it.

    `revoking` says that it was cut off, and that some of its many certificates are still to be
    revoked one by one.
    """

    id: str
    name: str
    spiffe_id: str
    kind: str
    owner: str
    purpose: str
    environment: str
    labels: dict[str, str]
    selectors: list[str]
    nodes: list[str]
    dns_names: list[str]
    x509_ttl: int
    jwt_ttl: int
    hint: str
    expires_at: datetime
    state: str
    state_reason: str
    managed: bool
    revision: int
    created_at: datetime
    updated_at: datetime
    last_seen: datetime | None = None
    instances: int = 0
    template: str = ""
    revoking: bool = False


class IdentityPage(Struct, frozen=True, kw_only=True):
    """A page of identities; `next` is what to pass as `after`, or null at the end."""

    items: list[IdentityView]
    next: str | None = None


class ListInstances(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List the running copies of one identity."""

    name: Name


class MoveInstance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lock or unlock one instance, with the reason that the journal keeps."""

    id: Name
    reason: Reason


class InstanceView(Struct, frozen=True, kw_only=True):
    """One running copy of an identity."""

    id: str
    identity: str
    node: str
    pid: int
    evidence: list[str]
    locked: bool
    locked_reason: str
    first_seen: datetime
    last_seen: datetime


class InstanceList(Struct, frozen=True, kw_only=True):
    """The instances of one identity."""

    items: list[InstanceView]
