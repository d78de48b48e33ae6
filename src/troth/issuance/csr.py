"""Certificate signing requests: we take the public key and proof of its possession, nothing else.

Names, times and usages come from the registration. A request that asks for any of them is refused
rather than ignored, so nobody believes to have got what they didn't. Source: RFC 2986 (PKCS #10).
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from troth.core.errors import Invalid, TooLarge
from troth.core.x509 import UNREADABLE
from troth.issuance.der import read_element, read_elements

MAX_CSR_SIZE = 16 * 1024
"""Bytes; a request for a P-256 key takes some 250."""

_EXTENSION_REQUESTS = ("1.2.840.113549.1.9.14", "1.3.6.1.4.1.311.2.1.14")
"""extensionRequest of RFC 2985, section 5.4.2, and Microsoft's attribute of the same meaning."""

_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


def parse_csr(der: bytes) -> bytes:
    """The DER SubjectPublicKeyInfo that a DER PKCS #10 request asks to have certified.

    The subject and unknown attributes are ignored. Raises `TooLarge` or `Invalid` with a sentence
    that says what to change.
    """
    if len(der) > MAX_CSR_SIZE:
        raise TooLarge(f"The CSR is larger than {MAX_CSR_SIZE // 1024} KiB.")
    request = _load(der)
    key = _require_p256(request)
    _refuse_extensions(request)
    _check_possession(request)
    public_key = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # The library also understands a compressed point and written-out curve parameters. RFC 5480,
    # section 2.1.1, forbids the latter, and one key should have one form.
    if _read_public_key(der) != public_key:
        raise Invalid("The CSR's key must name the curve P-256 and give the point uncompressed.")
    return public_key


def _read_public_key(der: bytes) -> bytes:
    info = read_element(read_element(der).content)
    _version, _subject, public_key, *_attributes = read_elements(info.content)
    return public_key.encoding


def _load(der: bytes) -> x509.CertificateSigningRequest:
    if not der:
        raise Invalid("The CSR is empty; send a PKCS #10 request in DER.")
    if der.lstrip().startswith(b"-----BEGIN"):
        raise Invalid("The CSR is PEM; send the DER form.")
    try:
        whole = read_element(der)
    except ValueError as error:
        raise Invalid("The CSR is truncated or not DER; send a PKCS #10 request.") from error
    if len(whole.encoding) != len(der):
        raise Invalid("The CSR has bytes after its end; send the request alone.")
    try:
        return x509.load_der_x509_csr(der)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise Invalid("The CSR can't be parsed; send a PKCS #10 request in DER.") from error


def _require_p256(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    try:
        key = request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Invalid("The CSR's public key can't be read; use an ECDSA P-256 key.") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return key
    match key:
        case ec.EllipticCurvePublicKey():
            kind = f"on the curve {key.curve.name}"
        case rsa.RSAPublicKey():
            weak = "a weak" if key.key_size < 2048 else "an"
            kind = f"{weak} RSA key of {key.key_size} bits"
        case ed25519.Ed25519PublicKey():
            kind = "an Ed25519 key"
        case ed448.Ed448PublicKey():
            kind = "an Ed448 key"
        case dsa.DSAPublicKey():
            kind = "a DSA key"
        case _:
            kind = "of another kind"
    raise Invalid(f"The CSR's key is {kind}; use an ECDSA P-256 key.")


def _refuse_extensions(request: x509.CertificateSigningRequest) -> None:
    try:
        requests = [a for a in request.attributes if a.oid.dotted_string in _EXTENSION_REQUESTS]
        extensions = list(request.extensions)
    except UNREADABLE as error:
        raise Invalid("The CSR's extension request can't be parsed; leave it out.") from error
    # The library reads the first one only; what a second one asks for would go unseen.
    if len(requests) > 1:
        raise Invalid("The CSR has more than one extension request; leave them out.")
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            raise Invalid("The server sets the names; leave subjectAltName out of the CSR.")
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise Invalid("The CSR asks for CA:true; leave basicConstraints out, only leaves here.")
        name = getattr(extension.oid, "_name", extension.oid.dotted_string)
        shown = name if name != "Unknown OID" else extension.oid.dotted_string
        raise Invalid(f"The CSR asks for the extension {shown}; leave extensions out of the CSR.")


def _check_possession(request: x509.CertificateSigningRequest) -> None:
    """The request's own signature proves that the asker holds the private key."""
    try:
        digest = request.signature_hash_algorithm
        sound = isinstance(digest, _HASHES) and request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm):
        sound = False
    if not sound:
        raise Invalid(
            "The CSR's signature is wrong; sign it with its own key, ECDSA and SHA-256 or better."
        )
