"""What a proxy asks about each request that passes it, and what it is told."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

MAX_TARGET = 8_192
MAX_CREDENTIAL = 16_384
MAX_CERTIFICATE = 16_384

Point = Literal["envoy", "nginx", "traefik", "proxy"]
Transport = Literal["plain", "tls", "mtls"]


class EnforceDecision(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask whether a request may pass. `path` is its target as it was sent, `authorization` and
    `dpop` are those headers of it.

    `certificate` (DER) is that of the workload that sent it, with which TLS was proved to the
    proxy; where a proxy tells less, `peer` is the SPIFFE ID in it and `fingerprint` its SHA-256 in
    hexadecimal. `ip` is where the request came from.
    """

    method: Annotated[str, Meta(max_length=64)]
    host: Annotated[str, Meta(max_length=512)]
    path: Annotated[str, Meta(max_length=MAX_TARGET)]
    authorization: Annotated[str, Meta(max_length=MAX_CREDENTIAL)] = ""
    dpop: Annotated[str, Meta(max_length=MAX_CREDENTIAL)] = ""
    certificate: Annotated[bytes, Meta(max_length=MAX_CERTIFICATE)] = b""
    peer: Annotated[str, Meta(max_length=2_048)] = ""
    fingerprint: Annotated[str, Meta(max_length=64)] = ""
    ip: Annotated[str, Meta(max_length=64)] = ""
    transport: Transport = "plain"
    point: Point = "proxy"


class EnforcedDecision(Struct, frozen=True, kw_only=True):
    """Whether it may pass. `status` is the HTTP status of a refusal (200 if it may), `reason` its
    id and `detail` a sentence for whoever operates the proxy; `challenge` goes into
    ``WWW-Authenticate``. `subject` is for whom the request speaks, `actors` who act for it;
    `decision` the id under which the answer is written down."""

    allowed: bool
    decision: str
    status: int
    reason: str = ""
    detail: str = ""
    challenge: str = ""
    subject: str = ""
    actors: list[str] = []
    resource: str = ""
    action: str = ""
    id: str = ""
