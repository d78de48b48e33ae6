"""The fields of an Identity manifest."""

from __future__ import annotations

from typing import Any

from troth.core.ids import MAX_SPIFFE_ID_LENGTH
from troth.core.manifest import reader
from troth.core.manifest.field import Field, list_schema, read_members, text_schema
from troth.core.manifest.problem import Limits
from troth.identity import readers
from troth.identity.client_fields import TOKEN_SPEC
from troth.identity.identity import Kind
from troth.identity.selectors import KNOWN, MAX_SELECTORS, MAX_VALUE_LENGTH


def _nodes_schema(_: Limits) -> dict[str, Any]:
    item = {
        "type": "string",
        "maxLength": reader.MAX_NAME,
        "pattern": rf"^(\*|{reader.NAME_PATTERN})$",
    }
    return list_schema(readers.MAX_NODES, item, least=1)


def _selectors_schema(_: Limits) -> dict[str, Any]:
    longest = MAX_VALUE_LENGTH + max(len(key) for key in KNOWN) + 1
    pattern = f"^({'|'.join(KNOWN)}):"
    return list_schema(MAX_SELECTORS, {"type": "string", "maxLength": longest, "pattern": pattern})


def _dns_schema(_: Limits) -> dict[str, Any]:
    item = {
        "type": "string",
        "maxLength": reader.MAX_DNS_NAME,
        "pattern": f"^({readers.DNS_NAME_PATTERN})$",
    }
    return list_schema(readers.MAX_DNS_NAMES, item)


TTL = (
    Field(
        "x509",
        "x509_ttl",
        "how long a certificate (X.509-SVID) is valid, such as 1h.",
        lambda node: reader.read_ttl(node, node.limits.x509_ceiling),
        text_schema(24, reader.DURATION_PATTERN),
        default=lambda limits: limits.x509_default,
    ),
    Field(
        "jwt",
        "jwt_ttl",
        "how long a token (JWT-SVID) is valid, such as 5m.",
        lambda node: reader.read_ttl(node, node.limits.jwt_ceiling),
        text_schema(24, reader.DURATION_PATTERN),
        default=lambda limits: limits.jwt_default,
    ),
)


SPEC = (
    Field(
        "kind",
        "kind",
        f"what sort of machine it is: {', '.join(kind.value for kind in Kind)}.",
        readers.read_kind,
        lambda _: {"enum": [kind.value for kind in Kind]},
        required=True,
    ),
    Field(
        "owner",
        "owner",
        "who answers for it, such as payments@example.org.",
        lambda node: reader.read_text(node, reader.MAX_TEXT),
        text_schema(reader.MAX_TEXT),
        required=True,
    ),
    Field(
        "purpose",
        "purpose",
        "what it is for, in a sentence.",
        lambda node: reader.read_text(node, reader.MAX_PURPOSE),
        text_schema(reader.MAX_PURPOSE),
        required=True,
    ),
    Field(
        "environment",
        "environment",
        "where it belongs, such as prod; 'default' if not given.",
        lambda node: reader.read_pattern(
            node,
            reader.WORD_PATTERN,
            reader.MAX_LABEL_PART,
            "lower-case letters, digits, '-', '_' and '.'",
        ),
        text_schema(reader.MAX_LABEL_PART, reader.WORD_PATTERN),
        default=lambda _: "default",
    ),
    Field(
        "path",
        "path",
        "the path of its SPIFFE ID; a slash and the name if not given. It never changes.",
        readers.read_path,
        text_schema(MAX_SPIFFE_ID_LENGTH, r"(/[A-Za-z0-9._-]+)+"),
    ),
    Field(
        "expires",
        "expires",
        "when it ends: an RFC 3339 time, or days from its registration such as 90d.",
        readers.read_expiry,
        text_schema(40, f"{reader.DAYS_PATTERN}|{readers.TIME_PATTERN}"),
    ),
    Field(
        "nodes",
        "nodes",
        "names of the nodes that may hold it, or '*' for any; [local] if not given.",
        readers.read_nodes,
        _nodes_schema,
        default=lambda _: ("local",),
    ),
    Field(
        "selectors",
        "selectors",
        "what a process must prove to get it from an agent, such as unix:uid:1001; all of them.",
        readers.read_selectors,
        _selectors_schema,
        default=lambda _: (),
    ),
    Field(
        "dnsNames",
        "dns_names",
        "DNS names that its certificates carry besides the SPIFFE ID.",
        readers.read_dns_names,
        _dns_schema,
        default=lambda _: (),
    ),
    Field(
        "ttl",
        "",
        "how long its credentials are valid.",
        lambda node: read_members(node, TTL),
        lambda _: {},
        members=TTL,
    ),
    Field(
        "hint",
        "hint",
        "tells a workload that holds several identities which is which, such as internal.",
        lambda node: reader.read_text(node, reader.MAX_TEXT),
        text_schema(reader.MAX_TEXT),
        default=lambda _: "",
    ),
    *TOKEN_SPEC,
)
