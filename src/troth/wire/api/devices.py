"""Devices on the wire: enrolment codes, enrolment with a CSR, renewal."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

MAX_INVITED = 1000
MAX_EVIDENCE = 24 * 1024


class InviteDevices(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make one-time enrolment codes, one for each name; `ttl` in seconds.

    A name that stands there several times gets several codes: one for each copy of the device.
    """

    names: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=128)]],
        Meta(min_length=1, max_length=MAX_INVITED),
    ]
    ttl: Annotated[int, Meta(ge=60, le=2592000)] = 3600


class EnrolmentCode(Struct, frozen=True, kw_only=True):
    """One code, shown this once; the server keeps only its hash. `id` is no secret."""

    id: str
    name: str
    code: str


class DevicesInvited(Struct, frozen=True, kw_only=True):
    """The codes, in the order of the names, and when they end."""

    codes: list[EnrolmentCode]
    expires_at: datetime


class EnrollDevice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device proves which identity it is; `csr` is DER.

    `method` is ``code``, and `evidence` the enrolment code; or ``x509pop``, and `evidence` is the
    manufacturer's certificate with the proof that the device holds its key.
    """

    method: Annotated[str, Meta(max_length=32)]
    evidence: Annotated[str, Meta(max_length=MAX_EVIDENCE)]
    csr: bytes


class RenewDevice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An enrolled device asks for its next certificate over mutual TLS."""

    csr: bytes


class DeviceCredential(Struct, frozen=True, kw_only=True):
    """A device's certificate chain (DER, leaf first) and the roots to trust.

    `renew_after` is when to ask for the next one, at half of this one's life; add jitter of your
    own, so that a fleet that was enrolled together doesn't come back together.
    """

    identity: str
    instance_id: str
    spiffe_id: str
    chain: list[bytes]
    x509_authorities: list[bytes]
    not_after: datetime
    renew_after: datetime
