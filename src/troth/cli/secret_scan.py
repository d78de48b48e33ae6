"""Hard-coded credentials in a tree of files, found by detect-secrets.

Its detectors and filters are used, its loop isn't: a tree is a stranger's, and on a long line of
the wrong words a detector takes quadratic time. So lines are cut, files have a size and a time,
one file at a time is in memory, and what was not looked at is told. Verification, by which
detect-secrets asks a service whether a credential works, is a filter that is never put in here:
nothing is sent anywhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from troth.cli.secret_baseline import Baseline
from troth.cli.secret_kinds import BY_TYPE, KINDS, SECRET_RULES, Kind
from troth.cli.secret_text import MAX_LINE, cut_line, parse_lines, read_text, split_lines
from troth.core.clock import Clock
from troth.core.errors import Invalid
from troth.core.manifest.problem import Problem
from troth.core.manifest.report import Unread

if TYPE_CHECKING:
    from detect_secrets.core.potential_secret import PotentialSecret

MAX_SECONDS = 5.0
"""For one file."""
MAX_PROBLEMS = 10_000
MAX_UNREAD = 1_000

LEFT_OUT = frozenset({".git", ".hg", ".svn"})
"""Folders (or files, in a worktree) of version control: they hold what is in the tree, packed."""
INSTALLED = frozenset({"node_modules", ".venv", "venv", "__pycache__", ".tox", ".mypy_cache"})
"""Folders of other people's packages; named themselves, they are searched."""

