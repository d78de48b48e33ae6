"""An identity (what a workload is) and its instances (the running copies of it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from troth.core.ids import IdentityId, InstanceId, NodeId, SpiffeId
from troth.identity.client import NO_CLIENT, Client
from troth.identity.selectors import Selector


class Kind(StrEnum):
    """What sort of machine an identity is."""

    SERVICE = "service"
    JOB = "job"
    DEVICE = "device"
    PIPELINE = "pipeline"
    AGENT = "agent"
    BOT = "bot"


class State(StrEnum):
    """Where an identity is in its life; `retired` is the end."""

    PROPOSED = "proposed"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    QUARANTINED = "quarantined"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class IdentitySpec:
    """What an owner asks for: the part of an identity that manifests and the API may set.

    The end of its life is a moment (`expires_at`), or a time counted from its registration
    (`lifetime`, so that applying the same manifest again later changes nothing), or neither: then
    a new identity gets the default and an existing one keeps what it has.
    """

    name: str
    path: str
    kind: Kind
    owner: str
    purpose: str
    environment: str
    labels: Mapping[str, str]
    selectors: tuple[Selector, ...]
    nodes: tuple[str, ...]
    dns_names: tuple[str, ...]
    x509_ttl: timedelta
    jwt_ttl: timedelta
    expires_at: datetime | None
    hint: str = ""
    lifetime: timedelta | None = None
    roles: tuple[str, ...] = ()
    delegates: tuple[str, ...] = ()
    client: Client = NO_CLIENT


@dataclass(frozen=True, slots=True)
class Identity:
    """A registered identity. `managed` is true when a manifest brought it, so `--prune` may end it.

    `template` names the template that made it at first sight, and is empty for all others.
    `revision` counts changes of any field and starts at 1. `state_before` is set in quarantine:
    what a release returns to. `roles` say what it may do, `delegates` name the identities that may
    act on its behalf.
    """

    id: IdentityId
    name: str
    spiffe_id: SpiffeId
    kind: Kind
    owner: str
    purpose: str
    environment: str
    labels: Mapping[str, str]
    selectors: tuple[Selector, ...]
    nodes: tuple[str, ...]
    dns_names: tuple[str, ...]
    x509_ttl: timedelta
    jwt_ttl: timedelta
    hint: str
    expires_at: datetime
    state: State
    state_reason: str
    managed: bool
    revision: int
    created_at: datetime
    updated_at: datetime
    state_before: State | None = None
    template: str = ""
    roles: tuple[str, ...] = ()
    delegates: tuple[str, ...] = ()
    client: Client = NO_CLIENT


@dataclass(frozen=True, slots=True)
class Instance:
    """One running copy of an identity on one node; it can be locked alone.

    `evidence` are the attested selectors in words, `pid` and `started` (clock ticks since boot)
    tell copies apart.
    """

    id: InstanceId
    identity_id: IdentityId
    node_id: NodeId
    pid: int
    evidence: tuple[str, ...]
    locked: bool
    locked_reason: str
    first_seen: datetime
    last_seen: datetime


def tell_refusal(identity: Identity, state: State, now: datetime) -> str:
    """Why nothing is permitted to an identity that is in `state` at `now`; "" if rules decide."""
    if state is not State.ACTIVE:
        return f"{identity.spiffe_id} is {state.value}."
    if identity.expires_at <= now:
        return f"{identity.spiffe_id} has expired."
    return ""
