"""`troth check`, `plan` and `apply`: manifests from files to the server.

`check` needs no server: it reads with the same code. `plan` and `apply` check first, so that a
typing error is reported with its line, and only then ask the server.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from troth.cli.command import command, make_app
from troth.cli.report import FormOption, choose_form, show_report, view_problem
from troth.cli.secret_check import check_secrets
from troth.cli.terminal import WANTING, Terminal, is_interactive, make_text
from troth.cli.words import count_noun
from troth.core.errors import Invalid, TrothError
from troth.core.manifest.problem import Limits, Problem, Severity
from troth.core.manifest.report import MANIFEST_RULES, Report
from troth.manifests.reading import ManifestSet, parse_manifests
from troth.manifests.schema import manifest_schema
from troth.wire.api import manifests
from troth.wire.yaml import MAX_BYTES, Document, load_documents

if TYPE_CHECKING:
    from rich.console import RenderableType

app = make_app("Manifests: the identities that should exist, in files.")

STDIN = "-"
ENDINGS = (".yaml", ".yml")
CASE_ENDINGS = (".test.yaml", ".test.yml")
"""How the names end of files that hold cases for `troth policy test`."""
SIGNS = {"add": "+", "change": "~", "remove": "-", "keep": "="}

PathsArgument = Annotated[
    list[str],
    typer.Argument(
        help="Files, directories (their *.yaml and *.yml), or - for standard input.",
        metavar="PATH…",
        show_default=False,
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Warnings are errors too.")]
SecretsOption = Annotated[
    bool, typer.Option("--secrets", help="Search for hard-coded credentials, in files of any kind.")
]
BaselineOption = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        help="With --secrets: credentials that are known, in the form of detect-secrets.",
        metavar="FILE",
    ),
]
PruneOption = Annotated[
    bool, typer.Option("--prune", help="Retire identities that manifests made and no longer name.")
]


@command(
    app,
    "check",
    local=True,
    example="troth check identities/\ncat payments.yaml | troth check -\n"
    "troth check --format sarif identities/ > troth.sarif\ntroth check --secrets .",
)
def check(
    terminal: Terminal,
    paths: PathsArgument,
    strict: StrictOption = False,
    form: FormOption = None,
    secrets: SecretsOption = False,
    baseline: BaselineOption = None,
) -> None:
    """Check manifests without a server: each problem with its file, line and column.

    Warnings are legal and probably not meant; they fail the check only with --strict.

    With --secrets it searches a tree for hard-coded credentials instead, and says what replaces
    each. It prints none of them and sends nothing anywhere. Whatever is found fails the check.
    """
    chosen = choose_form(terminal, form)
    if secrets:
        check_secrets(terminal, paths, strict, chosen, baseline)
        return
    if baseline is not None:
        raise typer.BadParameter("--baseline goes with --secrets.")
    documents, found = _read_manifests(terminal, paths)
    errors, warnings = len(found.errors), len(found.warnings)
    failed = bool(errors or (strict and warnings))
    value = {
        "ok": not failed,
        "documents": len(documents),
        "problems": [view_problem(problem) for problem in found.problems],
    }
    show_report(terminal, Report("manifests", found.problems, MANIFEST_RULES), chosen, value)
    summary = f"{count_noun(len(documents), 'document')}, {_count_problems(errors, warnings)}"
    terminal.say(summary if not failed else f"{summary}: mend them and check again.")
    if failed:
        raise typer.Exit(WANTING)


@command(app, "schema", example="troth schema > troth.schema.json")
def schema(terminal: Terminal) -> None:
    """Print the JSON Schema of manifests, for editors that complete and check YAML.

    `troth check` says more: a schema can't know what is there already, or what time it is.
    """
    value = manifest_schema(Limits())
    terminal.show(value, lambda: [msgspec.json.format(msgspec.json.encode(value)).decode()])


@command(app, "plan", example="troth plan identities/ --prune")
def plan(terminal: Terminal, paths: PathsArgument, prune: PruneOption = False) -> None:
    """Show in words what `apply` would change, and change nothing."""
    found = terminal.call("manifest.plan", submit_manifests(terminal, paths, prune))
    terminal.show(found, lambda: paint_plan(found))
    terminal.say(summarize_plan(found))


@command(app, "apply", example="troth apply identities/\ntroth apply identities/ --prune --yes")
def apply(
    terminal: Terminal,
    paths: PathsArgument,
    prune: PruneOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before changing.")] = False,
) -> None:
    """Check, plan, and make it so: all of it or nothing.

    At a terminal it shows the plan and asks before it changes anything; in a script it doesn't.
    """
    request = submit_manifests(terminal, paths, prune)
    with terminal.connect() as client:
        if not (yes or terminal.json) and is_interactive():
            planned = client.call("manifest.plan", request)
            changes = [change for change in planned.changes if change.action != "keep"]
            if changes:
                terminal.show(planned, lambda: paint_plan(planned))
                if not typer.confirm(f"{summarize_plan(planned)} Apply?", err=True):
                    terminal.say("Nothing was changed.")
                    raise typer.Exit(WANTING)
        applied = client.call("manifest.apply", request)
    tell_applied(terminal, applied)


def tell_applied(terminal: Terminal, applied: manifests.ManifestPlan) -> None:
    """Show what was applied. What is held isn't done, and a script must know."""
    terminal.show(applied, lambda: paint_plan(applied))
    terminal.say(summarize_plan(applied))
    if applied.held is not None:
        raise typer.Exit(WANTING)


