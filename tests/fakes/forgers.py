"""Tokens as those make them who want to get in: each of one way, from a good one."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fakes.issuer import make_private_key
from troth.core.jose.jwk import encode_base64url, render_key
from troth.core.jose.jws import parse_token

THIEF = make_private_key(666)


@dataclass(frozen=True)
class Original:
    """A good token, and the P-256 key that signed it."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    key: ec.EllipticCurvePrivateKey

    def sign(self, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """Signed as the good one is; None leaves a member out."""
        return sign(_merge(self.header, header or {}), _merge(self.claims, claims), self.key)

    def write(self, header: bytes, claims: bytes) -> str:
        """The same of texts that no JSON library would write."""
        return sign_bytes(header, claims, self.key)

    @property
    def texts(self) -> tuple[str, str]:
        """Header and claims in JSON."""
        return json.dumps(dict(self.header)), json.dumps(dict(self.claims))


def take_apart(token: str, key: ec.EllipticCurvePrivateKey) -> Original:
    parsed = parse_token(token)
    return Original(parsed.header, parsed.claims, key)


def _merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**one, **other}.items() if value is not None}


def sign(header: Mapping[str, Any], claims: Mapping[str, Any], key: Any) -> str:
    return sign_bytes(json.dumps(dict(header)).encode(), json.dumps(dict(claims)).encode(), key)


def sign_bytes(header: bytes, claims: bytes, key: ec.EllipticCurvePrivateKey) -> str:
    content = f"{encode_base64url(header)}.{encode_base64url(claims)}"
    r, s = decode_dss_signature(key.sign(content.encode(), ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{content}.{encode_base64url(signature)}"


def _unsigned(one: Original, signature: bytes = b"") -> str:
    header = json.dumps({**one.header, "alg": "none"}).encode()
    claims = json.dumps(dict(one.claims)).encode()
    parts = (encode_base64url(part) for part in (header, claims, signature))
    return ".".join(parts)


def _hmac(one: Original, form: Encoding) -> str:
    """Algorithm confusion: the public key, which everybody has, as the secret."""
    secret = one.key.public_key().public_bytes(form, PublicFormat.SubjectPublicKeyInfo)
    header = json.dumps({**one.header, "alg": "HS256"}).encode()
    content = f"{encode_base64url(header)}.{encode_base64url(one.texts[1].encode())}"
    tag = hmac.new(secret, content.encode(), hashlib.sha256).digest()
    return f"{content}.{encode_base64url(tag)}"


def _der(one: Original) -> str:
    """The signature as OpenSSL writes it, not as RFC 7518, section 3.4 wants it."""
    content = one.sign().rpartition(".")[0]
    der = one.key.sign(content.encode(), ec.ECDSA(hashes.SHA256()))
    return f"{content}.{encode_base64url(der)}"


def _bring_key(one: Original) -> str:
    """Signed by somebody whose key is in the header."""
    header = {**one.header, "jwk": render_key(THIEF.public_key())}
    return sign(header, one.claims, THIEF)


def _refer(one: Original, member: str, value: Any) -> str:
    return sign({**one.header, member: value}, one.claims, THIEF)


def _insert(one: Original, text: str) -> str:
    """Claims with `text` as their first members."""
    header, claims = one.texts
    return one.write(header.encode(), b"{" + text.encode() + b"," + claims[1:].encode())


FAULTS: dict[str, Callable[[Original], str]] = {
    "alg none": _unsigned,
    "alg none and a signature": lambda one: _unsigned(one, b"\0" * 64),
    "alg NONE": lambda one: one.sign({"alg": "NONE"}),
    "alg not a text": lambda one: one.sign({"alg": ["ES256"]}),
    "no alg": lambda one: one.sign({"alg": None}),
    "HMAC with the public key, PEM": lambda one: _hmac(one, Encoding.PEM),
    "HMAC with the public key, DER": lambda one: _hmac(one, Encoding.DER),
    "alg of another curve": lambda one: one.sign({"alg": "ES384"}),
    "alg of another kind": lambda one: one.sign({"alg": "RS256"}),
    "unknown crit": lambda one: one.sign({"crit": ["exp"]}),
    "empty crit": lambda one: one.sign({"crit": []}),
    "b64": lambda one: one.sign({"b64": False}),
    "another typ": lambda one: one.sign({"typ": "secevent+jwt"}),
    "another key": lambda one: sign(one.header, one.claims, THIEF),
    "another key in the header": _bring_key,
    "jku": lambda one: _refer(one, "jku", "https://thief.example/jwks"),
    "x5u": lambda one: _refer(one, "x5u", "https://thief.example/chain"),
    "x5c": lambda one: _refer(one, "x5c", ["MIIB"]),
    "a kid that is a path": lambda one: sign(
        {**one.header, "kid": "../../dev/null"}, one.claims, THIEF
    ),
    "signature in DER": _der,
    "signature cut off": lambda one: one.sign()[:-20],
    "signature of zeros": lambda one: (
        one.sign().rpartition(".")[0] + "." + encode_base64url(b"\0" * 64)
    ),
    "padded": lambda one: one.sign() + "==",
    "oversized": lambda one: one.sign(x="y" * 20_000),
    "deeply nested": lambda one: _insert(one, '"x":' + "[" * 5_000 + "]" * 5_000),
    "nested a little too deep": lambda one: _insert(one, '"x":' + '{"x":' * 20 + "1" + "}" * 20),
    "a name twice": lambda one: _insert(one, '"jti":"another"'),
    "half a surrogate pair": lambda one: _insert(one, '"x":"\\ud800"'),
    "not a number": lambda one: _insert(one, '"x":NaN'),
    "a number of 5,000 digits": lambda one: _insert(one, '"x":' + "9" * 5_000),
    "claims that are a list": lambda one: one.write(one.texts[0].encode(), b"[]"),
    "five parts": lambda one: one.sign() + ".AA.AA",
    "an encrypted one": lambda one: "e30.AA.AA.AA.AA",
    "no token": lambda one: "token",
    "exp not a number": lambda one: one.sign(exp="soon"),
    "a huge exp": lambda one: one.sign(exp=10**400),
    "no exp": lambda one: one.sign(exp=None),
}
"""What no place takes, whatever kind of token it wants: makes a bad one of a good one."""

WITHOUT_EXP = ("exp not a number", "a huge exp", "no exp")
"""Faults of tokens that have an `exp`: a DPoP proof has none."""
KEY_IN_HEADER = ("another key in the header",)
"""No fault of a DPoP proof."""
