"""Issuance on the wire: batches of CSRs in, certificate chains or reasons out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

MAX_BATCH = 256
MAX_SELECTORS = 64
MAX_SELECTOR = 4200


class InstanceClaim(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The running copy for which a node asks, and what the node attested about it.

    `key` is the node's own stable name for the process (boot id, pid, start time, hashed).
    """

    key: Annotated[str, Meta(pattern=r"^[0-9a-f]{16,64}$(?!\n)")]
    pid: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    selectors: Annotated[
        list[Annotated[str, Meta(max_length=MAX_SELECTOR)]], Meta(max_length=MAX_SELECTORS)
    ]


class CertificateRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One CSR (DER, base64 in JSON) for one identity's instance."""

    identity_id: str
    csr: bytes
    instance: InstanceClaim


class IssueCertificates(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch of certificate requests of one node."""

    requests: Annotated[list[CertificateRequest], Meta(min_length=1, max_length=MAX_BATCH)]


class Failure(Struct, frozen=True, kw_only=True):
    """Why one request of a batch was refused: an error's code and detail."""

    code: str
    detail: str


class IssuedCertificate(Struct, frozen=True, kw_only=True):
    """One answer of a batch: either the chain (DER, leaf first, without the root) or an error."""

    identity_id: str
    instance_id: str = ""
    serial: str = ""
    chain: list[bytes] = []
    not_after: datetime | None = None
    error: Failure | None = None


class IssuedCertificates(Struct, frozen=True, kw_only=True):
    """The answers, in the order of the requests."""

    results: list[IssuedCertificate]


class RevokeCertificate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Revoke one certificate by its serial in hexadecimal."""

    serial: Annotated[str, Meta(pattern=r"^[0-9a-f]{1,40}$(?!\n)")]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class ListCertificates(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List the unexpired certificates of one identity."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]


class CertificateView(Struct, frozen=True, kw_only=True):
    """One certificate's record."""

    serial: str
    spiffe_id: str
    state: str
    not_before: datetime
    not_after: datetime
    instance_id: str | None = None
    node_id: str | None = None
    revoked_at: datetime | None = None
    revocation_reason: str | None = None


class CertificateList(Struct, frozen=True, kw_only=True):
    """Certificates of one identity, newest first."""

    items: list[CertificateView]
