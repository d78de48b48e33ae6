"""How a template names what it makes: a prefix of its own, then a pattern such as ``{node}/{uid}``.

Name and path are one thing: ``/batch/web-1/1001`` is named ``batch.web-1.1001``. What comes from a
process is written with the letters of names, or shortened to some of them and a hash, so that two
different values never give the same name by accident, and no value gives a name outside the prefix.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from troth.core.errors import Invalid
from troth.core.manifest.problem import show_value, suggest_word
from troth.core.manifest.reader import MAX_NAME, NAME_PATTERN

VARIABLES = {
    "node": "",
    "uid": "unix:uid",
    "gid": "unix:gid",
    "unit": "systemd:unit",
    "path": "unix:path",
}
"""Variable → the attribute whose value it stands for; the node is known otherwise."""

MAX_SLUG = 32
MAX_NAMING = 64
MAX_PREFIX = 48
_HASH_DIGITS = 16
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)
_NAME = re.compile(NAME_PATTERN, re.ASCII)
_NUMBERS = ("uid", "gid")
_TOUCHING = re.compile(r"\}[0-9{]|[0-9]\{")
_HASHED = re.compile(r".*-[0-9a-f]{16}", re.ASCII)
_PART = re.compile(r"\{([a-z0-9]*)\}|([a-z0-9-]+)|(/)", re.ASCII)
PREFIX_PATTERN = r"(/[a-z0-9]([a-z0-9-]*[a-z0-9])?)+"


@dataclass(frozen=True, slots=True)
class Naming:
    """A pattern of names; `text` is what the manifest says."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Naming:
        """Read ``{node}/{uid}``; raises `Invalid` that says what is wrong."""
        if len(text) > MAX_NAMING:
            raise Invalid(f"a naming must have at most {MAX_NAMING} characters.")
        at = 0
        while at < len(text):
            found = _PART.match(text, at)
            if found is None:
                raise Invalid(
                    f"{show_value(text)} must be variables such as {{uid}}, lower-case letters, "
                    "digits and '-', with '/' between the parts of the path."
                )
            if found[1] is not None and found[1] not in VARIABLES:
                tail = suggest_word(found[1], VARIABLES)
                raise Invalid(f"the variable {{{found[1]}}} is unknown; {tail}")
            at = found.end()
        sample = re.sub(r"\{[a-z0-9]*\}", "0", text)
        if not all(_LABEL.fullmatch(part) for part in sample.split("/")):
            raise Invalid(
                f"{show_value(text)}: each part between slashes must begin and end with a letter, "
                "a digit or a variable."
            )
        return cls(text)

    @property
    def variables(self) -> frozenset[str]:
        """The variables in it, without braces."""
        return frozenset(found[1] for found in _PART.finditer(self.text) if found[1] is not None)

    def find_ambiguity(self) -> str | None:
        """Why two different workloads could get the same name, or None.

        In one part of the path numbers can be told from what stands beside them, if no digit does;
        two others can't be told from each other: ``a`` and ``b-c``, or ``a-b`` and ``c``.
        """
        for part in self.text.split("/"):
            found = list(_PART.finditer(part))
            names = [one[1] for one in found if one[1] is not None]
            wide = [f"{{{name}}}" for name in names if name not in _NUMBERS]
            if len(wide) > 1:
                return f"{' and '.join(wide)} share a part of the path: put '/' between them."
            if len(names) > 1 and _TOUCHING.search(part):
                return (
                    f"in {show_value(part)} it can't be told where a variable ends: put '-' "
                    "between a variable and what stands next to it."
                )
        return None

    @property
    def longest(self) -> int:
        """How many characters it can come to."""
        return sum(
            len(found[0]) if found[1] is None else MAX_SLUG for found in _PART.finditer(self.text)
        )

    def render(self, values: Mapping[str, str]) -> str:
        """The path below the prefix, from the value of each variable."""
        return "".join(
            found[0] if found[1] is None else slug_value(found[1], values[found[1]])
            for found in _PART.finditer(self.text)
        )


def slug_value(variable: str, value: str) -> str:
    """`value` in the letters of names: itself where it has no others and
    doesn't look like a hash of another, else shortened and hashed.

    A unit named ``payments.service`` gives ``payments``; 64 bits of SHA-256 tell apart what looks
    alike once shortened.
    """
    plain = value.removesuffix(".service") if variable == "unit" else value
    allowed = _NAME if variable == "node" else _LABEL
    if len(plain) <= MAX_SLUG and allowed.fullmatch(plain) and not _HASHED.fullmatch(plain):
        return plain
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    words = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    words = words[: MAX_SLUG - _HASH_DIGITS - 1].strip("-")
    return f"{words}-{digest}" if words else f"x-{digest}"


def name_path(path: str) -> str:
    """The name of the identity at `path`: the slashes become dots."""
    return path[1:].replace("/", ".")


def check_length(prefix: str, naming: Naming) -> None:
    """Raise `Invalid` if a name could become longer than names may be."""
    longest = len(prefix) + naming.longest
    if longest > MAX_NAME:
        raise Invalid(
            f"names could have {longest} characters, more than {MAX_NAME}: use fewer variables "
            "or shorter words."
        )


def covers(prefix: str, path: str) -> bool:
    """Whether `path` is the prefix itself or stands below it."""
    return path == prefix or path.startswith(f"{prefix}/")


def list_claimants(name: str, path: str) -> frozenset[str]:
    """Every prefix that claims an identity of that name and path."""
    found = set()
    for parts in (path[1:].split("/"), name.split(".")):
        found |= {"/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return frozenset(found)