ORDER = {kind.type: place for place, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found. Problems never hold a credential, nor anything made of it."""

    problems: tuple[Problem, ...]
    unread: tuple[Unread, ...]
    files: int
    passed_over: int


@dataclass(frozen=True, slots=True)
class _Hit:
    """A credential at its place; lives no longer than the search of its file."""

    line: int
    kind: Kind
    value: str
    digest: str


def search_secrets(
    paths: Iterable[Path], baseline: Baseline, clock: Clock, tell: Callable[[int, str], None]
) -> Search:
    """Search files, and folders with all below them; raises `Invalid` for a path that isn't there.

    Before each file `tell` gets the number of those searched so far, and its name.
    """
    from detect_secrets.settings import get_filters, get_plugins, transient_settings

    with transient_settings({"plugins_used": [dict(plugin) for plugin in baseline.plugins]}):
        searcher = _Searcher(baseline, clock, get_plugins(), get_filters())
        for path in _walk(paths, searcher.tell_unread):
            tell(searcher.files, str(path))
            searcher.search(path)
            if len(searcher.problems) >= MAX_PROBLEMS:
                reason = f"stopped after {MAX_PROBLEMS} findings: mend some and search again"
                searcher.tell_unread(str(path), reason)
                break
    return Search(
        tuple(searcher.problems), tuple(searcher.unread), searcher.files, searcher.passed_over
    )


@dataclass(slots=True)
class _Searcher:
    """One search under the settings of the moment."""

    baseline: Baseline
    clock: Clock
    plugins: list[Any]
    filters: list[Any]
    problems: list[Problem] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    files: int = 0
    passed_over: int = 0

    def tell_unread(self, source: str, reason: str) -> None:
        """Note a file that wasn't looked at, or not to its end."""
        if len(self.unread) < MAX_UNREAD:
            self.unread.append(Unread(source, reason))

    def search(self, path: Path) -> None:
        """Search one file, if it is text that fits."""
        name = os.path.normpath(path)
        if self.baseline.source and os.path.realpath(path) == self.baseline.source:
            self.passed_over += 1
            return
        try:
            text, reason = read_text(path)
        except OSError as error:
            self.tell_unread(name, f"can't be read: {error.strerror or error}")
            return
        if reason:
            self.tell_unread(name, reason)
        elif text is None or self._drops({"filename": name}):
            self.passed_over += 1
        else:
            self.files += 1
            self._search_text(name, text)

    def _search_text(self, name: str, text: str) -> None:
        raw = split_lines(text)
        deadline = self.clock.monotonic() + MAX_SECONDS
        parsed = parse_lines(name, text, raw)
        hits = self._search_lines(name, parsed or raw, deadline)
        if not hits and (eager := parse_lines(name, text, raw, eager=True)):
            hits = self._search_lines(name, eager, deadline)
        if self.clock.monotonic() > deadline:
            self.tell_unread(name, f"not searched to its end: took over {MAX_SECONDS:.0f} s")
        for hit in _choose_hits(hits):
            if not self.baseline.holds(name, hit.kind.type, hit.digest):
                self.problems.append(_describe_hit(name, hit, raw))

    def _search_lines(self, name: str, lines: list[str], deadline: float) -> list[_Hit]:
        from detect_secrets.util.code_snippet import get_code_snippet

        found: dict[tuple[int, str, str], _Hit] = {}
        shown = [line[:MAX_LINE] for line in lines]
        for number, line in enumerate(lines, 1):
            if self.clock.monotonic() > deadline:
                break
            facts = {"filename": name, "context": get_code_snippet(shown, number)}
            if not line or self._drops({**facts, "line": line[-MAX_LINE:]}):
                continue
            for piece in cut_line(line):
                if self.clock.monotonic() > deadline:
                    break
                for secret in self._search_piece({**facts, "line": piece}, number):
                    kind, value = BY_TYPE.get(secret.type), secret.secret_value
                    if kind is not None and value:
                        hit = _Hit(number, kind, value, secret.secret_hash)
                        found[number, secret.type, hit.digest] = hit
        return list(found.values())

    def _search_piece(self, facts: dict[str, Any], number: int) -> Iterator[PotentialSecret]:
        for plugin in self.plugins:
            for secret in plugin.analyze_line(**facts, line_number=number):
                if not self._drops({**facts, "plugin": plugin, "secret": secret.secret_value}):
                    yield secret

    def _drops(self, facts: dict[str, Any]) -> bool:
        """Whether a filter that needs the newest of `facts`, and no more than them, says so."""
        newest = list(facts)[-1]
        known = facts.keys()
        return any(
            one(**{name: facts[name] for name in one.injectable_variables})
            for one in self.filters
            if newest in one.injectable_variables and one.injectable_variables <= known
        )


def _walk(paths: Iterable[Path], tell_unread: Callable[[str, str], None]) -> Iterator[Path]:
    """All files, each folder's in order; symbolic links are never followed."""

    def tell(error: OSError) -> None:
        tell_unread(str(error.filename), f"can't be listed: {error.strerror}")

    for path in paths:
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise Invalid(f"{path}: no such file; name an existing file or directory.") from None
        if stat.S_ISLNK(mode):
            raise Invalid(f"{path}: is a symbolic link; name what it leads to.")
        if not stat.S_ISDIR(mode):
            yield path
            continue
        for folder, folders, names in os.walk(path, onerror=tell):
            folders[:] = sorted(set(folders) - LEFT_OUT - INSTALLED)
            yield from (Path(folder, name) for name in sorted(set(names) - LEFT_OUT))


def _choose_hits(hits: list[_Hit]) -> list[_Hit]:
    """One hit a credential: what is named in full beats a guess at the same text."""
    chosen: list[_Hit] = []
    for hit in sorted(hits, key=lambda one: (one.line, ORDER[one.kind.type], one.digest)):
        same = (one.value for one in chosen if one.line == hit.line) if hit.kind.guess else ()
        if not any(hit.value in value or value in hit.value for value in same):
            chosen.append(hit)
    return chosen


def _describe_hit(name: str, hit: _Hit, raw: list[str]) -> Problem:
    """What kind, and where; the column is known unless the line was understood as YAML or INI."""
    line = raw[hit.line - 1] if hit.line <= len(raw) else ""
    column = line.find(hit.value) + 1
    rule = SECRET_RULES[f"secret/{hit.kind.rule}"]
    return Problem(name, hit.line, column, "", rule.summary, rule.severity, rule.id)
