"""The fields of an Issuer manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from troth.core.errors import Invalid
from troth.core.manifest import reader
from troth.core.manifest.field import Field, list_schema, text_schema
from troth.core.manifest.problem import Limits, Node, show_value, suggest_word
from troth.core.x509 import UNREADABLE
from troth.identity.issuer import ANYTHING, Condition, Rule

MAX_URL = 512
MAX_AUDIENCE = 512
MAX_PEM = 65_536
MAX_AUTHORITIES = 16
MAX_RULES = 1_000
MAX_CONDITIONS = 32
MAX_DEPTH = 4
MAX_CLAIM = 128
MAX_TEXTS = 64
MAX_CLAIM_TEXT = 512
ALGORITHMS = ("ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256")
"""What assertions may be signed with (RFC 7518, section 3.1; RFC 8037, section 3.1)."""
LIFE_DEFAULT = timedelta(hours=1)
LIFE_CEILING = timedelta(hours=25)
"""Tokens of managed identities live for a day, counted from a little earlier."""
CHECKED = ("iss", "aud", "exp", "nbf", "iat", "jti")
"""Claims that are always looked at, and never by a condition."""


def _read_url(node: Node) -> str:
    """An https URL without query and fragment (OpenID Connect Discovery 1.0, section 3)."""
    text = reader.read_text(node, MAX_URL)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise Invalid(f"{show_value(text)} is not a URL.") from None
    if parts.scheme != "https" or not host:
        raise Invalid(
            f"{show_value(text)} must be an https URL: whoever is on the way could put their own "
            "keys in the place of the issuer's."
        )
    if not text.isascii() or " " in text or "\\" in text:
        raise Invalid("must be in ASCII, without blanks.")
    if "@" in parts.netloc:
        raise Invalid("must hold no user and no password.")
    if parts.fragment or "#" in text:
        raise Invalid("must have no fragment.")
    return text


def _read_issuer_url(node: Node) -> str:
    text = _read_url(node)
    if "?" in text:
        raise Invalid("must have no query (OpenID Connect Discovery 1.0, section 3).")
    return text


def _read_authorities(node: Node) -> str:
    """Certificates in PEM of those who certify the issuer's own certificate."""
    if not isinstance(node.value, str) or len(node.value) > MAX_PEM:
        raise Invalid("must be certificates in PEM, as a text that begins with -----BEGIN.")
    try:
        found = x509.load_pem_x509_certificates(node.value.encode())
    except UNREADABLE as error:
        raise Invalid("is no certificate in PEM that can be read.") from error
    if len(found) > MAX_AUTHORITIES:
        raise Invalid(f"holds {len(found)} certificates; {MAX_AUTHORITIES} at most.")
    if all(one.not_valid_after_utc <= node.now for one in found):
        raise Invalid("has expired; write the one that certifies the issuer now.")
    return node.value


def _read_flag(node: Node) -> bool:
    if not isinstance(node.value, bool):
        raise Invalid(f"must be true or false, not {show_value(node.value)}.")
    return node.value


def _read_algorithms(node: Node) -> tuple[str, ...]:
    found: tuple[str, ...] = reader.read_items(node, len(ALGORITHMS), _read_algorithm)
    if not node.value:
        raise Invalid(f"must name at least one of {', '.join(ALGORITHMS)}.")
    return found


def _read_algorithm(node: Node) -> str:
    if not isinstance(node.value, str) or node.value not in ALGORITHMS:
        tail = suggest_word(node.value if isinstance(node.value, str) else "", ALGORITHMS)
        raise Invalid(f"{show_value(node.value)} can't sign assertions; {tail}")
    return node.value


def _read_rules(node: Node) -> tuple[Rule, ...]:
    rules: tuple[Rule, ...] = reader.read_items(node, MAX_RULES, _read_rule)
    if not node.value:
        raise Invalid("must hold at least one rule: {identity: NAME, claims: {sub: …}}.")
    return rules


def _read_rule(node: Node) -> Rule:
    if not isinstance(node.value, Mapping) or node.value.keys() != {"identity", "claims"}:
        raise Invalid(
            "must be a mapping of 'identity' and 'claims', such as "
            "{identity: shop-deploy, claims: {sub: …}}."
        )
    before = len(node.problems)
    name = reader.read_name(node.child("identity"))
    inner = node.child("claims")
    if not isinstance(inner.value, Mapping) or not inner.value:
        inner.error("must be a mapping of claims, such as {sub: …}: without one anybody would fit.")
        return Rule(name, ())
    conditions = tuple(_read_conditions(inner, ()))
    if len(conditions) > MAX_CONDITIONS:
        inner.error(f"must hold at most {MAX_CONDITIONS} claims; it has {len(conditions)}.")
    return Rule(name, () if node.failed_since(before) else conditions)


