"""The server's state on the wire."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class GetStatus(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask how the installation is."""


class AuthorityView(Struct, frozen=True, kw_only=True):
    """One signing authority, without its key."""

    id: str
    use: str
    state: str
    not_before: datetime
    not_after: datetime


class OperationUse(Struct, frozen=True, kw_only=True):
    """How often one operation was called since the server started.

    `refused` are calls that ended with a refusal, `failed` those that the server itself couldn't
    carry out; `buckets` counts calls up to each of the status' `bounds`, in seconds. The difference
    of two looks tells rates and durations.
    """

    name: str
    calls: int
    refused: int
    failed: int
    buckets: list[int]


class StatusView(Struct, frozen=True, kw_only=True):
    """The installation at a glance; `findings` are sentences that say what to mend.

    `origin` is the URL under which the public listener is reached from outside. `waiting` committed
    events aren't sealed yet; `silence` is how long the live snapshot hasn't heard from the journal,
    and at `lease` it denies everything, in seconds; `nodes_silent` active nodes weren't heard of
    for five minutes.
    """

    version: str
    trust_domain: str
    origin: str
    ready: bool
    started_at: datetime
    journal_head: int
    epoch: int
    identities: dict[str, int]
    nodes: int
    authorities: list[AuthorityView]
    crl_next_update: datetime | None
    findings: list[str]
    waiting: int = 0
    silence: float = 0.0
    lease: float = 0.0
    nodes_silent: int = 0
    operations: list[OperationUse] = []
    bounds: list[float] = []
