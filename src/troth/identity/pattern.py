"""Patterns of selectors: what a template fits, such as ``unix:uid:1000-1999``.

A pattern is a selector whose value may leave something open: a range of numbers, or ``*`` in the
name of a unit or in a path. Matching takes time linear in pattern and value, whatever they hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from troth.core import glob
from troth.core.errors import Invalid
from troth.identity.selectors import MAX_VALUE_LENGTH, Selector

ANCHORS = ("unix:uid", "systemd:unit")
"""What a template must name, since no neighbour under the same uid can borrow it."""

KEYS = ("unix:uid", "unix:gid", "systemd:unit", "unix:path", "unix:sha256")
"""The attributes that a template may ask for. A container's id is new at each of its starts."""

SHELTERED = ("user@", "session-")
"""Beginnings of units in which whoever logs in runs what they like. A wildcard reaches into them
only where the pattern itself begins so."""

MAX_NUMBER = 2**32 - 1
MAX_STARS = 8
ANYTHING_BELOW = "**"
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_NUMBERS = re.compile(r"(0|[1-9][0-9]{0,9})(?:-(0|[1-9][0-9]{0,9}))?", re.ASCII)
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@*-]{1,255}\.(service|scope)", re.ASCII)
_WANTED = {
    "unix:uid": "a number or a range such as 1000-1999",
    "unix:gid": "a number or a range such as 1000-1999",
    "systemd:unit": "the name of a service or scope, with '*' for any run of characters",
    "unix:path": "an absolute path, with '*' inside one folder's name or '/**' at its end",
    "unix:sha256": "64 lower-case hexadecimal digits",
}


@dataclass(frozen=True, slots=True)
class Pattern:
    """One attribute and the values that fit: `low` to `high` of numbers, else `text` as a glob."""

    key: str
    text: str
    low: int = 0
    high: int = 0

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read ``unix:uid:1000-1999``; raises `Invalid` that says what would be right."""
        parts = text.split(":", 2)
        if len(parts) != 3:
            raise Invalid(f"The pattern {text[:80]!r} must look like 'unix:uid:1000-1999'.")
        key, value = f"{parts[0]}:{parts[1]}", parts[2]
        if key == "container:id":
            raise Invalid(
                "A container's id is new at each of its starts, so a template can't name it: take "
                "a uid or a unit, or register the container's identity."
            )
        if key not in KEYS:
            known = ", ".join(KEYS)
            raise Invalid(f"A template can't ask for {key[:80]!r}; it can for {known}.")
        if key in ("unix:uid", "unix:gid"):
            return cls._parse_numbers(key, value)
        if key == "unix:sha256":
            Selector.parse(text)
        elif not _is_glob(key, value):
            raise Invalid(f"The pattern {text[:80]!r} needs {_WANTED[key]} after '{key}:'.")
        return cls(key, value)

    @classmethod
    def _parse_numbers(cls, key: str, value: str) -> Pattern:
        found = _NUMBERS.fullmatch(value)
        if found is None:
            raise Invalid(f"{value[:80]!r} must be {_WANTED[key]} after '{key}:'.")
        low = int(found[1])
        high = low if found[2] is None else int(found[2])
        if high > MAX_NUMBER or (found[2] is not None and low >= high):
            raise Invalid(
                f"The range {value[:80]!r} must go from a smaller to a larger number, "
                f"{MAX_NUMBER} at most."
            )
        return cls(key, value, low, high)

    @property
    def is_numeric(self) -> bool:
        """Whether it is about numbers."""
        return self.key in ("unix:uid", "unix:gid")

    @property
    def is_exact(self) -> bool:
        """Whether one value alone fits."""
        return self.low == self.high if self.is_numeric else "*" not in self.text

    @property
    def literals(self) -> int:
        """How many characters a wildcard leaves fixed; 0 for numbers and exact patterns."""
        return 0 if self.is_numeric or self.is_exact else len(self.text.replace("*", ""))

    def fits(self, value: str) -> bool:
        """Whether `value`, attested for the same attribute, fits."""
        if self.is_numeric:
            return bool(_NUMBER.fullmatch(value)) and self.low <= int(value) <= self.high
        if self.is_exact:
            return value == self.text
        if self.key == "unix:path":
            return _fits_path(self.text, value)
        sheltered = value.startswith(SHELTERED) and not self.text.startswith(SHELTERED)
        return not sheltered and glob.matches(self.text, value)

    def meets(self, other: Pattern) -> bool:
        """Whether some value may fit both patterns of the same attribute."""
        if self.is_numeric:
            return self.low <= other.high and other.low <= self.high
        if self.is_exact:
            return other.fits(self.text)
        if other.is_exact:
            return self.fits(other.text)
        if self.key == "unix:path":
            return _paths_meet(self.text.split("/"), other.text.split("/"))
        return globs_meet(self.text, other.text)

    def __str__(self) -> str:
        return f"{self.key}:{self.text}"


def _is_glob(key: str, value: str) -> bool:
    if len(value) > MAX_VALUE_LENGTH or value.count("*") > MAX_STARS:
        return False
    if key == "systemd:unit":
        return _UNIT.fullmatch(value) is not None and "**" not in value
    *folders, last = value.split("/")
    if any("**" in folder for folder in folders) or ("**" in last and last != ANYTHING_BELOW):
        return False
    if last == ANYTHING_BELOW and folders == [""]:
        return False  # every program there is: no pattern at all
    try:
        Selector.parse(f"unix:path:{value}")
    except Invalid:
        return False
    return True


def _fits_path(pattern: str, value: str) -> bool:
    wanted, given = pattern.split("/"), value.split("/")
    if wanted[-1] == ANYTHING_BELOW:
        wanted = wanted[:-1]
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(map(glob.matches, wanted, given))


def globs_meet(one: str, other: str) -> bool:
    """Whether some text fits both globs: each pair of positions is looked at once."""
    reached = {(0, 0)}
    waiting = [(0, 0)]
    while waiting:
        i, j = waiting.pop()
        if i == len(one) and j == len(other):
            return True
        steps = []
        if i < len(one) and one[i] == "*":
            steps.append((i + 1, j))
        if j < len(other) and other[j] == "*":
            steps.append((i, j + 1))
        if i < len(one) and j < len(other):
            if one[i] == "*" and other[j] != "*":
                steps.append((i, j + 1))
            elif other[j] == "*" and one[i] != "*":
                steps.append((i + 1, j))
            elif one[i] == other[j] and one[i] != "*":
                steps.append((i + 1, j + 1))
        for step in steps:
            if step not in reached:
                reached.add(step)
                waiting.append(step)
    return False


def _paths_meet(one: list[str], other: list[str]) -> bool:
    shorter, longer = sorted((one, other), key=len)
    if shorter[-1] == ANYTHING_BELOW:
        shorter = shorter[:-1]
        return all(
            theirs == ANYTHING_BELOW or globs_meet(ours, theirs)
            for ours, theirs in zip(shorter, longer, strict=False)
        )
    if longer[-1] == ANYTHING_BELOW:
        if len(longer) > len(shorter):
            return False
        return all(map(globs_meet, longer[:-1], shorter))
    return len(one) == len(other) and all(map(globs_meet, one, other))
