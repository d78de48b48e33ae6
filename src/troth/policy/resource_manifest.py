"""Manifests of kind Resource: their fields, and what is wrong or doubtful in them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from troth.core.errors import Invalid
from troth.core.manifest import reader
from troth.core.manifest.field import Field, list_schema, read_members, text_schema
from troth.core.manifest.kind import ManifestKind
from troth.core.manifest.problem import Node, show_value, suggest_word
from troth.core.tier import Tier
from troth.policy.protection_manifest import PROTECTION
from troth.policy.resource import Binding, Resource, TokenFormat, TokenTerms
from troth.policy.role_manifest import (
    ACTION_PATTERN,
    MAX_ACTION,
    MAX_ACTIONS,
    OWNER,
    PURPOSE,
    names_schema,
    read_action,
)

MAX_IDENTIFIERS = 16
MAX_IDENTIFIER = 512
MAX_SERVERS = 64
TTL_CEILING = timedelta(hours=1)
TTL_DEFAULT = timedelta(minutes=5)
TTLS_DEFAULT = {Tier.LOW: timedelta(minutes=5)}
"""A holder of the least trust comes back often, whatever the others may do."""
ALGORITHMS = ("ES256", "EdDSA", "RS256")
"""What access tokens can be signed with (RFC 7518, section 3.1; RFC 8037, section 3.1)."""


def _read_identifier(node: Node) -> str:
    """An absolute URI without a fragment (RFC 8707, section 2)."""
    text = reader.read_text(node, MAX_IDENTIFIER)
    try:
        parts = urlsplit(text)
        hostless = parts.scheme in ("https", "http") and not parts.hostname
    except ValueError:
        raise Invalid(f"{show_value(text)} is not a URI.") from None
    if not parts.scheme or not (parts.netloc or parts.path) or " " in text or hostless:
        raise Invalid(f"{show_value(text)} must be an absolute URI, such as https://api.example.")
    if "#" in text:
        raise Invalid("must have no fragment: resource indicators can't (RFC 8707, section 2).")
    if not text.isascii():
        raise Invalid("must be in ASCII; percent-encode what isn't.")
    if parts.scheme == "spiffe":
        raise Invalid("must not be a SPIFFE ID: those are audiences of JWT-SVIDs.")
    return text


def _read_identifiers(node: Node) -> tuple[str, ...]:
    found: tuple[str, ...] = reader.read_items(node, MAX_IDENTIFIERS, _read_identifier)
    return found


def _read_servers(node: Node) -> tuple[str, ...]:
    names: tuple[str, ...] = reader.read_items(node, MAX_SERVERS, reader.read_name)
    return names


def _read_actions(node: Node) -> dict[str, str]:
    if not isinstance(node.value, Mapping):
        raise Invalid(f"must be a mapping such as {{read: See it}}, not {show_value(node.value)}.")
    if not 1 <= len(node.value) <= MAX_ACTIONS:
        raise Invalid(f"must hold 1 to {MAX_ACTIONS} actions; it has {len(node.value)}.")
    actions: dict[str, str] = {}
    for name in node.value:
        inner = node.child(name)
        try:
            read_action(Node(name, inner.path, *_around(node)))
            actions[name] = reader.read_text(inner, reader.MAX_TEXT)
        except Invalid as error:
            inner.error(error.detail)
    return actions


def _around(node: Node) -> tuple[Any, ...]:
    return node.document, node.limits, node.now, node.problems


def _read_word(node: Node, known: tuple[str, ...]) -> str:
    if not isinstance(node.value, str) or node.value not in known:
        tail = suggest_word(node.value if isinstance(node.value, str) else "", known)
        raise Invalid(f"{show_value(node.value)} is unknown; {tail}")
    return node.value


def _choice(name: str, description: str, known: tuple[str, ...]) -> Field:
    return Field(
        name,
        name,
        f"{description}: {', '.join(known)}; {known[0]} if not given.",
        lambda node: _read_word(node, known),
        lambda _: {"enum": list(known)},
        default=lambda _: known[0],
    )


def _read_ttls(node: Node) -> dict[Tier, timedelta]:
    if not isinstance(node.value, Mapping):
        raise Invalid(f"must be a mapping such as {{low: 1m}}, not {show_value(node.value)}.")
    found: dict[Tier, timedelta] = {}
    for name in node.value:
        inner = node.child(name)
        try:
            tier = _read_word(Node(name, inner.path, *_around(node)), tuple(Tier))
            found[Tier(tier)] = reader.read_ttl(inner, TTL_CEILING)
        except Invalid as error:
            inner.error(error.detail)
    return found


TOKEN = (
    _choice("format", "how its tokens look", tuple(TokenFormat)),
    _choice("algorithm", "what its tokens are signed with", ALGORITHMS),
    Field(
        "ttl",
        "ttl",
        "how long its tokens are valid at most, such as 5m.",
        lambda node: reader.read_ttl(node, TTL_CEILING),
        text_schema(24, reader.DURATION_PATTERN),
        default=lambda _: TTL_DEFAULT,
    ),
    Field(
        "ttlByTier",
        "ttls",
        "lower ceilings for holders of a trust tier, such as {low: 1m, medium: 5m}.",
        _read_ttls,
        lambda limits: {
            "type": "object",
            "propertyNames": {"enum": [*Tier]},
            "additionalProperties": text_schema(24, reader.DURATION_PATTERN)(limits),
        },
        default=lambda _: TTLS_DEFAULT,
    ),
    Field(
        "sharedWith",
        "shared_with",
        "names of resources with which one token may be for both; each must name the others.",
        _read_servers,
        lambda _: names_schema(MAX_SERVERS),
        default=lambda _: (),
    ),
    _choice("binding", "which tokens it takes, by how they are bound to their holder", (*Binding,)),
)

RESOURCE_SPEC = (
    OWNER,
    PURPOSE,
    Field(
        "identifiers",
        "identifiers",
        "URIs by which clients name it (RFC 8707); its tokens carry the first as audience. Without "
        "one there are no tokens for it.",
        _read_identifiers,
        lambda _: list_schema(MAX_IDENTIFIERS, {"type": "string", "maxLength": MAX_IDENTIFIER}),
        default=lambda _: (),
    ),
    Field(
        "servers",
        "servers",
        "names of the identities that serve it: who may ask about its tokens.",
        _read_servers,
        lambda _: names_schema(MAX_SERVERS),
        default=lambda _: (),
    ),
    Field(
        "actions",
        "actions",
        "what can be done with it, with a sentence each: the scopes of its tokens.",
        _read_actions,
        lambda _: {
            "type": "object",
            "minProperties": 1,
            "maxProperties": MAX_ACTIONS,
            "propertyNames": {"maxLength": MAX_ACTION, "pattern": f"^({ACTION_PATTERN})$"},
            "additionalProperties": {
                "type": "string",
                "minLength": 1,
                "maxLength": reader.MAX_TEXT,
            },
        },
        required=True,
    ),
    Field(
        "passesTo",
        "passes_to",
        "names of the resources to which its servers may pass a caller's identity on.",
        _read_servers,
        lambda _: names_schema(MAX_SERVERS),
        default=lambda _: (),
    ),
    *PROTECTION,
    Field(
        "token",
        "",
        "what its access tokens are like.",
        lambda node: read_members(node, TOKEN),
        lambda _: {},
        members=TOKEN,
    ),
)


def make_resource(node: Node, values: dict[str, Any]) -> Resource:
    """The resource of a document whose fields are read."""
    terms = TokenTerms(
        TokenFormat(values.pop("format")),
        values.pop("algorithm"),
        values.pop("ttl"),
        Binding(values.pop("binding")),
        values.pop("ttls"),
        values.pop("shared_with"),
    )
    resource = Resource(**values, token=terms)
    section = node.child("spec")
    if not resource.servers and resource.identifiers:
        section.warn("no servers: nobody may ask about its tokens, nor revoke by introspection.")
    for uri in resource.identifiers:
        if uri.startswith("http://"):
            section.child("identifiers").warn(
                f"{uri} is not protected by TLS: whoever is on the way sees the tokens."
            )
    return resource


def report_shared_identifiers(read: list[tuple[Node, Resource]]) -> None:
    """An error where two resources have an identifier in common."""
    owners: dict[str, str] = {}
    for node, resource in read:
        for uri in resource.identifiers:
            owner = owners.setdefault(uri, resource.name)
            if owner != resource.name:
                node.child("spec").child("identifiers").error(
                    f"{show_value(uri)} names resource '{owner}' too; a token for one would be "
                    "one for the other."
                )


RESOURCE = ManifestKind("Resource", RESOURCE_SPEC, make_resource)