def find_files(paths: list[str], *, cases: bool = False) -> list[Path]:
    """The manifest files that `paths` name, each once, in order; raises `Invalid`. In directories
    the files of cases for `troth policy test` are passed over, unless `cases` are wanted too."""
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if str(path) == STDIN:
            files[path] = None
        elif path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix in ENDINGS and p.is_file())
            inside = [p for p in inside if cases or not p.name.endswith(CASE_ENDINGS)]
            if not inside:
                raise Invalid(f"{path}: no *.yaml or *.yml files in there; name another directory.")
            files.update(dict.fromkeys(inside))
        elif path.is_file():
            files[path] = None
        else:
            raise Invalid(f"{path}: no such file; name an existing file or directory.")
    return list(files)


def load_files(paths: list[str], *, cases: bool = False) -> tuple[list[Document], list[Problem]]:
    """All documents, and a problem for each file that isn't YAML."""
    documents: list[Document] = []
    unreadable: list[Problem] = []
    for path in find_files(paths, cases=cases):
        source = "stdin" if str(path) == STDIN else str(path)
        try:
            documents += load_documents(_read_bytes(path), source)
        except TrothError as error:
            unreadable.append(_locate_failure(source, error.detail))
    return documents, unreadable


def _read_manifests(terminal: Terminal, paths: list[str]) -> tuple[list[Document], ManifestSet]:
    """All documents, and what they say; files that aren't YAML are problems like any other."""
    documents, unreadable = load_files(paths)
    parsed = parse_manifests(documents, Limits(), terminal.now(), alone=True)
    found = ManifestSet(parsed.specs, (*unreadable, *parsed.problems), parsed.templates)
    if not documents and not unreadable:
        raise Invalid(f"There is no manifest in {', '.join(paths)}; see `troth check --help`.")
    return documents, found


def _read_bytes(path: Path) -> bytes:
    """At most one byte more than what the reader of YAML takes."""
    if str(path) == STDIN:
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _locate_failure(source: str, detail: str) -> Problem:
    """A problem from ``source:line:column: message``, as the reader of YAML words it."""
    rest = detail.removeprefix(f"{source}:")
    numbers: list[int] = []
    while len(numbers) < 2 and rest.partition(":")[0].strip().isdecimal():
        number, _, rest = rest.partition(":")
        numbers.append(int(number))
    line, column = (*numbers, 0, 0)[:2]
    return Problem(source, line, column, "", rest.strip(), Severity.ERROR)


def submit_manifests(
    terminal: Terminal, paths: list[str], prune: bool
) -> manifests.SubmitManifests:
    """The request of `plan` and `apply`; ends the command if the check finds errors."""
    documents, found = _read_manifests(terminal, paths)
    if found.errors:
        for problem in found.problems:
            terminal.say(str(problem))
        raise Invalid(
            f"{_count_problems(len(found.errors), len(found.warnings))}; nothing was sent. "
            "Mend them and try again."
        )
    return manifests.SubmitManifests(
        documents=[
            manifests.ManifestDocument(value=d.value, source=d.source, line=d.line)
            for d in documents
        ],
        prune=prune,
    )


def paint_plan(plan: manifests.ManifestPlan) -> list[RenderableType]:
    """A plan in words: each step, whose access changes, and warnings."""
    parts: list[RenderableType] = []
    styles = {"add": "green", "change": "yellow", "remove": "red"}
    for change in plan.changes:
        if change.action == "keep":
            continue
        sign = SIGNS.get(change.action, "?")
        style = styles.get(change.action, "")
        parts.append(make_text((f"{sign} {change.kind} {change.name}", f"bold {style}".strip())))
        parts += [make_text(f"    {words}") for words in change.words]
    parts += paint_access(plan.access, plan.access_more, complete=plan.access_complete)
    if plan.held is None and not plan.applied:
        parts += [make_text(("needs a second person: ", "yellow"), why) for why in plan.reasons]
    parts += [make_text((f"warning: {warning}", "yellow")) for warning in plan.warnings]
    return parts


def paint_access(
    changes: list[manifests.AccessChange], more: int, *, complete: bool
) -> list[RenderableType]:
    """Whose access changes, a line each."""
    styles = {"gains": "green", "loses": "red", "changes": "yellow"}
    parts: list[RenderableType] = [
        make_text(("access: ", "bold"), (one.words, styles.get(one.turn, ""))) for one in changes
    ]
    if more:
        parts.append(make_text(("access: ", "bold"), f"{more} more changes"))
    if not complete:
        parts.append(
            make_text(("access: ", "bold"), "there is too much to look at; others may change too")
        )
    return parts


def summarize_plan(plan: manifests.ManifestPlan) -> str:
    """What a plan comes to, in a sentence."""
    if plan.held is not None:
        return (
            f"Nothing was changed yet: held as change {plan.held}, which somebody else must "
            f"approve: `troth policy approve {plan.held}`. {' '.join(plan.reasons)}"
        )
    counts = dict.fromkeys(SIGNS, 0)
    for change in plan.changes:
        counts[change.action] = counts.get(change.action, 0) + 1
    if not (counts["add"] or counts["change"] or counts["remove"]):
        return f"Nothing to change: {counts['keep']} as they should be."
    verbs = (
        ("added", "changed", "retired") if plan.applied else ("to add", "to change", "to retire")
    )
    numbers = (counts["add"], counts["change"], counts["remove"])
    done = ", ".join(f"{number} {verb}" for number, verb in zip(numbers, verbs, strict=True))
    return f"{done}, {counts['keep']} as they should be."


def _count_problems(errors: int, warnings: int) -> str:
    return f"{count_noun(errors, 'error')}, {count_noun(warnings, 'warning')}"
