"""Reading one value of a manifest: its bounds, its characters, and a sentence when it is wrong.

Each reader takes a `Node` and returns a value, or raises `Invalid` about that one value; readers
of lists and mappings report each item at its own place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from troth.core.errors import Invalid
from troth.core.manifest.problem import Node, show_value

MAX_NAME = 128
MAX_TEXT = 256
MAX_PURPOSE = 1024
MAX_LABELS = 64
MAX_LABEL_PART = 63
MAX_DNS_NAME = 253

NAME_PATTERN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
WORD_PATTERN = r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?"
LABEL_NAME_PATTERN = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
LABEL_KEY_PATTERN = rf"({NAME_PATTERN}/)?{LABEL_NAME_PATTERN}"
LABEL_VALUE_PATTERN = rf"({LABEL_NAME_PATTERN})?"
DURATION_PATTERN = r"(?=.)([0-9]{1,4}d)?([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?"
DAYS_PATTERN = r"[1-9][0-9]{0,4}d"


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
            labels[check_label_key(key)] = _read_label_value(inner)
        except Invalid as error:
            inner.error(error.detail)
    return labels


def check_label_key(key: object) -> str:
    """A label's key as it may be written; raises `Invalid`."""
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
