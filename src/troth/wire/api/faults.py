"""What is wrong with a request, in a sentence: msgspec's words are for programmers.

A pattern is never shown: it says what is accepted to those alone who read such things.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec.inspect

FORMATS = {
    "node": "a node's name has 1 to 63 of a-z, 0-9, '.' and '-', and starts and ends with a letter "
    "or a digit, such as web-1.",
    "serial": "a serial has up to 40 hexadecimal digits: `troth certificate ls NAME` shows them.",
    "jti": "a token's jti is tok_ and hexadecimal digits, as its journal entry has it: "
    "`troth journal tail --type token.` shows it.",
    "aut_": "an id such as aut_5f3c01: `troth authority ls` shows them.",
    "csec_": "an id such as csec_5f3c01: `troth client-secret ls` shows them.",
}
"""Field of a request, or how an id begins → what its text looks like, where a pattern demands it.
"""

_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "datetime": "a time",
    "bytes": "base64 text",
    "null": "null",
}
_UNITS = {"str": "characters", "array": "entries", "object": "members", "bytes": "bytes"}
_LIMITS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_PLACE = re.compile(r"(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<place>[^`]*)`)?", re.DOTALL)
_BOUND = re.compile(
    r"Expected `(?P<kind>[^`]+)` (?P<length>of length )?(?P<limit>[<>]=?) (?P<value>.+)", re.DOTALL
)
_WRONG_KIND = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<given>[^`]+)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_INVALID = re.compile(r"Invalid (?P<what>RFC3339|base64|enum|value)")
_INVALID_WORDS = {
    "RFC3339": "is not a time such as 2027-06-30T12:00:00Z",
    "base64": "is not base64",
    "enum": "is not one of the values that it may have",
    "value": "is not one of the values that it may have",
}
_PREFIX = re.compile(r" matching regex '\^(?P<prefix>[a-z]+_)")
_LENGTHS = (("d", 86_400), ("h", 3_600), ("m", 60))
_SHOWN = 80
_MOST_VALUES = 12


def explain_fault(error: str, kind: type[msgspec.Struct] | None = None) -> str:
    """A sentence for what msgspec says of a value that it refuses; `kind` is what it read."""
    match = _PLACE.fullmatch(error)
    what, place = (match["what"], match["place"] or "") if match else (error, "")
    name = repr(place[:_SHOWN]) if place else "The request"
    if found := _MISSING.fullmatch(what):
        where = f" in {name}" if place else ""
        return f"The field {found['name']!r} is missing{where}."
    if found := _UNKNOWN.fullmatch(what):
        where = f" in {name}" if place else ""
        return f"There is no field {found['name'][:_SHOWN]!r}{where}; check its spelling."
    if found := _BOUND.fullmatch(what):
        return f"{name} must {_describe_bound(found, place)}."
    if " matching regex " in what:
        field = re.sub(r"\[.*", "", place.rpartition(".")[2])
        prefix = _PREFIX.search(what)
        words = FORMATS.get(field) or FORMATS.get(prefix["prefix"] if prefix else "")
        return f"{name} is not written as it must be{f': {words}' if words else '.'}"
    if found := _WRONG_KIND.fullmatch(what):
        return f"{name} must be {_list_kinds(found['wanted'])}, not {_list_kinds(found['given'])}."
    if found := _INVALID.match(what):
        values = _list_values(kind, place)
        if values and found["what"] in ("enum", "value"):
            return f"{name} must be one of {', '.join(values)}."
        return f"{name} {_INVALID_WORDS[found['what']]}."
    return f"{name} is not as it must be."


def _describe_bound(found: re.Match[str], place: str) -> str:
    kind, limit, value = found["kind"], _LIMITS[found["limit"]], found["value"]
    if found["length"]:
        unit = _UNITS.get(kind, "entries")
        return f"have {limit} {value} {unit if value != '1' else unit.removesuffix('s')}"
    if place == "ttl" and value.isdecimal():
        return f"be {limit} {value} seconds{_describe_seconds(int(value))}"
    return f"be {limit} {value}"


def _describe_seconds(count: int) -> str:
    """`` (90d)`` or `` (10m)``, as people write it, where that is shorter."""
    for unit, size in _LENGTHS:
        if count and count % size == 0:
            return f" ({count // size}{unit})"
    return ""


def _list_values(kind: type[msgspec.Struct] | None, place: str) -> list[str]:
    """What the field `place` of `kind` may be, where that is a short list of words."""
    described: Any = None if kind is None else msgspec.inspect.type_info(kind)
    fields = getattr(described, "fields", ())
    wanted = next((field.type for field in fields if field.encode_name == place), None)
    found: list[str] = []
    for one in getattr(wanted, "types", (wanted,)):
        if isinstance(one, msgspec.inspect.LiteralType):
            found += map(str, one.values)
        elif isinstance(one, msgspec.inspect.EnumType):
            found += [str(member.value) for member in one.cls]
    return found if len(found) <= _MOST_VALUES else []


def _list_kinds(kinds: str) -> str:
    return " or ".join(_KINDS.get(kind.strip(), "something else") for kind in kinds.split("|"))
