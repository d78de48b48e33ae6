"""Signed JSON Web Tokens in compact form: taking them apart, and verifying them with a known key.

Sources: RFC 7515 (JWS; sections in brackets), RFC 7518 section 3 (algorithms), RFC 8037 section 3.1
(EdDSA), RFC 8725 (best practice). Who verifies says which algorithms count; the token never does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from troth.core.errors import Invalid, TooLarge
from troth.core.jose.jwk import PublicKey, decode_base64url

MAX_TOKEN_SIZE = 16 * 1024
"""Characters of the compact serialisation."""

MAX_DEPTH = 16
"""How deep header and claims may be nested: tokens that mean something are flat."""

_HEADERS, _SHORT = 256, 512
"""How many headers are remembered, and up to which length, so that strangers can't fill more than a
few megabytes with theirs."""

_Verify = Callable[[PublicKey, bytes, bytes], None]


@dataclass(frozen=True, slots=True)
class Token:
    """A token taken apart. Nothing in it may be believed before its signature was verified."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signing_input: bytes
    signature: bytes


def parse_token(token: str, headers: Mapping[str, Mapping[str, Any]] | None = None) -> Token:
    """Take a compact JWS apart; raises `Invalid` or `TooLarge`.

    `headers` are those that were read before, by their first part: all tokens of a key have one.

    A name given twice is refused, since verifiers differ in which one they take [4], and so is
    `crit`: there is no extension that we understand [4.1.11].
    """
    if len(token) > MAX_TOKEN_SIZE:
        raise TooLarge(f"The token is longer than {MAX_TOKEN_SIZE // 1024} KiB.")
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        raise Invalid("The token is not a signed JWT in compact form: three parts, two dots.")
    header = headers.get(parts[0]) if headers is not None else None
    if header is None:
        header = read_header(parts[0])
    claims = _load_object(decode_base64url(parts[1]))
    if "crit" in header:
        raise Invalid("The token's header has a crit; no such extension is understood here.")
    if "b64" in header:
        raise Invalid("The token's header has a b64; its content must be encoded (RFC 7797).")
    signing_input = f"{parts[0]}.{parts[1]}".encode("ascii")
    return Token(header, claims, signing_input, decode_base64url(parts[2]))


def read_header(encoded: str) -> Mapping[str, Any]:
    """The header that is the first part of a token; raises `Invalid`. Nobody may change it: whoever
    signs sends the same one with every token, so short ones are remembered."""
    return (_recall_header if len(encoded) <= _SHORT else _read_header)(encoded)


def _read_header(encoded: str) -> Mapping[str, Any]:
    return _load_object(decode_base64url(encoded))


_recall_header = lru_cache(maxsize=_HEADERS)(_read_header)


def verify_token(token: Token, key: PublicKey, algorithms: Collection[str]) -> None:
    """Raise `Invalid` unless `key` made the signature with the header's `alg`, one of
    `algorithms` and one that fits the key."""
    algorithm = token.header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise Invalid(f"The token's alg must be one of {', '.join(sorted(algorithms))}.")
    verify_signature(algorithm, key, token.signing_input, token.signature)


def verify_signature(algorithm: str, key: PublicKey, content: bytes, signature: bytes) -> None:
    """Raise `Invalid` unless `signature` over `content` is right; `algorithm` is one of ours."""
    if not fits_algorithm(algorithm, key):
        raise Invalid("The key is not of the kind that the token's alg needs.")
    try:
        _ALGORITHMS[algorithm][2](key, content, signature)
    except InvalidSignature:
        raise Invalid("The token's signature is wrong.") from None


def fits_algorithm(algorithm: str, key: PublicKey) -> bool:
    """Whether `key` can be used with `algorithm`."""
    kind, curve, _ = _ALGORITHMS[algorithm]
    return _is_kind(type(key), kind) and (
        kind is not ec.EllipticCurvePublicKey
        or cast(ec.EllipticCurvePublicKey, key).curve.name == curve
    )


