"""How long things live and how much they may hold: the bounds of every credential we issue."""

from __future__ import annotations

from datetime import datetime, timedelta

from troth.core.errors import Invalid

X509_TTL_CEILING = timedelta(hours=24)
"""No leaf certificate outlives this, whatever a registration asks for."""

X509_TTL_DEFAULT = timedelta(hours=1)
"""What SPIRE issues by default too (``default_x509_svid_ttl``)."""

JWT_TTL_CEILING = timedelta(hours=1)
"""Bearer tokens can be replayed until they expire (JWT-SVID, section 6.1)."""

JWT_TTL_DEFAULT = timedelta(minutes=5)
"""What SPIRE issues by default too (``default_jwt_svid_ttl``)."""

ACCESS_TTL_CEILING = timedelta(hours=1)
"""No access token outlives this, whatever a resource allows."""

TOKENS_OVER = max(JWT_TTL_CEILING, ACCESS_TTL_CEILING) + timedelta(seconds=30)
"""How long after a moment the last token that was issued before it may pass for live: the ceiling,
and by how much a verifier's clock may be slow."""

BACKDATE = timedelta(seconds=10)
"""How far NotBefore lies in the past, for verifiers whose clock is slow."""

CA_LIFETIME = timedelta(days=365)
"""The life of a self-signed root of the trust domain."""

MAX_DNS_NAMES = 32
MAX_IP_ADDRESSES = 32

OUTAGE = timedelta(hours=48)
"""The longest absence of the server that verifiers survive without a new revocation list."""

CRL_PERIOD = timedelta(hours=1)
"""A revocation list is made anew this often, even when nothing was revoked."""

CRL_LIFETIME = timedelta(hours=72)
"""From thisUpdate to nextUpdate (RFC 5280, section 5.1.2.5).

A verifier with a list past its nextUpdate refuses everybody. So nextUpdate lies beyond the longest
outage that we promise to survive (`OUTAGE`, 48 h), counted from the oldest list that may be in use
when it begins (`CRL_PERIOD`), and beyond the end of every certificate that the list can concern
(`X509_TTL_CEILING`): nothing is ever accepted because a list ran out first.
"""

MIN_TTL = timedelta(seconds=1)
_SERIAL_LENGTH = 20


def check_ttl(asked: timedelta, ceiling: timedelta) -> timedelta:
    """`asked` cut to whole seconds; raises `Invalid` under one second or above `ceiling`."""
    if asked < MIN_TTL:
        raise Invalid("The time to live must be at least one second.")
    if asked > ceiling:
        raise Invalid(
            f"The time to live of {_show(asked)} is above the ceiling of {_show(ceiling)};"
            " ask for less."
        )
    return timedelta(seconds=int(asked.total_seconds()))


def derive_serial(random: bytes) -> int:
    """A serial number from 20 random bytes: positive and always 20 octets long.

    The top bit is cleared so that the DER INTEGER stays positive within 20 octets (RFC 5280,
    section 4.1.2.2) and the next one set so that it is never zero; 158 random bits remain, far
    above the 64 that the CA/Browser Forum's baseline requirements ask for (section 7.1).
    """
    if len(random) != _SERIAL_LENGTH:
        raise ValueError(f"a serial needs exactly {_SERIAL_LENGTH} random bytes")
    bits = int.from_bytes(random, "big")
    return bits & ((1 << 159) - 1) | (1 << 158)


def trim_seconds(moment: datetime) -> datetime:
    """`moment` without its fraction of a second: X.509 times have none (RFC 5280, 4.1.2.5)."""
    return moment.replace(microsecond=0)


def _show(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
