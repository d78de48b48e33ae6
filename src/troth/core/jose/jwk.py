"""JSON Web Keys (public ones alone), and the base64url that all of JOSE is written in.

Sources: RFC 7517 (JWK), RFC 7518 sections 6.2 and 6.3 (EC and RSA members), RFC 8037 section 2
(Ed25519), RFC 7638 (thumbprints).
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from troth.core.errors import Invalid

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_CURVES: dict[str, tuple[ec.EllipticCurve, int]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
    "P-521": (ec.SECP521R1(), 66),
}
"""Curve name → curve and the bytes of a coordinate (RFC 7518, sections 6.2.1.1 and 6.2.1.2)."""

_CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_REQUIRED = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
"""The members of a thumbprint in their order (RFC 7638, section 3.2; RFC 8037, section 2)."""
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SECRET = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""Members that only a private or a symmetric key has (RFC 7518, sections 6.2.2, 6.3.2, 6.4)."""
_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 8192


_TO_BASE64 = bytes.maketrans(b"-_+/=", b"+/!!!")
"""What base64 alone has becomes what neither has."""
_PADDING = (b"", b"", b"==", b"=")
_LAST = (
    _ALPHABET,
    b"",
    b"AQgw",
    b"AEIMQUYcgkosw048",
)
"""Which character may be the last, by the length modulo 4: others leave bits over,
so that the value could be written in several ways (RFC 4648, section 3.5)."""


def load_key(public_key: bytes) -> PublicKey:
    """The key of a DER SubjectPublicKeyInfo; `Invalid` for kinds that we don't use."""
    try:
        key = load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid("The public key can't be read.") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVE_NAMES:
        return key
    if isinstance(key, rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        return key
    raise Invalid("The public key is neither EC (P-256, P-384, P-521) nor Ed25519 nor RSA.")


def render_key(public_key: bytes | PublicKey) -> dict[str, str]:
    """The key members (`kty`, `crv` …) of a DER SubjectPublicKeyInfo, or of the key itself."""
    key = load_key(public_key) if isinstance(public_key, bytes) else public_key
    if isinstance(key, ec.EllipticCurvePublicKey):
        name = _CURVE_NAMES[key.curve.name]
        size = _CURVES[name][1]
        point = key.public_numbers()
        return {
            "kty": "EC",
            "crv": name,
            "x": encode_base64url(point.x.to_bytes(size, "big")),
            "y": encode_base64url(point.y.to_bytes(size, "big")),
        }
    if isinstance(key, ed25519.Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(key.public_bytes_raw())}
    numbers = key.public_numbers()
    return {
        "kty": "RSA",
        "n": encode_base64url(_minimal(numbers.n)),
        "e": encode_base64url(_minimal(numbers.e)),
    }


def render_jwk(kid: str, public_key: bytes, use: str, alg: str | None = None) -> dict[str, str]:
    """A JWK of a DER SubjectPublicKeyInfo."""
    jwk = render_key(public_key) | {"use": use, "kid": kid}
    return jwk if alg is None else jwk | {"alg": alg}


def load_jwk(jwk: Mapping[str, Any]) -> PublicKey:
    """The key of a JWK's key members; raises `Invalid` with the reason."""
    if _SECRET & jwk.keys():
        raise Invalid("The key is a private or symmetric one; give its public half alone.")
    kind = jwk.get("kty")
    try:
        if kind == "EC":
            return _load_ec(jwk)
        if kind == "RSA":
            return _load_rsa(jwk)
        if kind == "OKP":
            return _load_okp(jwk)
    except ValueError as error:
        raise Invalid(f"The {kind} key's numbers make no key.") from error
    raise Invalid("The key's kty must be EC, OKP or RSA.")


def parse_key(jwk: Mapping[str, Any]) -> bytes:
    """As `load_jwk`, but its DER SubjectPublicKeyInfo."""
    return load_jwk(jwk).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def thumbprint_jwk(jwk: Mapping[str, Any]) -> str:
    """The RFC 7638 thumbprint of a key in base64url: SHA-256 of its required members."""
    members = {name: jwk[name] for name in _REQUIRED[jwk["kty"]]}
    return encode_base64url(hashlib.sha256(msgspec.json.encode(members)).digest())


def derive_key_id(public_key: bytes) -> str:
    """The `kid` of a DER SubjectPublicKeyInfo: its thumbprint."""
    return thumbprint_jwk(render_key(public_key))


def encode_base64url(raw: bytes) -> str:
    """Base64url without padding (RFC 7515, section 2)."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode_base64url(text: str) -> bytes:
    """The bytes of base64url without padding, in its one canonical form; else `Invalid`."""
    try:
        encoded = text.encode("ascii").translate(_TO_BASE64)
        raw = a2b_base64(encoded + _PADDING[len(encoded) % 4], strict_mode=True)
    except ValueError as error:
        raise Invalid("A value must be base64url without padding.") from error
    if encoded and encoded[-1] not in _LAST[len(encoded) % 4]:
        raise Invalid("A value must be base64url without padding.")
    return raw


def _load_ec(jwk: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    known = _CURVES.get(str(jwk.get("crv")))
    if known is None:
        raise Invalid("An EC key's crv must be P-256, P-384 or P-521.")
    curve, size = known
    x, y = (decode_base64url(_require_text(jwk, name)) for name in ("x", "y"))
    if len(x) != size or len(y) != size:
        raise Invalid(f"The coordinates of a {jwk['crv']} key must have {size} bytes each.")
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve
    )
    return numbers.public_key()


def _load_okp(jwk: Mapping[str, Any]) -> ed25519.Ed25519PublicKey:
    if jwk.get("crv") != "Ed25519":
        raise Invalid("An OKP key's crv must be Ed25519.")
    return ed25519.Ed25519PublicKey.from_public_bytes(decode_base64url(_require_text(jwk, "x")))


def _load_rsa(jwk: Mapping[str, Any]) -> rsa.RSAPublicKey:
    n, e = (
        int.from_bytes(decode_base64url(_require_text(jwk, name)), "big") for name in ("n", "e")
    )
    if not _MIN_RSA_BITS <= n.bit_length() <= _MAX_RSA_BITS:
        raise Invalid(f"An RSA key must have {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits.")
    if e.bit_length() > 32:
        raise Invalid("An RSA key's exponent must fit 32 bits.")
    return rsa.RSAPublicNumbers(e, n).public_key()


def _require_text(jwk: Mapping[str, Any], name: str) -> str:
    value = jwk.get(name)
    if not isinstance(value, str) or not value:
        raise Invalid(f"The key's {name} is missing or not text.")
    return value


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