@lru_cache(maxsize=64)
def _is_kind(found: type, kind: type) -> bool:
    """Whether a key's class is of that kind: those are abstract classes, slow to be asked."""
    return issubclass(found, kind)


def _load_object(raw: bytes) -> dict[str, Any]:
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_deep(raw):
        raise Invalid(f"The token's header and claims may be nested {MAX_DEPTH} levels deep.")
    try:
        value = STRICT_JSON.decode(raw.decode())
        if b"\\u" in raw:
            # Half a surrogate pair is no character, and nothing could be written with it.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Invalid(
            "The token's header and claims must be JSON of whole characters, each name once."
        ) from error
    if not isinstance(value, dict):
        raise Invalid("The token's header and claims must be JSON objects.")
    return value


def _is_deep(raw: bytes) -> bool:
    depth, quoted, escaped = 0, False, False
    for byte in raw:
        if quoted:
            quoted, escaped = escaped or byte != 0x22, not escaped and byte == 0x5C
        elif byte == 0x22:
            quoted = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice")
    return made


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
"""Each name once. Made once: making one takes longer than reading a token with it."""


def _ecdsa(hash_: hashes.HashAlgorithm, size: int) -> _Verify:
    """r and s as fixed-length numbers one after the other (RFC 7518, section 3.4)."""
    scheme = ec.ECDSA(hash_)

    def verify(key: Any, content: bytes, signature: bytes) -> None:
        if len(signature) != 2 * size:
            raise InvalidSignature
        r = int.from_bytes(signature[:size], "big")
        s = int.from_bytes(signature[size:], "big")
        key.verify(encode_dss_signature(r, s), content, scheme)

    return verify


def _rsa(hash_: hashes.HashAlgorithm, *, pss: bool) -> _Verify:
    """RSASSA-PKCS1-v1_5, or PSS with a salt as long as the hash (RFC 7518, sections 3.3, 3.5)."""
    scheme: Any = padding.PKCS1v15()
    if pss:
        scheme = padding.PSS(padding.MGF1(hash_), hash_.digest_size)

    def verify(key: Any, content: bytes, signature: bytes) -> None:
        key.verify(signature, content, scheme, hash_)

    return verify


def _eddsa(key: Any, content: bytes, signature: bytes) -> None:
    key.verify(signature, content)


_ALGORITHMS: Mapping[str, tuple[type, str, _Verify]] = {
    "ES256": (ec.EllipticCurvePublicKey, "secp256r1", _ecdsa(hashes.SHA256(), 32)),
    "ES384": (ec.EllipticCurvePublicKey, "secp384r1", _ecdsa(hashes.SHA384(), 48)),
    "ES512": (ec.EllipticCurvePublicKey, "secp521r1", _ecdsa(hashes.SHA512(), 66)),
    "RS256": (rsa.RSAPublicKey, "", _rsa(hashes.SHA256(), pss=False)),
    "RS384": (rsa.RSAPublicKey, "", _rsa(hashes.SHA384(), pss=False)),
    "RS512": (rsa.RSAPublicKey, "", _rsa(hashes.SHA512(), pss=False)),
    "PS256": (rsa.RSAPublicKey, "", _rsa(hashes.SHA256(), pss=True)),
    "PS384": (rsa.RSAPublicKey, "", _rsa(hashes.SHA384(), pss=True)),
    "PS512": (rsa.RSAPublicKey, "", _rsa(hashes.SHA512(), pss=True)),
    "EdDSA": (ed25519.Ed25519PublicKey, "", _eddsa),
    "Ed25519": (ed25519.Ed25519PublicKey, "", _eddsa),  # its name since RFC 9864, section 2.2
}

ALGORITHMS = tuple(_ALGORITHMS)
"""Every asymmetric algorithm that is verified here; "none" and the HMAC ones are not among them."""
