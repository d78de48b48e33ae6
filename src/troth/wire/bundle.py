"""Trust bundles: the SPIFFE document, the key sets made from it, and PEM files.

Sources: SPIFFE_Trust_Domain_and_Bundle.md section 4; X509-SVID.md section 6 (use ``x509-svid``, one
``x5c``, no ``kid``); JWT-SVID.md and SPIFFE_Workload_API.md (use ``jwt-svid``, a ``kid`` each);
RFC 7517 for JWK sets; RFC 7468 for PEM.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from troth.core.errors import Invalid, TooLarge
from troth.core.jose.jwk import parse_key, render_jwk, render_key
from troth.core.x509 import UNREADABLE

MAX_BUNDLE_SIZE = 1 << 20
"""Bytes of a bundle document."""

MAX_KEYS = 256
_X509_USE = "x509-svid"
_JWT_USE = "jwt-svid"
_KEY_TYPES = ("EC", "RSA")
_MAX_KID_LENGTH = 256
_MAX_INTEGER = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Bundle:
    """A trust domain's authorities: DER certificates, and (kid, DER SubjectPublicKeyInfo) pairs.

    `sequence` and `refresh_hint_s` (seconds) are None where the publisher gave none.
    """

    x509_authorities: tuple[bytes, ...]
    jwt_keys: tuple[tuple[str, bytes], ...]
    sequence: int | None
    refresh_hint_s: int | None


def render_bundle(
    x509_authorities: Sequence[bytes],
    jwt_keys: Sequence[tuple[str, bytes]],
    sequence: int,
    refresh_hint_s: int,
) -> bytes:
    """The bundle document as JSON. `sequence` grows with every change of the content."""
    keys = [_render_authority(der) for der in x509_authorities]
    keys += [dict(render_jwk(kid, key, _JWT_USE)) for kid, key in jwt_keys]
    return _dump({"keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": refresh_hint_s})


def render_jwt_bundle(jwt_keys: Sequence[tuple[str, bytes]]) -> bytes:
    """The JWK set of the Workload API's FetchJWTBundles: JWT authorities alone.

    Each key has a `kid`: py-spiffe refuses a set with a key that has none.
    """
    return _dump({"keys": [render_jwk(kid, key, _JWT_USE) for kid, key in jwt_keys]})


def render_jwks(jwt_keys: Sequence[tuple[str, bytes]]) -> bytes:
    """The JWK set of the OpenID discovery document: P-256 keys for ES256 signatures."""
    return _dump({"keys": [render_jwk(kid, key, "sig", "ES256") for kid, key in jwt_keys]})


def parse_bundle(document: bytes) -> Bundle:
    """Read a bundle document; raises `Invalid` or `TooLarge`.

    Entries of unknown `use` or `kty`, and X.509 entries without `x5c`, are passed over as the
    standards demand. What claims to be an authority that we know and is malformed is refused.
    """
    if len(document) > MAX_BUNDLE_SIZE:
        raise TooLarge(f"The bundle is larger than {MAX_BUNDLE_SIZE >> 20} MiB.")
    try:
        value = json.loads(document.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Invalid("The bundle must be JSON with each name once.") from error
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise Invalid("The bundle must be an object with an array 'keys' of objects.")
    if len(keys) > MAX_KEYS:
        raise TooLarge(f"The bundle has more than {MAX_KEYS} keys.")
    authorities: dict[bytes, None] = {}
    jwt_keys: dict[str, bytes] = {}
    for key in keys:
        if key.get("kty") not in _KEY_TYPES:
            continue
        if key.get("use") == _X509_USE and key.get("x5c"):
            authorities[_parse_authority(key)] = None
        elif key.get("use") == _JWT_USE:
            kid = _parse_kid(key)
            if kid in jwt_keys:
                raise Invalid(f"The bundle has two JWT keys with the kid {kid[:80]!r}.")
            jwt_keys[kid] = parse_key(key)
    return Bundle(
        x509_authorities=tuple(authorities),
        jwt_keys=tuple(jwt_keys.items()),
        sequence=_read_integer(value, "spiffe_sequence"),
        refresh_hint_s=_read_integer(value, "spiffe_refresh_hint"),
    )


def list_jwks(bundle: Bundle) -> list[dict[str, str]]:
    """The bundle's JWT keys as JWKs, as `validate_jwt_svid` takes them."""
    return [render_jwk(kid, key, _JWT_USE) for kid, key in bundle.jwt_keys]


def _render_authority(der: bytes) -> dict[str, Any]:
    return {**render_key(_read_public_key(der)), "use": _X509_USE, "x5c": [b64encode(der).decode()]}


def _parse_authority(key: Mapping[str, Any]) -> bytes:
    """The first certificate of `x5c`; any further one is ignored (X509-SVID, section 6.2)."""
    chain = key["x5c"]
    if not isinstance(chain, list) or not isinstance(chain[0], str):
        raise Invalid("An X.509 authority's x5c must be an array of base64 texts.")
    try:
        der = b64decode(chain[0], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("An X.509 authority's x5c must be base64 (not base64url).") from error
    if parse_key(key) != _read_public_key(der):
        raise Invalid("An X.509 authority's key is not the one in its certificate.")
    return der


def _read_public_key(der: bytes) -> bytes:
    """The DER SubjectPublicKeyInfo of a CA certificate; `Invalid` for a leaf or for garbage."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        key = certificate.public_key()
    except x509.ExtensionNotFound:
        raise Invalid("An X.509 authority's certificate has no basicConstraints.") from None
    except UNREADABLE as error:
        raise Invalid("An X.509 authority's certificate can't be parsed.") from error
    if not constraints.ca:
        raise Invalid("An X.509 authority's certificate is a leaf, not a CA.")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _parse_kid(key: Mapping[str, Any]) -> str:
    kid = key.get("kid")
    if not isinstance(kid, str) or not 1 <= len(kid) <= _MAX_KID_LENGTH:
        raise Invalid(f"A JWT key needs a kid of 1 to {_MAX_KID_LENGTH} characters.")
    return kid


def _read_integer(value: Mapping[str, Any], name: str) -> int | None:
    if name not in value:
        return None
    number = value[name]
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MAX_INTEGER:
        raise Invalid(f"The bundle's {name} must be an integer from 0 to 2^63 - 1.")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice")
    return made


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
