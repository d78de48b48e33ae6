"""GitLab's Code Quality report: what a merge request shows of a check.

Source: GitLab's documentation, "Code Quality", the table of a custom tool's report: an array of
objects with these members, a part of Code Climate's specification. GitLab reads SARIF elsewhere,
not here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from troth.core.manifest.problem import Severity
from troth.core.manifest.report import Report, find_rule_id, fingerprint_problems


class Lines(msgspec.Struct, frozen=True):
    """The first line, from 1."""

    begin: int


class Place(msgspec.Struct, frozen=True):
    """A file as seen from the repository's root, without ``./`` before it."""

    path: str
    lines: Lines


class Violation(msgspec.Struct, frozen=True):
    """One problem. `fingerprint` is unique in the report."""

    description: str
    check_name: str
    fingerprint: str
    severity: Literal["info", "minor", "major", "critical", "blocker"]
    location: Place


def render_code_quality(report: Report) -> bytes:
    """The report with a line end. What wasn't read has no place in it."""
    names = fingerprint_problems(report.problems)
    violations = [
        Violation(
            description=f"{problem.path}: {problem.message}" if problem.path else problem.message,
            check_name=find_rule_id(problem),
            fingerprint=name,
            severity="critical" if problem.severity is Severity.ERROR else "minor",
            location=Place(_clean(problem.source), Lines(max(1, problem.line))),
        )
        for problem, name in zip(report.problems, names, strict=True)
    ]
    return msgspec.json.format(msgspec.json.encode(violations), indent=2) + b"\n"


def _clean(source: str) -> str:
    """A name that isn't UTF-8 can't stand in JSON; what can't be shown becomes a question mark."""
    return source.encode(errors="replace").decode()
