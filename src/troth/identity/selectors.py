"""Selectors: what attestation proves about a process or node, as ``type:attribute:value`` text.

The names follow SPIRE's workload attestors (`unix:uid`, `unix:path`, `unix:sha256`), so that
registrations can be carried over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from troth.core.errors import Invalid

KNOWN = (
    "unix:uid",
    "unix:gid",
    "unix:path",
    "unix:sha256",
    "systemd:unit",
    "container:id",
    "x509pop:sha256",
    "x509pop:cn",
    "x509pop:ca",
)
"""Every attribute that can be proved: by a built-in attestor, or by a device's certificate."""

CERTIFIED = ("x509pop:sha256", "x509pop:cn", "x509pop:ca")
"""Attributes of a manufacturer's certificate, which only a device without an agent proves; the most
telling first."""

BOUNDARIES = ("unix:uid", "systemd:unit", "container:id")
"""Attributes that another program under the same uid can't borrow (see docs: attestation)."""

MAX_SELECTORS = 16
MAX_VALUE_LENGTH = 4096
_CHECKS = {
    "unix:uid": (re.compile(r"0|[1-9]\d{0,9}", re.ASCII), "a user number such as 1001"),
    "unix:gid": (re.compile(r"0|[1-9]\d{0,9}", re.ASCII), "a group number such as 1001"),
    "unix:path": (
        re.compile(r"(?:/(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+)+"),
        "an absolute path without '..', '.' or '//'",
    ),
    "unix:sha256": (re.compile(r"[0-9a-f]{64}", re.ASCII), "64 lower-case hexadecimal digits"),
    "systemd:unit": (
        re.compile(r"[A-Za-z0-9:_.\\@-]{1,255}\.(service|scope)"),
        "the name of a service or scope",
    ),
    "container:id": (re.compile(r"[0-9a-f]{64}", re.ASCII), "64 lower-case hexadecimal digits"),
    "x509pop:sha256": (re.compile(r"[0-9a-f]{64}", re.ASCII), "64 lower-case hexadecimal digits"),
    "x509pop:ca": (re.compile(r"[0-9a-f]{64}", re.ASCII), "64 lower-case hexadecimal digits"),
    "x509pop:cn": (
        re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]{0,62}[^\s\x00-\x1f\x7f])?"),
        "a common name of 1 to 64 characters",
    ),
}


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """One proved or demanded attribute: `key` such as ``unix:uid`` and its value."""

    key: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read ``unix:uid:1001``; raises `Invalid` that names the known attributes."""
        parts = text.split(":", 2)
        if len(parts) != 3:
            raise Invalid(f"The selector {text[:80]!r} must look like 'unix:uid:1001'.")
        key, value = f"{parts[0]}:{parts[1]}", parts[2]
        if key not in _CHECKS:
            raise Invalid(f"The selector attribute {key[:80]!r} is unknown; known: {_known()}.")
        pattern, wanted = _CHECKS[key]
        if len(value) > MAX_VALUE_LENGTH or not pattern.fullmatch(value):
            raise Invalid(f"The selector {text[:80]!r} needs {wanted} after '{key}:'.")
        return cls(key, value)

    def __str__(self) -> str:
        return f"{self.key}:{self.value}"


@dataclass(frozen=True, slots=True)
class Match:
    """How a demanded set compares with what was attested; allowed when nothing is missing."""

    held: tuple[Selector, ...]
    missing: tuple[Selector, ...]

    @property
    def complete(self) -> bool:
        """Whether every demanded selector was attested (an empty demand never matches)."""
        return not self.missing and bool(self.held)


def match_selectors(demanded: Iterable[Selector], attested: frozenset[Selector]) -> Match:
    """Compare a registration's selectors with attested ones: all must be there."""
    wanted = tuple(demanded)
    return Match(
        held=tuple(s for s in wanted if s in attested),
        missing=tuple(s for s in wanted if s not in attested),
    )


def find_weakness(demanded: Iterable[Selector]) -> str | None:
    """A warning in words if the set rests on attributes a same-uid neighbour can borrow.

    An empty set isn't weak: it never matches.
    """
    keys = {s.key for s in demanded}
    if certified := keys & set(CERTIFIED):
        if keys - certified:
            return "mixes what a process proves with what a device proves: nothing proves both."
        if "x509pop:cn" in keys and "x509pop:ca" not in keys:
            return (
                "rests on a common name alone: every authority for devices could certify it. "
                "Add x509pop:ca."
            )
        return None
    if not keys or keys & set(BOUNDARIES):
        return None
    if keys == {"unix:gid"}:
        return (
            "rests on the group alone: every process with that primary group obtains it. "
            "Add one of unix:uid, systemd:unit or container:id."
        )
    return (
        "rests on the executable alone: another program under the same uid can pass for it. "
        "Add one of unix:uid, systemd:unit or container:id."
    )


def _known() -> str:
    return ", ".join(KNOWN)
