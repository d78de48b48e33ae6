"""The fields of a Template manifest: one table that parsing, JSON Schema and the docs share.

What a Template says about the identities that it makes is read as in an Identity; what it can't
say (DNS names, a path of its own for each) isn't there, so that nothing more can be given away.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from troth.core.errors import Invalid
from troth.core.ids import check_path
from troth.core.manifest import reader
from troth.core.manifest.field import Field, list_schema, read_members, text_schema
from troth.core.manifest.problem import Limits, Node, show_value, suggest_word
from troth.identity import readers
from troth.identity.fields import SPEC, TTL
from troth.identity.naming import MAX_NAMING, MAX_PREFIX, PREFIX_PATTERN, Naming
from troth.identity.pattern import KEYS, Pattern
from troth.identity.selectors import MAX_SELECTORS, MAX_VALUE_LENGTH

SHORTEST_SPAN = timedelta(hours=1)
"""Half of it must be longer than the time that a server takes to trust its clock."""
LONGEST_SPAN = timedelta(days=365)
SPAN_DEFAULT = timedelta(days=7)
X509_DEFAULT = timedelta(minutes=15)
LIMIT_DEFAULT = 1_000
LIMIT_CEILING = 100_000
STARTS = ("active", "proposed")
_NAMING_PATTERN = r"[a-z0-9{}/-]+"


def _read_match(node: Node) -> tuple[Pattern, ...]:
    items: tuple[Pattern, ...] = reader.read_items(node, MAX_SELECTORS, _read_pattern)
    if not node.value:
        raise Invalid("must hold at least one pattern, such as 'unix:uid:1000-1999'.")
    seen: dict[str, Pattern] = {}
    for item in items:
        first = seen.setdefault(item.key, item)
        if first != item:
            node.error(f"{first} and {item} are about the same attribute; write one of them.")
    return items


def _read_pattern(node: Node) -> Pattern:
    if not isinstance(node.value, str):
        raise Invalid(f"must be a text such as 'unix:uid:1001', not {show_value(node.value)}.")
    return Pattern.parse(node.value)


def _read_prefix(node: Node) -> str:
    if not isinstance(node.value, str) or not re.fullmatch(PREFIX_PATTERN, node.value, re.ASCII):
        raise Invalid(
            f"{show_value(node.value)} must be a path of lower-case letters, digits and '-', such "
            "as '/batch'."
        )
    if len(node.value) > MAX_PREFIX:
        raise Invalid(f"must have at most {MAX_PREFIX} characters; it has {len(node.value)}.")
    check_path(node.value)
    return readers.read_path(node)


def _read_naming(node: Node) -> Naming:
    return Naming.parse(reader.read_text(node, MAX_NAMING))


def _read_span(node: Node) -> timedelta:
    span = reader.read_duration(node.value)
    if not SHORTEST_SPAN <= span <= LONGEST_SPAN:
        raise Invalid(f"must be from {SHORTEST_SPAN.seconds // 3600}h to {LONGEST_SPAN.days}d.")
    return span


def _read_lifetime(node: Node) -> timedelta:
    value = node.value
    if not isinstance(value, str) or not re.fullmatch(reader.DAYS_PATTERN, value, re.ASCII):
        raise Invalid(f"{show_value(value)} must be days from the registration, such as '90d'.")
    lifetime, ceiling = timedelta(days=int(value[:-1])), node.limits.lifetime_ceiling
    if lifetime > ceiling:
        raise Invalid(f"an identity lives {ceiling.days} days at most; write a shorter time.")
    return lifetime


def _read_limit(node: Node) -> int:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LIMIT_CEILING:
        raise Invalid(f"{show_value(value)} must be a number from 1 to {LIMIT_CEILING:,}.")
    return value


def _read_start(node: Node) -> str:
    if node.value not in STARTS or not isinstance(node.value, str):
        tail = suggest_word(node.value if isinstance(node.value, str) else "", STARTS)
        raise Invalid(f"{show_value(node.value)} is no state to start in; {tail}")
    return node.value


def _from_identity(name: str) -> Field:
    return next(field for field in SPEC if field.name == name)


def _match_schema(_: Limits) -> dict[str, Any]:
    longest = MAX_VALUE_LENGTH + max(map(len, KEYS)) + 1
    item = {"type": "string", "maxLength": longest, "pattern": f"^({'|'.join(KEYS)}):"}
    return list_schema(MAX_SELECTORS, item, least=1)


_X509_TTL, _JWT_TTL = TTL
TEMPLATE_TTL = (
    Field(
        _X509_TTL.name,
        _X509_TTL.attribute,
        _X509_TTL.description,
        _X509_TTL.read,
        _X509_TTL.schema,
        default=lambda limits: min(X509_DEFAULT, limits.x509_default),
    ),
    _JWT_TTL,
)

TEMPLATE_SPEC = (
    Field(
        "match",
        "match",
        "what a process must prove, such as unix:uid:1000-1999 or systemd:unit:batch-*.service.",
        _read_match,
        _match_schema,
        required=True,
    ),
    _from_identity("nodes"),
    Field(
        "prefix",
        "prefix",
        "the path below which its identities stand, and nobody else's; the name if not given.",
        _read_prefix,
        text_schema(MAX_PREFIX, PREFIX_PATTERN),
    ),
    Field(
        "naming",
        "naming",
        "how each is named below the prefix, such as {node}/{uid}.",
        _read_naming,
        text_schema(MAX_NAMING, _NAMING_PATTERN),
    ),
    _from_identity("kind"),
    _from_identity("owner"),
    _from_identity("purpose"),
    _from_identity("environment"),
    Field(
        "ttl",
        "",
        "how long the credentials of its identities are valid.",
        lambda node: read_members(node, TEMPLATE_TTL),
        lambda _: {},
        members=TEMPLATE_TTL,
    ),
    _from_identity("hint"),
    Field(
        "unattendedAfter",
        "unattended_after",
        "how long its workload may be away before an identity expires, such as 7d.",
        _read_span,
        text_schema(24, reader.DURATION_PATTERN),
        default=lambda _: SPAN_DEFAULT,
    ),
    Field(
        "retireAfter",
        "retire_after",
        "how long an expired identity waits for its workload before it is retired, such as 7d.",
        _read_span,
        text_schema(24, reader.DURATION_PATTERN),
        default=lambda _: SPAN_DEFAULT,
    ),
    Field(
        "expires",
        "lifetime",
        "when an identity ends even if its workload is there: days from its registration.",
        _read_lifetime,
        text_schema(40, reader.DAYS_PATTERN),
        default=lambda limits: limits.lifetime_default,
    ),
    Field(
        "max",
        "limit",
        "how many of its identities may live at the same time.",
        _read_limit,
        lambda _: {"type": "integer", "minimum": 1, "maximum": LIMIT_CEILING},
        default=lambda _: LIMIT_DEFAULT,
    ),
    Field(
        "start",
        "start",
        "active, or proposed: then each new identity waits for an administrator.",
        _read_start,
        lambda _: {"enum": list(STARTS)},
        default=lambda _: STARTS[0],
    ),
)
