"""The fields of an Identity manifest that are about tokens: roles, delegates, client keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from troth.core.errors import Invalid
from troth.core.jose.jwk import derive_key_id, parse_key
from troth.core.manifest import reader
from troth.core.manifest.field import Field, list_schema, read_members, text_schema
from troth.core.manifest.problem import Limits, Node, show_value
from troth.core.x509 import UNREADABLE
from troth.identity.client import ClientKey
from troth.identity.selfsigned import MAKE_ONE, find_faults

MAX_ROLES = 64
MAX_DELEGATES = 64
MAX_KEYS = 8
MAX_CERTIFICATES = 8
MAX_PEM = 16_384
MAX_KID = 128
_UNUSABLE = ("enc",)


def _read_roles(node: Node) -> tuple[str, ...]:
    names: tuple[str, ...] = reader.read_items(node, MAX_ROLES, reader.read_name)
    return names


def _read_delegates(node: Node) -> tuple[str, ...]:
    names: tuple[str, ...] = reader.read_items(node, MAX_DELEGATES, reader.read_name)
    return names


def _read_keys(node: Node) -> tuple[ClientKey, ...]:
    keys: tuple[ClientKey, ...] = reader.read_items(node, MAX_KEYS, _read_key)
    if len({key.kid for key in keys}) < len(keys):
        node.error("two keys have the same kid: give each its own, or none.")
    return keys


def _read_key(node: Node) -> ClientKey:
    """A public JWK (RFC 7517); its `kid` is the thumbprint where it has none."""
    jwk = node.value
    if not isinstance(jwk, Mapping):
        raise Invalid(f"must be a JWK such as {{kty: EC, crv: P-256, …}}, not {show_value(jwk)}.")
    if jwk.get("use", "sig") in _UNUSABLE:
        raise Invalid("is a key for encryption (use: enc); assertions need one for signatures.")
    public_key = parse_key(jwk)
    kid = jwk.get("kid", derive_key_id(public_key))
    if not isinstance(kid, str) or not 1 <= len(kid) <= MAX_KID or not kid.isprintable():
        raise Invalid(f"its kid must be a text of 1 to {MAX_KID} printable characters.")
    return ClientKey(kid, public_key)


def _read_certificates(node: Node) -> tuple[bytes, ...]:
    found: tuple[bytes, ...] = reader.read_items(node, MAX_CERTIFICATES, _read_certificate)
    return found


def _read_certificate(node: Node) -> bytes:
    """A self-signed certificate in PEM (RFC 8705, section 2.2): what counts is its very bytes."""
    if not isinstance(node.value, str) or len(node.value) > MAX_PEM:
        raise Invalid("must be one certificate in PEM, as a text that begins with -----BEGIN.")
    try:
        found = x509.load_pem_x509_certificates(node.value.encode())
    except UNREADABLE as error:
        raise Invalid("is no certificate in PEM that can be read.") from error
    if len(found) != 1:
        raise Invalid(f"holds {len(found)} certificates; write one an entry.")
    certificate = found[0]
    if certificate.issuer != certificate.subject:
        raise Invalid(
            "is not self-signed: its issuer is another name. A certificate of a CA is known by "
            "its SPIFFE ID, and needs no entry here."
        )
    if certificate.not_valid_after_utc <= node.now:
        raise Invalid("has expired; make a new one.")
    if faults := list(find_faults(certificate)):
        raise Invalid(f"{'; it '.join(faults)}. TLS would refuse it ({MAKE_ONE}).")
    return certificate.public_bytes(Encoding.DER)


def _names_schema(most: int) -> dict[str, Any]:
    return list_schema(most, text_schema(reader.MAX_NAME, reader.NAME_PATTERN)(Limits()))


CLIENT = (
    Field(
        "keys",
        "client_keys",
        "public keys (JWK) that sign its client assertions (private_key_jwt).",
        _read_keys,
        lambda _: list_schema(MAX_KEYS, {"type": "object", "required": ["kty"]}),
        default=lambda _: (),
    ),
    Field(
        "certificates",
        "client_certificates",
        "self-signed certificates (PEM) by which it is known (self_signed_tls_client_auth).",
        _read_certificates,
        lambda _: list_schema(MAX_CERTIFICATES, {"type": "string", "maxLength": MAX_PEM}),
        default=lambda _: (),
    ),
)

TOKEN_SPEC = (
    Field(
        "roles",
        "roles",
        "names of the roles that it holds: what it may do, and so the scopes of its tokens.",
        _read_roles,
        lambda _: _names_schema(MAX_ROLES),
        default=lambda _: (),
    ),
    Field(
        "delegates",
        "delegates",
        "names of the identities that may act on its behalf (token exchange).",
        _read_delegates,
        lambda _: _names_schema(MAX_DELEGATES),
        default=lambda _: (),
    ),
    Field(
        "client",
        "",
        "keys of its own by which it is an OAuth client; with an SVID it needs none.",
        lambda node: read_members(node, CLIENT),
        lambda _: {},
        members=CLIENT,
    ),
)