def _read_conditions(node: Node, way: tuple[str, ...]) -> Iterator[Condition]:
    """The conditions of a mapping: nested ones are about claims that are objects."""
    if not node.value:
        node.error("must not be empty: say what the claim must hold.")
    for name in node.value:
        inner = node.child(name)
        try:
            claim = (*way, _check_claim(name, way))
            if isinstance(inner.value, Mapping):
                yield from _read_conditions(inner, claim)
            else:
                yield Condition(claim, _read_texts(inner))
        except Invalid as error:
            inner.error(error.detail)


def _check_claim(name: object, way: tuple[str, ...]) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_CLAIM or not name.isprintable():
        raise Invalid(f"{show_value(name)} is not the name of a claim.")
    if not way and name in CHECKED:
        raise Invalid(f"{name} is checked by itself; write what else tells the workload.")
    if len(way) >= MAX_DEPTH:
        raise Invalid(f"claims may be {MAX_DEPTH} levels deep.")
    return name


def _read_texts(node: Node) -> tuple[str, ...]:
    if not isinstance(node.value, list):
        return (_read_claim_text(node),)
    if not node.value:
        raise Invalid("must not be empty: say what the claim must hold.")
    texts: tuple[str, ...] = reader.read_items(node, MAX_TEXTS, _read_claim_text)
    return texts


def _read_claim_text(node: Node) -> str:
    """A text; numbers and truth values as JSON has them, since providers write them either way."""
    value = node.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) < 1 << 63:
        return str(value)
    if not isinstance(value, str):
        raise Invalid(f"must be a text or a list of texts, not {show_value(value)}.")
    if not 1 <= len(value) <= MAX_CLAIM_TEXT or not value.isprintable():
        raise Invalid(f"must have 1 to {MAX_CLAIM_TEXT} printable characters.")
    if "**" in value or any(part.count(ANYTHING) > 1 for part in split_segments(value)):
        raise Invalid(
            "may have one '*' between each two of / : @ |, for characters of that part alone."
        )
    return value


def split_segments(text: str) -> list[str]:
    """The parts of a text between its separators."""
    for separator in ":@|":
        text = text.replace(separator, "/")
    return text.split("/")


def _url_schema(_: Limits) -> dict[str, Any]:
    return {"type": "string", "maxLength": MAX_URL, "pattern": "^https://"}


def _rules_schema(_: Limits) -> dict[str, Any]:
    return list_schema(
        MAX_RULES,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["identity", "claims"],
            "properties": {
                "identity": text_schema(reader.MAX_NAME, reader.NAME_PATTERN)(Limits()),
                "claims": {"type": "object", "minProperties": 1, "maxProperties": MAX_CONDITIONS},
            },
        },
        least=1,
    )


ISSUER_SPEC = (
    Field(
        "owner",
        "owner",
        "who answers for trusting it, such as platform@example.org.",
        lambda node: reader.read_text(node, reader.MAX_TEXT),
        text_schema(reader.MAX_TEXT),
        required=True,
    ),
    Field(
        "purpose",
        "purpose",
        "what it is trusted for, in a sentence.",
        lambda node: reader.read_text(node, reader.MAX_PURPOSE),
        text_schema(reader.MAX_PURPOSE),
        required=True,
    ),
    Field(
        "url",
        "url",
        "its https URL, exactly as it stands in the iss of its tokens.",
        _read_issuer_url,
        _url_schema,
        required=True,
    ),
    Field(
        "jwksUri",
        "jwks_uri",
        "where its keys are, if its discovery document shall not be asked.",
        _read_url,
        _url_schema,
        default=lambda _: "",
    ),
    Field(
        "ca",
        "ca",
        "certificates (PEM) of who certifies its TLS, if not one whom the system trusts.",
        _read_authorities,
        lambda _: {"type": "string", "maxLength": MAX_PEM},
        default=lambda _: "",
    ),
    Field(
        "privateNetwork",
        "private_network",
        "whether it may have a private address; with a ca it may anyway.",
        _read_flag,
        lambda _: {"type": "boolean"},
        default=lambda _: False,
    ),
    Field(
        "audience",
        "audience",
        "what the aud of its tokens must be; the server's own origin if not given.",
        lambda node: reader.read_text(node, MAX_AUDIENCE),
        text_schema(MAX_AUDIENCE),
        default=lambda _: "",
    ),
    Field(
        "algorithms",
        "algorithms",
        f"what its tokens may be signed with: {', '.join(ALGORITHMS)}; all of them if not given.",
        _read_algorithms,
        lambda _: list_schema(len(ALGORITHMS), {"enum": list(ALGORITHMS)}, least=1),
        default=lambda _: ALGORITHMS,
    ),
    Field(
        "maxLife",
        "max_life",
        "how long its tokens may live at most, from iat to exp, such as 1h.",
        lambda node: reader.read_ttl(node, LIFE_CEILING),
        text_schema(24, reader.DURATION_PATTERN),
        default=lambda _: LIFE_DEFAULT,
    ),
    Field(
        "identities",
        "identities",
        "which identity is meant under which claims: {identity: NAME, claims: {sub: …}}.",
        _read_rules,
        _rules_schema,
        required=True,
    ),
)
