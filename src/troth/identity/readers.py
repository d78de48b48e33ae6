"""Reading one value of a manifest: its bounds, its characters, and a sentence when it is wrong.

Each reader takes a `Node` and returns a value, or raises `Invalid` about that one value; readers
of lists and mappings report each item at its own place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from troth.core.errors import Invalid
from troth.core.ids import MAX_SPIFFE_ID_LENGTH, SpiffeId, check_path
from troth.identity.identity import Kind
from troth.identity.problem import Node, show_value, suggest_word
from troth.identity.selectors import MAX_SELECTORS, Selector

MAX_NAME = 128
MAX_TEXT = 256
MAX_PURPOSE = 1024
MAX_LABELS = 64
MAX_LABEL_PART = 63
MAX_NODES = 64
MAX_DNS_NAMES = 32
MAX_DNS_NAME = 253
RESERVED_PATH = "/troth"
ANY_NODE = "*"

NAME_PATTERN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
WORD_PATTERN = r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?"
LABEL_NAME_PATTERN = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
LABEL_KEY_PATTERN = rf"({NAME_PATTERN}/)?{LABEL_NAME_PATTERN}"
LABEL_VALUE_PATTERN = rf"({LABEL_NAME_PATTERN})?"
DNS_NAME_PATTERN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
DURATION_PATTERN = r"(?=.)([0-9]{1,4}d)?([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?"
DAYS_PATTERN = r"[1-9][0-9]{0,4}d"
TIME_PATTERN = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_EXPIRY_HINT = (
    "write a time such as '2027-06-30T00:00:00Z', or days from registration such as '90d'"
)


def read_text(node: Node, longest: int) -> str:
    """One line of text, without blanks around it, of at most `longest` characters."""
    if not isinstance(node.value, str):
        raise Invalid(f"must be a text, not {show_value(node.value)}; put it in quotes.")
    text = node.value.strip()
    if not text:
        raise Invalid("must not be empty.")
    if len(text) > longest:
        raise Invalid(f"must have at most {longest} characters; it has {len(text)}.")
    if not text.isprintable():
        raise Invalid("must be one line without control characters.")
    return text


def read_pattern(node: Node, pattern: str, longest: int, wanted: str) -> str:
    """A text that matches `pattern`; `wanted` says in words what that means."""
    text = read_text(node, longest)
    if not re.fullmatch(pattern, text, re.ASCII):
        raise Invalid(f"{show_value(text)} must be {wanted}.")
    return text


def read_items(node: Node, most: int, read: Callable[[Node], Any]) -> tuple[Any, ...]:
    """A list without duplicates; items that can't be read are reported and left out."""
    if not isinstance(node.value, list):
        raise Invalid(f"must be a list, not {show_value(node.value)}.")
    if len(node.value) > most:
        raise Invalid(f"must have at most {most} entries; it has {len(node.value)}.")
    items: list[Any] = []
    for index in range(len(node.value)):
        inner = node.child(index)
        try:
            item = read(inner)
        except Invalid as error:
            inner.error(error.detail)
            continue
        if item in items:
            inner.error(f"{show_value(str(item))} is in the list twice; remove one.")
        else:
            items.append(item)
    return tuple(items)


def read_name(node: Node) -> str:
    """A name: labels of a-z, 0-9 and '-', joined by dots."""
    wanted = "lower-case letters, digits, '-' and '.', such as 'payments-api'"
    return read_pattern(node, NAME_PATTERN, MAX_NAME, wanted)


def read_labels(node: Node) -> dict[str, str]:
    """Labels as Kubernetes writes them, so that they can be carried over."""
    if not isinstance(node.value, Mapping):
        raise Invalid(f"must be a mapping such as {{env: prod}}, not {show_value(node.value)}.")
    if len(node.value) > MAX_LABELS:
        raise Invalid(f"must have at most {MAX_LABELS} labels; it has {len(node.value)}.")
    labels: dict[str, str] = {}
    for key in node.value:
        inner = node.child(key)
        try:
            labels[_check_label_key(key)] = _read_label_value(inner)
        except Invalid as error:
            inner.error(error.detail)
    return labels


def _check_label_key(key: object) -> str:
    if not isinstance(key, str):
        raise Invalid(f"the label key {show_value(key)} must be a text.")
    prefix, _, name = key.rpartition("/")
    if len(name) > MAX_LABEL_PART or len(prefix) > MAX_DNS_NAME:
        raise Invalid(
            f"the label key {show_value(key)} is too long: at most {MAX_LABEL_PART} characters "
            f"after a prefix of at most {MAX_DNS_NAME}."
        )
    if not re.fullmatch(LABEL_KEY_PATTERN, key, re.ASCII):
        raise Invalid(
            f"the label key {show_value(key)} must be letters, digits, '-', '_' and '.', "
            "with an optional prefix such as 'example.org/'."
        )
    return key


def _read_label_value(node: Node) -> str:
    value = node.value
    if not isinstance(value, str):
        raise Invalid(f"a label's value must be a text, not {show_value(value)}; put it in quotes.")
    if len(value) > MAX_LABEL_PART or not re.fullmatch(LABEL_VALUE_PATTERN, value, re.ASCII):
        raise Invalid(
            f"the label value {show_value(value)} must be letters, digits, '-', '_' and '.', "
            f"at most {MAX_LABEL_PART} of them."
        )
    return value


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


def read_duration(text: object) -> timedelta:
    """``1h``, ``5m``, ``1h30m``, ``90s``; raises `Invalid`."""
    if not isinstance(text, str) or not re.fullmatch(DURATION_PATTERN, text, re.ASCII):
        raise Invalid(f"{show_value(text)} is not a duration: write '1h', '5m' or '90s'.")
    amounts = {unit: int(number) for number, unit in re.findall(r"([0-9]+)([dhms])", text)}
    return timedelta(
        days=amounts.get("d", 0),
        hours=amounts.get("h", 0),
        minutes=amounts.get("m", 0),
        seconds=amounts.get("s", 0),
    )


def render_duration(duration: timedelta) -> str:
    """Hours, minutes and seconds as `read_duration` reads them, such as ``24h`` or ``1h30m``."""
    rest, text = int(duration.total_seconds()), ""
    for unit, size in (("h", 3_600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def read_ttl(node: Node, ceiling: timedelta) -> timedelta:
    """A duration between the floor of the limits and `ceiling`."""
    ttl = read_duration(node.value)
    if ttl > ceiling:
        raise Invalid(f"must be at most {render_duration(ceiling)}; shorter is safer.")
    if ttl < node.limits.ttl_floor:
        raise Invalid(f"must be at least {render_duration(node.limits.ttl_floor)}.")
    return ttl
