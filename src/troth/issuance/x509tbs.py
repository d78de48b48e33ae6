"""Writes the TBSCertificate of a planned leaf, byte by byte (RFC 5280, section 4.1).

A leaf of ours has one shape, so it is written directly: a tenth of the time that the library's
builder takes. Nothing here is believed: what it writes is read back by the library's parser, by
other code and against the plan (`troth.issuance.lint`), before anybody signs it.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime

from troth.issuance.der import (
    ECDSA_WITH_SHA256,
    GENERALIZED_TIME,
    INTEGER,
    SEQUENCE,
    UTC_TIME,
    encode_element,
    identify_key,
)
from troth.issuance.drafter import Issuer
from troth.issuance.x509plan import CertificatePlan

PLACEHOLDER = bytes.fromhex("3006020101020101")
"""What stands in a draft for the signature: an Ecdsa-Sig-Value of r = 1 and s = 1, made with no
key. A draft that leaks therefore proves nothing to anyone."""

_OCTET_STRING = 0x04
_VERSION_3 = bytes.fromhex("a003020102")
_NO_SUBJECT = bytes.fromhex("3000")
_COMMON_NAME = bytes.fromhex("0603550403")
_SET, _UTF8_STRING = 0x31, 0x0C
_EXTENSIONS = 0xA3
_URI, _DNS, _ADDRESS = 0x86, 0x82, 0x87  # GeneralName [6], [2], [7] (RFC 5280, 4.2.1.6)
_KEY_IDENTIFIER = 0x80  # of AuthorityKeyIdentifier, [0] (RFC 5280, 4.2.1.1)
_FIRST_GENERALIZED_YEAR = 2050

_BASIC_CONSTRAINTS = bytes.fromhex("300c0603551d130101ff04023000")
"""id-ce 19, critical, an empty sequence: CA false."""
_KEY_USAGE = bytes.fromhex("300e0603551d0f0101ff040403020780")
"""id-ce 15, critical, digitalSignature alone: seven unused bits, the first one set."""
_EXTENDED_KEY_USAGE = bytes.fromhex(
    "301d0603551d250416301406082b0601050507030106082b06010505070302"
)
"""id-ce 37: id-kp-serverAuth and id-kp-clientAuth."""
_ALTERNATIVE_NAME = bytes.fromhex("0603551d110101ff")
"""id-ce 17, critical, as it must be where the subject is empty."""
_SUBJECT_KEY = bytes.fromhex("301d0603551d0e04160414")
"""id-ce 14, up to the 20 bytes of the identifier."""
_AUTHORITY_KEY = bytes.fromhex("0603551d23")
"""id-ce 35."""
_DISTRIBUTION_POINTS = bytes.fromhex("0603551d1f")
"""id-ce 31."""


def encode_tbs(plan: CertificatePlan, issuer: Issuer) -> bytes:
    """The DER TBSCertificate that says what is planned."""
    size = plan.serial.bit_length() // 8 + 1
    validity = _encode_time(plan.not_before) + _encode_time(plan.not_after)
    fields = (
        _VERSION_3,
        encode_element(INTEGER, plan.serial.to_bytes(size, "big")),
        ECDSA_WITH_SHA256,
        issuer.name_der,
        encode_element(SEQUENCE, validity),
        encode_subject(plan.common_name),
        plan.public_key,
        encode_element(_EXTENSIONS, encode_element(SEQUENCE, _encode_extensions(plan, issuer))),
    )
    return encode_element(SEQUENCE, b"".join(fields))


def encode_subject(common_name: str) -> bytes:
    """A Name of one attribute, id-at-commonName as UTF8String; without one it is empty."""
    if not common_name:
        return _NO_SUBJECT
    value = _COMMON_NAME + encode_element(_UTF8_STRING, common_name.encode("ascii"))
    return encode_element(SEQUENCE, encode_element(_SET, encode_element(SEQUENCE, value)))


def _encode_extensions(plan: CertificatePlan, issuer: Issuer) -> bytes:
    names = [encode_element(_URI, str(plan.spiffe_id).encode("ascii"))]
    names += [encode_element(_DNS, name.encode("ascii")) for name in plan.dns_names]
    names += [
        encode_element(_ADDRESS, ipaddress.ip_address(text).packed) for text in plan.ip_addresses
    ]
    authority = encode_element(_KEY_IDENTIFIER, issuer.key_identifier)
    parts = [
        _BASIC_CONSTRAINTS,
        _KEY_USAGE,
        _EXTENDED_KEY_USAGE,
        _encode_extension(_ALTERNATIVE_NAME, encode_element(SEQUENCE, b"".join(names))),
        _SUBJECT_KEY,
        identify_key(plan.public_key),
        _encode_extension(_AUTHORITY_KEY, encode_element(SEQUENCE, authority)),
    ]
    if plan.crl_url is not None:
        point = encode_element(_URI, plan.crl_url.encode("ascii"))
        # DistributionPoint → distributionPoint [0] → fullName [0] (RFC 5280, 4.2.1.13)
        for tag in (0xA0, 0xA0, SEQUENCE, SEQUENCE):
            point = encode_element(tag, point)
        parts.append(_encode_extension(_DISTRIBUTION_POINTS, point))
    return b"".join(parts)


def _encode_extension(head: bytes, value: bytes) -> bytes:
    return encode_element(SEQUENCE, head + encode_element(_OCTET_STRING, value))


def _encode_time(moment: datetime) -> bytes:
    if moment.year >= _FIRST_GENERALIZED_YEAR:
        return encode_element(GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode("ascii"))
    return encode_element(UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode("ascii"))
