"""Documents of other OpenID issuers: discovery, and the keys that verify their tokens.

Sources: OpenID Connect Discovery 1.0 sections 3 and 4.3, RFC 8414 section 3.3, RFC 7517 section 5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from troth.core.errors import Invalid
from troth.core.jose.jwk import PublicKey, load_jwk
from troth.core.jose.jws import ALGORITHMS, fits_algorithm

MAX_KEYS = 100
MAX_KID = 256
MAX_URL = 2_048


@dataclass(frozen=True, slots=True)
class OutsideKey:
    """A key that verifies signatures; `kid` and `algorithm` are empty if the issuer names none."""

    kid: str
    algorithm: str
    key: PublicKey


def parse_discovery(body: bytes, issuer: str) -> str:
    """The `jwks_uri` of the discovery document of `issuer`; else `Invalid`.

    It must name that very issuer (Discovery 4.3): whoever answers there could name another's keys
    otherwise.
    """
    document = _parse_object(body)
    if document.get("issuer") != issuer:
        raise Invalid("The discovery document is of another issuer than its URL says.")
    uri = document.get("jwks_uri")
    if not isinstance(uri, str) or len(uri) > MAX_URL or not uri.isascii() or " " in uri:
        raise Invalid("The discovery document has no jwks_uri that can be used.")
    try:
        parts = urlsplit(uri)
        usable = parts.scheme == "https" and parts.hostname and "@" not in parts.netloc
        _ = parts.port
    except ValueError:
        usable = None
    if not usable:
        raise Invalid("The discovery document's jwks_uri must be an https URL.")
    return uri


def parse_key_set(body: bytes) -> tuple[OutsideKey, ...]:
    """The keys of a JWK set that verify signatures; `Invalid` if there is none.

    Those of kinds or for purposes that are unknown here are passed over (RFC 7517, section 5).
    """
    found = _parse_object(body).get("keys")
    if not isinstance(found, list):
        raise Invalid("The key set has no keys (RFC 7517, section 5).")
    if len(found) > MAX_KEYS:
        raise Invalid(f"The key set has more than {MAX_KEYS} keys.")
    keys = tuple(key for jwk in found if (key := _read_key(jwk)) is not None)
    if not keys:
        raise Invalid("The key set has no key that could verify a signature here.")
    return keys


def choose_key(keys: tuple[OutsideKey, ...], kid: str | None, algorithm: str) -> OutsideKey | None:
    """The key of that `kid` for `algorithm`; without a `kid`, the only one that fits."""
    fitting = [
        one
        for one in keys
        if kid in (None, one.kid)
        and one.algorithm in ("", algorithm)
        and fits_algorithm(algorithm, one.key)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _read_key(jwk: object) -> OutsideKey | None:
    if not isinstance(jwk, Mapping):
        return None
    kid, algorithm = jwk.get("kid", ""), jwk.get("alg", "")
    uses = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(uses, list) or "verify" not in uses:
        return None
    if not isinstance(kid, str) or len(kid) > MAX_KID:
        return None
    if not isinstance(algorithm, str) or algorithm not in ("", *ALGORITHMS):
        return None
    try:
        return OutsideKey(kid, algorithm, load_jwk(jwk))
    except Invalid:
        return None


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise Invalid("The answer is no JSON document.") from error
    if not isinstance(value, dict):
        raise Invalid("The answer is no JSON object.")
    return value
