"""Reading the values that only manifests about identities have: paths, nodes, selectors, ends."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from troth.core.errors import Invalid
from troth.core.ids import MAX_SPIFFE_ID_LENGTH, SpiffeId, check_path
from troth.core.manifest.problem import Node, show_value, suggest_word
from troth.core.manifest.reader import (
    DAYS_PATTERN,
    MAX_DNS_NAME,
    read_items,
    read_name,
    read_text,
)
from troth.identity.identity import Kind
from troth.identity.selectors import MAX_SELECTORS, Selector

MAX_NODES = 64
MAX_DNS_NAMES = 32
RESERVED_PATH = "/troth"
ANY_NODE = "*"

DNS_NAME_PATTERN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
TIME_PATTERN = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_EXPIRY_HINT = (
    "write a time such as '2027-06-30T00:00:00Z', or days from registration such as '90d'"
)


def read_kind(node: Node) -> Kind:
    """One of the six kinds."""
    known = [kind.value for kind in Kind]
    if not isinstance(node.value, str) or node.value not in known:
        tail = suggest_word(str(node.value) if isinstance(node.value, str) else "", known)
        raise Invalid(f"the kind {show_value(node.value)} is unknown; {tail}")
    return Kind(node.value)


def read_path(node: Node) -> str:
    """The path of the SPIFFE ID; ``/troth/…`` belongs to troth's own server and nodes."""
    if not isinstance(node.value, str) or not node.value:
        raise Invalid(f"must be a path such as '/payments/api', not {show_value(node.value)}.")
    check_path(node.value)
    if node.value == RESERVED_PATH or node.value.startswith(f"{RESERVED_PATH}/"):
        raise Invalid(
            f"paths under '{RESERVED_PATH}/' belong to troth's own server and nodes; "
            "choose another."
        )
    if node.limits.trust_domain is not None:
        SpiffeId.of(node.limits.trust_domain, node.value)
    elif len(node.value) > MAX_SPIFFE_ID_LENGTH - len("spiffe://x"):
        raise Invalid(f"the SPIFFE ID would be longer than {MAX_SPIFFE_ID_LENGTH} bytes.")
    return node.value


def read_expiry(node: Node) -> datetime | timedelta:
    """A moment in the future, or a time counted from the registration."""
    value, ceiling = node.value, node.limits.lifetime_ceiling
    if not isinstance(value, str):
        raise Invalid(f"{show_value(value)} is not an expiry: {_EXPIRY_HINT}.")
    if re.fullmatch(DAYS_PATTERN, value, re.ASCII):
        lifetime = timedelta(days=int(value[:-1]))
        if lifetime > ceiling:
            raise Invalid(f"an identity lives {ceiling.days} days at most; write a shorter time.")
        return lifetime
    if not re.fullmatch(TIME_PATTERN, value, re.ASCII):
        raise Invalid(f"{show_value(value)} is not an expiry: {_EXPIRY_HINT}.")
    try:
        moment = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"{show_value(value)} is not a time that exists; {_EXPIRY_HINT}.") from None
    if moment <= node.now:
        raise Invalid(f"{value} is in the past; write a later time, or retire the identity.")
    if moment - node.now > ceiling:
        raise Invalid(f"an identity lives {ceiling.days} days at most; write an earlier time.")
    return moment


def read_nodes(node: Node) -> tuple[str, ...]:
    """Names of nodes, or ``*`` for any attested one."""
    names = read_items(node, MAX_NODES, _read_node_name)
    if not node.value:
        raise Invalid(f"must name at least one node, or '{ANY_NODE}' for any attested node.")
    if ANY_NODE in names:
        node.warn("any attested node may hold this identity; name the nodes if you know them.")
    return names


def _read_node_name(node: Node) -> str:
    return ANY_NODE if node.value == ANY_NODE else read_name(node)


def read_selectors(node: Node) -> tuple[Selector, ...]:
    """Selectors; one attribute can't be demanded twice, since a process has one value of each."""
    items: tuple[Selector, ...] = read_items(node, MAX_SELECTORS, _read_selector)
    seen: dict[str, Selector] = {}
    for item in items:
        first = seen.setdefault(item.key, item)
        if first != item:
            node.error(f"no process can have both {first} and {item}; remove one.")
    return items


def _read_selector(node: Node) -> Selector:
    if not isinstance(node.value, str):
        raise Invalid(f"must be a text such as 'unix:uid:1001', not {show_value(node.value)}.")
    return Selector.parse(node.value)


def read_dns_names(node: Node) -> tuple[str, ...]:
    """DNS names for certificates (RFC 1123 host names, lower case, no wildcard)."""
    names: tuple[str, ...] = read_items(node, MAX_DNS_NAMES, _read_dns_name)
    return names


def _read_dns_name(node: Node) -> str:
    name = read_text(node, MAX_DNS_NAME)
    if "*" in name:
        raise Invalid(f"{show_value(name)} is a wildcard; write each name.")
    if name != name.lower():
        raise Invalid(f"{show_value(name)} must be in lower case.")
    if not re.fullmatch(DNS_NAME_PATTERN, name, re.ASCII):
        raise Invalid(
            f"{show_value(name)} is not a DNS name: labels of a-z, 0-9 and '-' joined by dots; "
            "write other scripts in their 'xn--' form."
        )
    if name.rpartition(".")[2].isdigit():
        raise Invalid(f"{show_value(name)} looks like an address; only DNS names are certified.")
    if name in node.limits.reserved_dns_names or f".{name}".endswith(".localhost"):
        raise Invalid(
            f"{show_value(name)} is kept for the troth server: whoever held it in a "
            "certificate could pass for it."
        )
    return name
