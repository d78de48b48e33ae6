"""SARIF, in which checkers tell code hosts and editors what they found.

Source: OASIS Standard "Static Analysis Results Interchange Format (SARIF) Version 2.1.0", with
Errata 01. Sections are named where a choice was made. GitHub's code scanning reads a part of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import quote

import msgspec

from troth.core.manifest.problem import Problem, Severity
from troth.core.manifest.report import Report, Rule, find_rule_id, fingerprint_problems

VERSION: Literal["2.1.0"] = "2.1.0"
SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
ROOT = "%SRCROOT%"
"""Where relative addresses start: the folder of the sources (section 3.4.4, and the example
there). What that is on a machine is nobody's business, so ``originalUriBaseIds`` is left out."""

FINGERPRINT = "trothProblem/v1"
"""The name of ours has a version, for when it is made in another way (section 3.27.17)."""

Level = Literal["error", "warning"]


class _Part(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A part of the document: names in camel case, and nothing that says nothing."""


class Message(_Part, frozen=True):
    """Section 3.11."""

    text: str


class Configuration(_Part, frozen=True):
    """What a rule is unless a result says otherwise (section 3.50)."""

    level: Level


class Descriptor(_Part, frozen=True):
    """A rule (section 3.49)."""

    id: str
    short_description: Message | None = None
    help: Message | None = None
    default_configuration: Configuration | None = None


class Driver(_Part, frozen=True):
    """The program itself (section 3.19)."""

    name: str
    semantic_version: str
    rules: list[Descriptor] = []


class Tool(_Part, frozen=True):
    """Section 3.18."""

    driver: Driver


class ArtifactLocation(_Part, frozen=True):
    """A file's address (section 3.4)."""

    uri: str
    uri_base_id: str = ""


class Region(_Part, frozen=True):
    """Lines and columns count from 1 (section 3.30)."""

    start_line: int
    start_column: int = 0


class PhysicalLocation(_Part, frozen=True):
    """Section 3.29."""

    artifact_location: ArtifactLocation
    region: Region | None = None


class LogicalLocation(_Part, frozen=True):
    """Where in the document's structure: ``spec.selectors[0]`` (section 3.33)."""

    fully_qualified_name: str


class Location(_Part, frozen=True):
    """Section 3.28."""

    physical_location: PhysicalLocation
    logical_locations: list[LogicalLocation] = []


class Result(_Part, frozen=True):
    """One problem (section 3.27)."""

    rule_id: str
    rule_index: int
    level: Literal["error", "warning", "note"]
    message: Message
    locations: list[Location]
    partial_fingerprints: dict[str, str]


class Notification(_Part, frozen=True):
    """Something about the run itself, such as a file that wasn't read (section 3.58)."""

    level: Level
    message: Message
    locations: list[Location] = []


class Invocation(_Part, frozen=True):
    """How the run went (section 3.20). To find problems is a success."""

    execution_successful: bool
    tool_execution_notifications: list[Notification] = []


class AutomationDetails(_Part, frozen=True):
    """Which check it was; ends in a slash since runs have no number (section 3.17.3)."""

    id: str


class Run(_Part, frozen=True):
    """Section 3.14. Columns count characters, as readers of YAML do, not UTF-16 units."""

    tool: Tool
    invocations: list[Invocation]
    automation_details: AutomationDetails
    results: list[Result]
    column_kind: str


class Log(msgspec.Struct, frozen=True):
    """The whole document (section 3.13)."""

    version: str
    runs: list[Run]
    schema: str = msgspec.field(name="$schema", default=SCHEMA)


def render_sarif(report: Report, version: str) -> bytes:
    """The document of one run of troth `version`, with a line end.

    Sources are paths as seen from the folder of the sources; others get an absolute address.
    """
    ids = _list_ids(report)
    places = {name: index for index, name in enumerate(ids)}
    names = fingerprint_problems(report.problems)
    run = Run(
        tool=Tool(Driver("troth", version, [_describe_rule(report.rules.get(i), i) for i in ids])),
        invocations=[
            Invocation(
                True,
                [
                    Notification("warning", Message(one.reason), [_locate(one.source)])
                    for one in report.unread
                ],
            )
        ],
        automation_details=AutomationDetails(f"troth/{report.name}/"),
        results=[
            _describe_problem(problem, places[find_rule_id(problem)], name)
            for problem, name in zip(report.problems, names, strict=True)
        ],
        column_kind="unicodeCodePoints",
    )
    document = msgspec.json.encode(Log(VERSION, [run]))
    return msgspec.json.format(document, indent=2) + b"\n"


def render_address(source: str) -> ArtifactLocation:
    """A path as address (RFC 3986): relative with forward slashes, or absolute as ``file:``."""
    path = PurePosixPath(source)
    if path.is_absolute():
        return ArtifactLocation(f"file://{_quote(path)}")
    return ArtifactLocation(_quote(path), ROOT)


def _quote(path: PurePosixPath) -> str:
    """Percent-encoded; the bytes of a name that isn't UTF-8 stay what they are."""
    return quote(str(path), errors="surrogateescape")


def _list_ids(report: Report) -> list[str]:
    """Every rule that the report knows, and those that only its problems know."""
    found: Iterable[str] = (find_rule_id(problem) for problem in report.problems)
    return list(dict.fromkeys((*report.rules, *found)))


def _describe_rule(rule: Rule | None, name: str) -> Descriptor:
    if rule is None:
        return Descriptor(name)
    return Descriptor(
        name, Message(rule.summary), Message(rule.help), Configuration(_level(rule.severity))
    )


def _describe_problem(problem: Problem, index: int, fingerprint: str) -> Result:
    where = f"{problem.path}: " if problem.path else ""
    return Result(
        rule_id=find_rule_id(problem),
        rule_index=index,
        level=_level(problem.severity),
        message=Message(f"{where}{problem.message}"),
        locations=[_locate(problem.source, problem.line, problem.column, problem.path)],
        partial_fingerprints={FINGERPRINT: fingerprint},
    )


def _locate(source: str, line: int = 0, column: int = 0, path: str = "") -> Location:
    """A problem of a file as a whole stands on its first line: code hosts ask for one."""
    region = Region(max(1, line), column)
    inside = [LogicalLocation(path)] if path else []
    return Location(PhysicalLocation(render_address(source), region), inside)


def _level(severity: Severity) -> Level:
    return "error" if severity is Severity.ERROR else "warning"
