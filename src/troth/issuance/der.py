"""The little DER that we read and write ourselves: elements, and the signed envelope.

Certificates and revocation lists share one shape, ``SEQUENCE { toBeSigned, signatureAlgorithm,
signature BIT STRING }`` (RFC 5280, sections 4.1 and 5.1). What lies inside is made by a library;
the envelope is put together here, because the signature comes from a keystore. All keys here are
ECDSA P-256 (RFC 5480) and all signatures ecdsa-with-SHA256 (RFC 5758, section 3.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from troth.core.errors import Internal

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
ENUMERATED = 0x0A
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30

ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
"""The AlgorithmIdentifier of ecdsa-with-SHA256: no parameters (RFC 5758, section 3.2)."""

P256_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
"""How every SubjectPublicKeyInfo of an uncompressed P-256 point begins (RFC 5480, section 2)."""

_ALGORITHM = ec.ECDSA(hashes.SHA256())
_P256_LENGTH = len(P256_PREFIX) + 65


class Element(NamedTuple):
    """One DER element: its tag, its content, and the whole encoding with tag and length."""

    tag: int
    content: bytes
    encoding: bytes


def read_element(data: bytes, at: int = 0) -> Element:
    """The element that starts at `at`; raises ValueError if it is not complete, minimal DER."""
    if len(data) < at + 2:
        raise ValueError("truncated element")
    tag, length, start = data[at], data[at + 1], at + 2
    if tag & 0x1F == 0x1F:
        raise ValueError("multi-byte tag")
    if length >= 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or len(data) < start + count:
            raise ValueError("bad length")
        length = int.from_bytes(data[start : start + count], "big")
        if length < 0x80 or length < 1 << (8 * (count - 1)):
            raise ValueError("length is not minimal")
        start += count
    end = start + length
    if end > len(data):
        raise ValueError("truncated element")
    return Element(tag, data[start:end], data[at:end])


def read_elements(content: bytes) -> Iterator[Element]:
    """The elements that fill `content` one after another."""
    at = 0
    while at < len(content):
        element = read_element(content, at)
        yield element
        at += len(element.encoding)


def encode_element(tag: int, content: bytes) -> bytes:
    """`content` with tag and minimal length in front."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def is_p256(public_key: bytes) -> bool:
    """Whether `public_key` is a SubjectPublicKeyInfo of an uncompressed P-256 point, by form."""
    return (
        len(public_key) == _P256_LENGTH
        and public_key.startswith(P256_PREFIX)
        and public_key[len(P256_PREFIX)] == 4
    )


def identify_key(public_key: bytes) -> bytes:
    """The key identifier of a P-256 SubjectPublicKeyInfo: 20 bytes (RFC 7093, section 2, 1)."""
    return hashlib.sha256(public_key[len(P256_PREFIX) :]).digest()[:20]


def split_der(data: bytes) -> list[bytes]:
    """Concatenated DER certificates, one by one; raises ValueError if they aren't complete."""
    elements = list(read_elements(data))
    if not elements or any(element.tag != SEQUENCE for element in elements):
        raise ValueError("not certificates")
    return [element.encoding for element in elements]


def read_signer(certificate: x509.Certificate) -> str:
    """The key identifier (hex) of who signed a certificate; "" if it doesn't say. Ours all do."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return ""
    return (found.value.key_identifier or b"").hex()


def assemble_signed(tbs: bytes, signature: bytes) -> bytes:
    """The certificate or revocation list of `tbs` and a DER Ecdsa-Sig-Value."""
    bits = encode_element(BIT_STRING, b"\x00" + signature)
    return encode_element(SEQUENCE, tbs + ECDSA_WITH_SHA256 + bits)


def check_signed(der: bytes, tbs: bytes, public_key: bytes | ec.EllipticCurvePublicKey) -> None:
    """Raise `Internal` unless `der` is exactly `tbs` signed by the owner of `public_key`."""
    try:
        envelope = read_element(der)
        parts = list(read_elements(envelope.content))
    except ValueError as error:
        raise Internal("What was signed can't be read back; it was not given out.") from error
    if (
        envelope.tag != SEQUENCE
        or len(envelope.encoding) != len(der)
        or len(parts) != 3
        or parts[2].tag != BIT_STRING
        or parts[2].content[:1] != b"\x00"
    ):
        raise Internal("What was signed has the wrong shape; it was not given out.")
    if parts[0].encoding != tbs:
        raise Internal("What was signed differs from what was recorded; it was not given out.")
    if parts[1].encoding != ECDSA_WITH_SHA256:
        raise Internal("What was signed names another algorithm; it was not given out.")
    verify_signature(public_key, parts[2].content[1:], tbs)


def load_verifier(public_key: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a DER SubjectPublicKeyInfo, for those who verify many; `Internal` unless P-256."""
    try:
        key = load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Internal("The authority's recorded public key can't be read.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise Internal("The authority's recorded public key is not a P-256 key.")
    return key


def verify_signature(
    public_key: bytes | ec.EllipticCurvePublicKey, signature: bytes, data: bytes
) -> None:
    """Raise `Internal` unless the DER `signature` over `data` verifies with P-256, SHA-256."""
    key = load_verifier(public_key) if isinstance(public_key, bytes) else public_key
    try:
        key.verify(signature, data, _ALGORITHM)
    except InvalidSignature as error:
        raise Internal(
            "The keystore's signature doesn't verify with the authority's public key;"
            " nothing was given out."
        ) from error
