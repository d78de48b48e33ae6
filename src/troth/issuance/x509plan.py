"""The plan of a leaf certificate: what it will say, decided before anything is encoded or signed.

The profile is SPIFFE's X509-SVID.md within RFC 5280:

- The subject is empty and subjectAltName therefore critical (X509-SVID 3.1; RFC 5280, 4.1.2.6), as
  Istio has it. The SPIFFE ID then has no second name beside it that a verifier could match by
  mistake; SPIRE's ``C=US, O=SPIRE`` says nothing about the workload either. For verifiers that know
  no URI names there may be a common name: see `name_subject`.
- BasicConstraints is always there, critical, CA false: py-spiffe refuses a leaf without it.
- keyUsage is critical with digitalSignature alone (4.3), extendedKeyUsage has clientAuth and
  serverAuth (4.4).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.core.errors import Invalid
from troth.core.ids import SpiffeId
from troth.issuance.authorities import Authority, Use, require_signing
from troth.issuance.der import is_p256
from troth.issuance.profiles import (
    BACKDATE,
    MAX_DNS_NAMES,
    MAX_IP_ADDRESSES,
    X509_TTL_CEILING,
    check_ttl,
    derive_serial,
    trim_seconds,
)

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_MAX_DNS_LENGTH = 253
MAX_COMMON_NAME = 64
"""ub-common-name (RFC 5280, appendix A.1)."""
_COMMON_NAME = re.compile(rf"[A-Za-z0-9._/-]{{1,{MAX_COMMON_NAME}}}", re.ASCII)
_MAX_URL_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class CertificatePlan:
    """Everything a leaf certificate will say. `public_key` is DER SubjectPublicKeyInfo (P-256).

    Times are UTC in whole seconds. The usages are clientAuth and serverAuth, always.
    """

    spiffe_id: SpiffeId
    public_key: bytes
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    serial: int
    not_before: datetime
    not_after: datetime
    issuer: Authority
    crl_url: str | None = None
    common_name: str = ""
    """The subject's one attribute; "" for an empty subject."""


def plan_certificate(
    *,
    spiffe_id: SpiffeId,
    public_key: bytes,
    dns_names: Sequence[str] = (),
    ip_addresses: Sequence[str] = (),
    ttl: timedelta,
    issuer: Authority,
    serial_bytes: bytes,
    now: datetime,
    crl_url: str | None = None,
    common_name: str = "",
) -> CertificatePlan:
    """Decide what to certify; raises `Invalid` or `Refused` with the reason.

    `serial_bytes` are 20 random bytes. NotBefore lies 10 s back, NotAfter `ttl` ahead, both within
    the issuer's own validity.
    """
    require_signing(issuer, Use.X509, now)
    ttl = check_ttl(ttl, X509_TTL_CEILING)
    if not spiffe_id.path:
        raise Invalid("A leaf certificate needs a SPIFFE ID with a path (X509-SVID, 3.1).")
    if not is_p256(public_key):
        raise Invalid("The public key must be an ECDSA P-256 key, uncompressed.")
    if len(dns_names) > MAX_DNS_NAMES or len(ip_addresses) > MAX_IP_ADDRESSES:
        raise Invalid(
            f"At most {MAX_DNS_NAMES} DNS names and {MAX_IP_ADDRESSES} addresses fit a certificate."
        )
    start = trim_seconds(now)
    return CertificatePlan(
        spiffe_id=spiffe_id,
        public_key=public_key,
        dns_names=tuple(dict.fromkeys(check_dns_name(name) for name in dns_names)),
        ip_addresses=tuple(dict.fromkeys(check_address(text) for text in ip_addresses)),
        serial=derive_serial(serial_bytes),
        not_before=max(start - BACKDATE, trim_seconds(issuer.not_before)),
        not_after=min(start + ttl, trim_seconds(issuer.not_after)),
        issuer=issuer,
        crl_url=None if crl_url is None else _check_url(crl_url),
        common_name=_check_common_name(common_name),
    )


def name_subject(spiffe_id: SpiffeId) -> str:
    """The common name for an identity: the path of its SPIFFE ID, which nobody else has in the
    trust domain; "" for one that is too long for it."""
    name = spiffe_id.path.removeprefix("/")
    return name if len(name) <= MAX_COMMON_NAME else ""


def _check_common_name(name: str) -> str:
    if name and not _COMMON_NAME.fullmatch(name):
        raise Invalid(f"{name[:80]!r} can't be a common name.")
    return name


def check_dns_name(name: str) -> str:
    """`name` if it may stand in a certificate: lower-case letters, digits, dashes; no wildcard.

    The preferred name syntax of RFC 1034, section 3.5, as RFC 5280, 4.2.1.6 demands. A name whose
    last label is a number would read as an address.
    """
    labels = name.split(".")
    fits = len(name) <= _MAX_DNS_LENGTH and all(_LABEL.fullmatch(label) for label in labels)
    if not fits or labels[-1].isdigit():
        raise Invalid(
            f"{name[:80]!r} can't be a DNS name in a certificate: use lower-case letters, digits,"
            " dashes and dots (no wildcard, no underscore, no address)."
        )
    return name


def check_address(text: str) -> str:
    """An IPv4 or IPv6 address in its canonical form, without a zone."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise Invalid(f"{text[:80]!r} is not an IP address.") from error
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise Invalid(f"{text[:80]!r} has a zone; a certificate takes the address alone.")
    return str(address)


def _check_url(url: str) -> str:
    """A CRL is signed, so plain HTTP is right for it (RFC 5280, section 8)."""
    printable = url.isascii() and url.isprintable() and " " not in url
    if not (url.startswith(("http://", "https://")) and printable and len(url) <= _MAX_URL_LENGTH):
        raise Invalid("The CRL address must be an http or https URL of at most 2048 characters.")
    return url
