"""JSON Web Keys as our documents carry them, and a look into a token that isn't trusted yet.

Sources: RFC 7517 (JWK), RFC 7518 sections 6.2 and 6.3 (EC and RSA members), RFC 7515 section 7.1
(compact form). Verifying a token is `troth.issuance.jwtsvid.validate_jwt_svid`.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from troth.core.errors import Invalid, TooLarge

MAX_TOKEN_SIZE = 16 * 1024
"""Characters of the compact serialisation."""

_CURVES: dict[str, tuple[ec.EllipticCurve, int]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
    "P-521": (ec.SECP521R1(), 66),
}
"""Curve name → curve and the bytes of a coordinate (RFC 7518, sections 6.2.1.1 and 6.2.1.2)."""

_CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 8192


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """What a token claims of itself. Nothing in it may be believed."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]


def render_key(public_key: bytes) -> dict[str, str]:
    """The key members (`kty`, `crv` …) of a DER SubjectPublicKeyInfo, EC or RSA."""
    try:
        key = load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid("The public key can't be read.") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVE_NAMES:
        name = _CURVE_NAMES[key.curve.name]
        size = _CURVES[name][1]
        point = key.public_numbers()
        return {
            "kty": "EC",
            "crv": name,
            "x": encode_base64url(point.x.to_bytes(size, "big")),
            "y": encode_base64url(point.y.to_bytes(size, "big")),
        }
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {
            "kty": "RSA",
            "n": encode_base64url(_minimal(numbers.n)),
            "e": encode_base64url(_minimal(numbers.e)),
        }
    raise Invalid("The public key is neither EC (P-256, P-384, P-521) nor RSA.")


def render_jwk(kid: str, public_key: bytes, use: str, alg: str | None = None) -> dict[str, str]:
    """A JWK of a DER SubjectPublicKeyInfo."""
    jwk = render_key(public_key) | {"use": use, "kid": kid}
    return jwk if alg is None else jwk | {"alg": alg}


def parse_key(jwk: Mapping[str, Any]) -> bytes:
    """The DER SubjectPublicKeyInfo of a JWK's key members; raises `Invalid` with the reason."""
    kind = jwk.get("kty")
    try:
        if kind == "EC":
            key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey = _parse_ec(jwk)
        elif kind == "RSA":
            key = _parse_rsa(jwk)
        else:
            raise Invalid("The key's kty must be EC or RSA.")
    except ValueError as error:
        raise Invalid(f"The {kind} key's numbers make no key.") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def parse_unverified(token: str) -> UnverifiedToken:
    """Header and claims of a compact JWT, for showing only; raises `Invalid` or `TooLarge`."""
    if len(token) > MAX_TOKEN_SIZE:
        raise TooLarge(f"The token is longer than {MAX_TOKEN_SIZE // 1024} KiB.")
    parts = token.split(".")
    if len(parts) != 3:
        raise Invalid("The token is not a signed JWT in compact form: three parts, two dots.")
    header, claims = (_parse_object(decode_base64url(part)) for part in parts[:2])
    return UnverifiedToken(header, claims)


def encode_base64url(raw: bytes) -> str:
    """Base64url without padding (RFC 7515, section 2)."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode_base64url(text: str) -> bytes:
    """The bytes of base64url without padding, in its one canonical form; else `Invalid`."""
    try:
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError as error:
        raise Invalid("A value must be base64url without padding.") from error
    if encode_base64url(raw) != text:
        raise Invalid("A value must be base64url without padding.")
    return raw


def _parse_ec(jwk: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
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


def _parse_rsa(jwk: Mapping[str, Any]) -> rsa.RSAPublicKey:
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


def _parse_object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise Invalid("The token's header and claims must be JSON.") from error
    if not isinstance(value, dict):
        raise Invalid("The token's header and claims must be JSON objects.")
    return value


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
