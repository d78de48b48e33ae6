"""`troth check --secrets`: what is hard-coded in a tree, and what troth has in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from troth.cli.report import Form, show_report, view_problem
from troth.cli.secret_baseline import Baseline, read_baseline
from troth.cli.secret_kinds import CLAIM, KIND_NAMES, REPLACEMENTS, SECRET_RULES
from troth.cli.secret_scan import Search, search_secrets
from troth.cli.terminal import WANTING, Terminal
from troth.cli.words import count_noun
from troth.core.manifest.problem import Problem
from troth.core.manifest.report import Report

PATIENCE = 5.0
"""Seconds between two lines of progress."""
SHOWN = 20
"""Files that weren't read are named up to this number for people; programs get all."""


@dataclass(slots=True)
class _Progress:
    """Tells from time to time how far a search is."""

    terminal: Terminal
    last: float

    def tell(self, files: int, name: str) -> None:
        """Say it, unless it was said a moment ago."""
        now = self.terminal.clock.monotonic()
        if now - self.last >= PATIENCE:
            self.last = now
            self.terminal.say(f"{count_noun(files, 'file')} searched, now {name}")


def check_secrets(
    terminal: Terminal, paths: list[str], strict: bool, form: Form, baseline_file: Path | None
) -> None:
    """Search, tell, and end with exit code 1 if something was found.

    With `strict` also if something couldn't be looked at.
    """
    baseline = Baseline() if baseline_file is None else read_baseline(baseline_file)
    for remark in baseline.remarks:
        terminal.say(f"{baseline_file}: {remark}.", style="yellow")
    progress = _Progress(terminal, terminal.clock.monotonic())
    found = search_secrets(map(Path, paths), baseline, terminal.clock, progress.tell)
    failed = bool(found.problems or (strict and found.unread))
    report = Report("secrets", found.problems, SECRET_RULES, found.unread)
    advice = _advise(found.problems)
    value = {
        "ok": not failed,
        "files": found.files,
        "passed_over": found.passed_over,
        "problems": [
            {**view_problem(problem), "replacement": REPLACEMENTS[problem.rule]}
            for problem in found.problems
        ],
        "unread": [
            {"source": one.source.encode(errors="replace").decode(), "reason": one.reason}
            for one in found.unread
        ],
    }
    show_report(terminal, report, form, value, lambda: advice)
    _tell_unread(terminal, found)
    terminal.say(_summarize(found))
    if failed:
        raise typer.Exit(WANTING)


def _advise(problems: tuple[Problem, ...]) -> list[str]:
    """What replaces what was found, each once, with the rules that it is for."""
    found = {problem.rule for problem in problems}
    rules: dict[str, list[str]] = {}
    for rule, replacement in REPLACEMENTS.items():
        if rule in found:
            rules.setdefault(replacement, []).append(KIND_NAMES[rule])
    advice = [f"For {', '.join(names)}: {words}" for words, names in rules.items()]
    return [CLAIM, *advice] if advice else []


def _tell_unread(terminal: Terminal, found: Search) -> None:
    for one in found.unread[:SHOWN]:
        terminal.say(f"{one.source}: {one.reason}", style="yellow")
    if (more := len(found.unread) - SHOWN) > 0:
        terminal.say(f"… and {count_noun(more, 'file')} more; --json names them.", style="yellow")


def _summarize(found: Search) -> str:
    parts = [f"{count_noun(found.files, 'file')} searched"]
    if found.passed_over:
        parts.append(f"{found.passed_over} passed over (binary, or of a kind that holds none)")
    if found.unread:
        parts.append(f"{len(found.unread)} not read")
    if not found.problems:
        return f"{', '.join(parts)}: nothing found."
    return f"{', '.join(parts)}: {count_noun(len(found.problems), 'finding')}."
