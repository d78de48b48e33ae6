"""Nodes on the wire: join tokens, attestation, and the stream that keeps an agent in step."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

MAX_SELECTORS = 64
MAX_SELECTOR = 4200
NodeName = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$(?!\n)")]


class CreateJoinToken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a one-time token with which one node may join; `ttl` in seconds."""

    node: NodeName
    ttl: Annotated[int, Meta(ge=10, le=604800)] = 600


class JoinTokenCreated(Struct, frozen=True, kw_only=True):
    """The token, shown this once; the server keeps only its hash."""

    token: str
    node: str
    expires_at: datetime


class AttestNode(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node proves itself; `csr` is DER.

    `method` is ``join_token``, with the token as `evidence`, or ``x509pop``, with what
    `troth.wire.x509pop` renders.
    """

    method: str
    evidence: Annotated[str, Meta(max_length=24576)]
    csr: bytes


class RenewNode(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An attested node asks for its next certificate over mutual TLS."""

    csr: bytes


class NodeCredential(Struct, frozen=True, kw_only=True):
    """A node's certificate chain (DER, leaf first) and the roots to trust."""

    node_id: str
    spiffe_id: str
    chain: list[bytes]
    x509_authorities: list[bytes]
    not_after: datetime


class EvictNode(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End a node, with the reason that the journal keeps."""

    name: Annotated[str, Meta(min_length=1, max_length=63)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class ListNodes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List nodes by name."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class NodeView(Struct, frozen=True, kw_only=True):
    """One node; `fingerprint` is the SHA-256 of its certificate's public key, if it showed one.

    `revoking` says that it was evicted, and that some of the many certificates of its workloads are
    still to be revoked.
    """

    id: str
    name: str
    spiffe_id: str
    state: str
    attestation: str
    attested_at: datetime
    expires_at: datetime
    last_seen: datetime | None = None
    fingerprint: str | None = None
    revoking: bool = False


class NodePage(Struct, frozen=True, kw_only=True):
    """A page of nodes."""

    items: list[NodeView]
    next: str | None = None


class SyncNode(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Follow everything that concerns the calling node."""


class Entry(Struct, frozen=True, kw_only=True):
    """One identity that the node may hold, or held and must cut off (`state`)."""

    identity_id: str
    name: str
    spiffe_id: str
    state: str
    selectors: list[str]
    dns_names: list[str]
    x509_ttl: int
    jwt_ttl: int
    hint: str
    revision: int
    expires_at: datetime
    template: str = ""


class TemplateEntry(Struct, frozen=True, kw_only=True):
    """One template that holds on the node: its name, and the patterns that must all fit."""

    name: str
    match: list[str]


class NodeSnapshot(Struct, frozen=True, kw_only=True, tag_field="message", tag="snapshot"):
    """The complete value for one node, as of journal position `epoch`.

    `lease` is for how many seconds it holds without word from the server; `jwks` is the JWK set of
    the JWT-SVID authorities; `locked` are ids of instances that are cut off on
    this node; `cut_off` are the SPIFFE IDs anywhere whose tokens must be refused now. `tainted` are
    keys of authorities whose signatures must be replaced now: of an X.509 authority the subject key
    identifier in hexadecimal, of a JWT authority the ``kid``. `spread` is over how many seconds
    all nodes spread what they all do at once, such as coming back after an outage.
    """

    epoch: int
    lease: int
    trust_domain: str
    entries: list[Entry]
    locked: list[str]
    x509_authorities: list[bytes]
    crls: list[bytes]
    jwks: dict[str, Any]
    cut_off: list[str] = []
    tainted: list[str] = []
    spread: int = 0
    templates: list[TemplateEntry] = []


class Heartbeat(Struct, frozen=True, kw_only=True, tag_field="message", tag="heartbeat"):
    """Nothing changed; the snapshot holds as of journal position `epoch`."""

    epoch: int


class StreamEnd(Struct, frozen=True, kw_only=True, tag_field="message", tag="end"):
    """The last line of a stream: why it ends, and whether to come back."""

    code: str
    detail: str
    retryable: bool


SyncMessage = NodeSnapshot | Heartbeat | StreamEnd


class WorkloadSeen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An instance that holds an identity now."""

    instance_id: str


class WorkloadRefused(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process that got no identity: what was attested, and how near it came."""

    pid: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    selectors: Annotated[
        list[Annotated[str, Meta(max_length=MAX_SELECTOR)]], Meta(max_length=MAX_SELECTORS)
    ]
    reason: Annotated[str, Meta(max_length=1000)]
    count: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 1


class ReportWorkloads(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node saw since its last report."""

    seen: Annotated[list[WorkloadSeen], Meta(max_length=10000)] = []
    refused: Annotated[list[WorkloadRefused], Meta(max_length=100)] = []


class Accepted(Struct, frozen=True, kw_only=True):
    """Done; there is nothing to tell."""
