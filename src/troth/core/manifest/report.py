"""What a check found, as a whole: problems, the rules they break, and what it couldn't look at.

Programs that follow a problem from run to run need two names that don't change: that of its rule,
and its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from troth.core.manifest.problem import Problem, Severity


@dataclass(frozen=True, slots=True)
class Rule:
    """What a check looks for. `id` is stable: ``room/what``, in lower case.

    `summary` is one line; `help` says why it matters and how to mend it.
    """

    id: str
    summary: str
    help: str
    severity: Severity = Severity.WARNING


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that was not looked at although it should be, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one check. `name` tells it from other checks of the same files."""

    name: str
    problems: tuple[Problem, ...]
    rules: Mapping[str, Rule] = field(default_factory=dict)
    unread: tuple[Unread, ...] = ()


ERROR = Rule(
    "manifest/error",
    "A manifest that can't be applied.",
    "troth refuses the whole set as long as one manifest in it is wrong, so that half a change is "
    "never made. The message says what to write instead.",
    Severity.ERROR,
)
WARNING = Rule(
    "manifest/warning",
    "A manifest that is legal and probably not meant.",
    "It is applied as it stands. The message says what it leads to; with --strict it fails the "
    "check.",
)
MANIFEST_RULES: Mapping[str, Rule] = {rule.id: rule for rule in (ERROR, WARNING)}


def find_rule_id(problem: Problem) -> str:
    """The id of the rule that `problem` breaks; a plain one breaks that of its severity."""
    plain = ERROR if problem.severity is Severity.ERROR else WARNING
    return problem.rule or plain.id


def fingerprint_problems(problems: Iterable[Problem]) -> list[str]:
    """A name for each problem, in hexadecimal, that lasts while lines above it come and go.

    It is made of rule, file, place in the document and message; equal ones in a file are counted,
    so that no two problems have the same name.
    """
    seen: dict[str, int] = {}
    names = []
    for one in problems:
        facts = "\0".join((find_rule_id(one), one.source, one.path, one.message))
        ordinal = seen[facts] = seen.get(facts, 0) + 1
        names.append(hashlib.sha256(f"{facts}\0{ordinal}".encode(errors="replace")).hexdigest())
    return names
