"""Records that exist only because something must be remembered; domain types live in domains."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from troth.core.ids import (
    AuthorityId,
    CodeId,
    IdentityId,
    InstanceId,
    NodeId,
    RequestId,
    SecretId,
    SpiffeId,
    TokenId,
)
from troth.issuance.presented import SERIAL_DIGITS as SERIAL_DIGITS
from troth.issuance.presented import format_serial as format_serial


class NodeState(StrEnum):
    """Whether a node may host identities; an evicted one must join anew, as a new node."""

    ACTIVE = "active"
    EVICTED = "evicted"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that an attested agent runs on. `attestation` names how it proved itself.

    `fingerprint` is the SHA-256 (hex) of the key of the certificate that it showed, if it did
    (of its SubjectPublicKeyInfo). An evicted machine may not prove itself anew by a certificate
    until an administrator has let it (`readmitted_at`).
    """

    id: NodeId
    name: str
    spiffe_id: SpiffeId
    state: NodeState
    attestation: str
    attested_at: datetime
    certificate_serial: str
    expires_at: datetime
    last_seen: datetime
    fingerprint: str | None = None
    readmitted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A one-time permission to join as `node_name`. Only a hash of its secret is kept.

    `used_by` is the node that joined with it and `key_hash` the SHA-256 (hex) of that node's public
    key, which alone may show it again.
    """

    id: TokenId
    secret_hash: str
    node_name: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    used_by: str | None = None
    key_hash: str | None = None


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A secret with which an identity proves itself as an OAuth client. Only a hash of it is kept.

    It is good until it expires or is revoked, whichever is first.
    """

    id: SecretId
    secret_hash: str
    identity_id: IdentityId
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether it may be good now."""
        return self.revoked_at is None and now < self.expires_at


@dataclass(frozen=True, slots=True)
class EnrolmentCode:
    """A one-time permission for one device to enrol as an identity. Only a hash of it is kept.

    `key_hash` is the SHA-256 (hex) of the public key that it was used for: that key alone may show
    it again, so that a lost answer loses nobody.
    """

    id: CodeId
    secret_hash: str
    identity_id: IdentityId
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    key_hash: str | None = None


class CertificateKind(StrEnum):
    """What a certificate is for."""

    WORKLOAD = "workload"
    DEVICE = "device"
    NODE = "node"
    SERVER = "server"
    CA = "ca"


class IssuanceState(StrEnum):
    """intended (recorded, perhaps being signed) → issued, or abandoned (never handed out)."""

    INTENDED = "intended"
    ISSUED = "issued"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A certificate from the moment its bytes to be signed are fixed.

    `serial` is as `format_serial` writes it, `tbs` the exact bytes that the keystore is asked to
    sign, `der` the certificate once issued; `revocation_reason` is one of RFC 5280's names.
    """

    serial: str
    kind: CertificateKind
    subject: SpiffeId
    identity_id: IdentityId | None
    instance_id: InstanceId | None
    node_id: NodeId | None
    authority_id: AuthorityId
    state: IssuanceState
    tbs: bytes
    not_before: datetime
    not_after: datetime
    created_at: datetime
    der: bytes | None = None
    revoked_at: datetime | None = None
    revocation_reason: str | None = None


class CertificateName(NamedTuple):
    """Whose a certificate is and until when; `subject` is a SPIFFE ID as text."""

    serial: str
    subject: str
    not_after: datetime


class HolderKind(StrEnum):
    """Whose certificates are withdrawn together."""

    IDENTITY = "identity"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What one holder had when it was taken away from it, to be revoked in batches.

    `holder` is an id, `subject` its SPIFFE ID; `actor`, `source` and `request_id` are those of the
    call that took it away; whatever ends before `reached` is done.
    """

    holder: str
    kind: HolderKind
    subject: str
    reason: str
    actor: str
    source: str
    request_id: RequestId
    began_at: datetime
    reached: datetime


class Revocation(NamedTuple):
    """One entry of a revocation list."""

    serial: str
    revoked_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class JwtSvidRecord:
    """A JWT-SVID's record. `digest` is the SHA-256 (hex) of the signing input; a token itself is
    a bearer secret and is never stored."""

    jti: str
    identity_id: IdentityId
    node_id: NodeId | None
    audiences: tuple[str, ...]
    authority_id: AuthorityId
    state: IssuanceState
    digest: str
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class CrlRecord:
    """A revocation list of one authority; numbers grow by one (RFC 5280, section 5.2.3)."""

    authority_id: AuthorityId
    number: int
    state: IssuanceState
    tbs: bytes
    this_update: datetime
    next_update: datetime
    der: bytes | None = None
