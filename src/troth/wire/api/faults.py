"""What is wrong with a request, in a sentence: msgspec's words are for programmers.

A pattern is never shown: it says what is accepted to those alone who read such things.
"""

from __future__ import annotations

import re

FORMATS = {
    "node": "a node's name has 1 to 63 of a-z, 0-9, '.' and '-', and starts and ends with a letter "
    "or a digit, such as web-1.",
    "serial": "a serial has up to 40 hexadecimal digits: `troth certificate ls NAME` shows them.",
}
"""Field of a request → what its text looks like, where a pattern demands it."""

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
_SHOWN = 80


def explain_fault(error: str) -> str:
    """A sentence for what msgspec says of a value that it refuses."""
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
        return f"{name} must {_describe_bound(found)}."
    if " matching regex " in what:
        field = re.sub(r"\[.*", "", place.rpartition(".")[2])
        words = FORMATS.get(field)
        return f"{name} is not written as it must be{f': {words}' if words else '.'}"
    if found := _WRONG_KIND.fullmatch(what):
        return f"{name} must be {_list_kinds(found['wanted'])}, not {_list_kinds(found['given'])}."
    if found := _INVALID.match(what):
        return f"{name} {_INVALID_WORDS[found['what']]}."
    return f"{name} is not as it must be."


def _describe_bound(found: re.Match[str]) -> str:
    kind, limit, value = found["kind"], _LIMITS[found["limit"]], found["value"]
    if found["length"]:
        unit = _UNITS.get(kind, "entries")
        return f"have {limit} {value} {unit if value != '1' else unit.removesuffix('s')}"
    return f"be {limit} {value}"


def _list_kinds(kinds: str) -> str:
    return " or ".join(_KINDS.get(kind.strip(), "something else") for kind in kinds.split("|"))
