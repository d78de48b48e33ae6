"""How a check tells what it found: for people, for programs, for code hosts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

import troth
from troth.cli.terminal import Terminal, make_text
from troth.cli.words import clean_text
from troth.core.manifest.problem import Problem, Severity
from troth.core.manifest.report import Report
from troth.wire.codequality import render_code_quality
from troth.wire.sarif import render_sarif

if TYPE_CHECKING:
    from rich.console import RenderableType


class Form(StrEnum):
    """What a report is written as."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    CODE_QUALITY = "codequality"


FormOption = Annotated[
    Form | None,
    typer.Option(
        "--format",
        help="Text for people, JSON (as --json), SARIF 2.1.0, or GitLab's Code Quality report.",
        show_default=False,
    ),
]

RENDERERS: dict[Form, Callable[[Report], bytes]] = {
    Form.SARIF: lambda report: render_sarif(report, troth.__version__),
    Form.CODE_QUALITY: render_code_quality,
}


def choose_form(terminal: Terminal, form: Form | None) -> Form:
    """The form that --format and --json together ask for; wrong usage if they disagree."""
    if terminal.json and form not in (None, Form.JSON):
        raise typer.BadParameter(f"--json and --format {form} ask for two things; leave one out.")
    if form is Form.JSON:
        terminal.options = terminal.options.override(True, None, None)
    return form or (Form.JSON if terminal.json else Form.TEXT)


def show_report(
    terminal: Terminal,
    report: Report,
    form: Form,
    value: dict[str, Any],
    advise: Callable[[], Iterable[str]] = tuple,
) -> None:
    """Write a report to standard output: `value` is what --json shows of it.

    What `advise` says stands below the problems, for people. They read the problems on standard
    error where a code host gets the report, since a job's log is what they have.
    """

    def paint() -> Iterable[RenderableType]:
        yield from (paint_problem(problem) for problem in report.problems)
        yield from advise()

    if form in RENDERERS:
        terminal.write(RENDERERS[form](_shorten_sources(report)))
        terminal.say(*(clean_text(problem) for problem in report.problems))
        terminal.say(*advise())
        return
    terminal.show(value, paint)


def view_problem(problem: Problem) -> dict[str, Any]:
    """A problem as --json shows it; `rule` is there if it is more than the severity."""
    named = {"rule": problem.rule} if problem.rule else {}
    return {
        "source": problem.source.encode(errors="replace").decode(),
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "severity": problem.severity.value,
        "message": problem.message,
        **named,
    }


def paint_problem(problem: Problem) -> RenderableType:
    """A problem as one line."""
    severity = problem.severity.value
    place, _, rest = str(problem).partition(f" {severity}: ")
    style = "red" if problem.severity is Severity.ERROR else "yellow"
    return make_text((place, "bold"), " ", (severity, style), f": {rest}")


def shorten_source(source: str) -> str:
    """A path as seen from here, if it is below; else in full."""
    seen = os.path.relpath(source)
    return os.path.abspath(source) if seen.split(os.sep, 1)[0] == os.pardir else seen


def _shorten_sources(report: Report) -> Report:
    return replace(
        report,
        problems=tuple(replace(p, source=shorten_source(p.source)) for p in report.problems),
        unread=tuple(replace(u, source=shorten_source(u.source)) for u in report.unread),
    )
