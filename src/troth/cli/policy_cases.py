"""`troth policy test`: cases from YAML, put to the rules of manifests, without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from xml.etree import ElementTree

import typer

from troth.cli.command import command
from troth.cli.manifest import PathsArgument, load_files
from troth.cli.policy_app import app
from troth.cli.report import view_problem
from troth.cli.terminal import WANTING, Terminal, make_text
from troth.cli.words import count_noun
from troth.core.errors import Invalid
from troth.core.ids import IdentityId, TrustDomain
from troth.core.manifest.problem import Limits, Problem, Severity
from troth.identity.identity import Identity, State
from troth.identity.plan import new_identity
from troth.manifests.cases import CaseSubject, ReadCase, holds_cases, read_cases
from troth.manifests.reading import ManifestSet, parse_manifests
from troth.policy.fact import FactKind, Value
from troth.policy.inquiry import Party, Trust, make_identity_party, make_outside_party
from troth.policy.rule import IDENTITY, Principal
from troth.policy.rulebook import RuleBook, make_rule_book
from troth.policy.system import list_system_resources, list_system_roles
from troth.policy.trial import Trial, list_unexercised, run_case
from troth.trust.score import name_tier

if TYPE_CHECKING:
    from rich.console import RenderableType

DOMAIN = TrustDomain("test.example")
LIFETIME = timedelta(days=365)
NOBODY = Trust(0, "low", "low")


class Form(StrEnum):
    """What the results are written as."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"


@dataclass(frozen=True, slots=True)
class Outcome:
    """All trials, and the rules that none of them exercised."""

    trials: tuple[Trial, ...]
    unexercised: tuple[str, ...]
    rules: int

    @property
    def failed(self) -> tuple[Trial, ...]:
        """Those that didn't go as they should."""
        return tuple(one for one in self.trials if one.failures)


@command(
    app,
    "test",
    local=True,
    example="troth policy test policies/\n"
    "troth policy test --coverage --format junit policies/ > policy-tests.xml",
)
def put_cases(
    terminal: Terminal,
    paths: PathsArgument,
    form: Annotated[
        Form, typer.Option("--format", help="Text for people, JSON (as --json), or JUnit's XML.")
    ] = Form.TEXT,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="List the rules that no case exercises.")
    ] = False,
) -> None:
    """Put cases to the rules of manifests, without a server.

    The cases stand in files that end in .test.yaml, beside the manifests or anywhere else. It
    fails if one of them isn't answered as expected, or if there is none.
    """
    if form is Form.JSON:
        terminal.options = terminal.options.override(True, None, None)
    if terminal.json and form is Form.JUNIT:
        raise typer.BadParameter("--json and --format junit ask for two things; leave one out.")
    now = terminal.now()
    outcome = run_cases(*_read(terminal, paths, now), now)
    if form is Form.JUNIT:
        typer.echo(render_junit(outcome))
    else:
        terminal.show(_view(outcome), lambda: _paint(outcome, coverage=coverage))
    told = f"{count_noun(len(outcome.trials), 'case')}, {len(outcome.failed)} failed"
    exercised = outcome.rules - len(outcome.unexercised)
    terminal.say(f"{told}; {exercised} of {count_noun(outcome.rules, 'rule')} exercised.")
    if outcome.failed:
        raise typer.Exit(WANTING)


def _read(
    terminal: Terminal, paths: list[str], now: datetime
) -> tuple[ManifestSet, list[ReadCase]]:
    """The manifests and the cases; ends the command if there are errors."""
    documents, unreadable = load_files(paths, cases=True)
    plain = [one for one in documents if not holds_cases(one)]
    parsed = parse_manifests(plain, Limits(), now)
    kinds: dict[tuple[str, str], FactKind] = {
        ("action", name): kind
        for one in parsed.resources
        for name, kind in one.action_attributes.items()
    }
    segments = {one.name: one for one in parsed.segments}
    cases, mistakes = read_cases(
        [one for one in documents if holds_cases(one)], kinds, segments, Limits(), now
    )
    errors = [*unreadable, *parsed.errors, *mistakes]
    if errors:
        _fail(terminal, errors)
    if not cases:
        raise Invalid(
            f"There is no case in {', '.join(paths)}: write some in a file that ends in "
            ".test.yaml; see `troth policy test --help`."
        )
    return parsed, cases


def _fail(terminal: Terminal, errors: Sequence[Problem]) -> None:
    if terminal.json:
        terminal.show({"ok": False, "problems": [view_problem(one) for one in errors]}, list)
        raise typer.Exit(WANTING)
    for problem in errors:
        terminal.say(str(problem))
    worst = count_noun(sum(one.severity is Severity.ERROR for one in errors), "error")
    raise Invalid(f"{worst}; nothing was tested. Mend them and try again.")


def run_cases(parsed: ManifestSet, cases: Sequence[ReadCase], now: datetime) -> Outcome:
    """Every case, by the rules of these manifests alone; `Invalid` if they mean nothing."""
    book = make_rule_book(
        0,
        (*list_system_roles(), *parsed.roles),
        (*list_system_resources(), *parsed.resources),
        parsed.policies,
        parsed.segments,
    )
    if book.mistakes:
        raise Invalid("; ".join(book.mistakes[:20]))
    identities = {
        spec.name: new_identity(
            spec, IdentityId("idn_test"), DOMAIN, now, LIFETIME, State.ACTIVE, managed=True
        )
        for spec in parsed.specs
    }
    trials = []
    for one in cases:
        case = replace(one.case, facts=_complete(one.case.facts))
        trials.append(run_case(book, _make_party(book, identities, one.subject), case, now))
    unexercised = list_unexercised(book, trials)
    return Outcome(tuple(trials), tuple(unexercised), len(list_unexercised(book, ())))


def _complete(facts: Mapping[str, Mapping[str, Value]]) -> dict[str, Mapping[str, Value]]:
    """The facts with the tier that a score has, where none is given."""
    trust = facts.get("trust", {})
    score = trust.get("score")
    if isinstance(score, int) and "tier" not in trust:
        return {**facts, "trust": {**trust, "tier": name_tier(score).value}}
    return dict(facts)


def _make_party(
    book: RuleBook, identities: Mapping[str, Identity], subject: CaseSubject
) -> Party | None:
    if subject.type != IDENTITY:
        party = make_outside_party(book, subject.type, subject.id, subject.properties)
        roles = book.expand((*party.principal.roles, *subject.roles))
        return replace(party, principal=Principal(subject.type, subject.id, roles))
    found = identities.get(subject.id)
    if found is not None and not subject.described:
        return _forget_trust(make_identity_party(book, found, NOBODY))
    if not subject.described:
        return None
    known: dict[str, Value] = {
        "name": subject.id,
        "spiffe_id": f"spiffe://{DOMAIN}/{subject.id}",
        "state": State.ACTIVE.value,
        **subject.facts,
    }
    return Party(
        Principal(IDENTITY, subject.id, book.expand(subject.roles)),
        {
            "identity": known,
            "subject": {"type": IDENTITY, "id": subject.id},
            "grant": {"roles": ()},
        },
    )


def _forget_trust(party: Party) -> Party:
    """The party of whom a case must say how much is relied on it: nothing is guessed."""
    facts = {group: known for group, known in party.facts.items() if group != "trust"}
    identity = {key: value for key, value in facts["identity"].items() if key != "assurance"}
    return replace(party, facts={**facts, "identity": identity})


# What it shows


def _view(outcome: Outcome) -> dict[str, Any]:
    return {
        "ok": not outcome.failed,
        "cases": [
            {
                "name": one.case.name,
                "place": one.case.place,
                "passed": not one.failures,
                "failures": list(one.failures),
                "answer": "permit" if one.allowed else "deny",
                "by": list(one.determining),
                "reason": one.reason,
                "missing": list(one.missing),
            }
            for one in outcome.trials
        ],
        "rules": outcome.rules,
        "unexercised": list(outcome.unexercised),
    }


def _paint(outcome: Outcome, *, coverage: bool) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for one in outcome.trials:
        if not one.failures:
            continue
        parts.append(
            make_text((one.case.place, "bold"), " ", ("failed", "red"), f" {one.case.name}")
        )
        parts += [make_text(f"    {line}") for line in _explain(one)]
    if coverage:
        parts += [make_text(("not exercised: ", "yellow"), rule) for rule in outcome.unexercised]
    return parts


def _explain(trial: Trial) -> list[str]:
    lines = [*trial.failures, trial.reason]
    if trial.missing:
        lines.append(f"It would be permitted with {' and '.join(trial.missing)}.")
    return lines


def render_junit(outcome: Outcome) -> str:
    """The results as JUnit's XML, which CI systems read."""
    suite = ElementTree.Element(
        "testsuite",
        name="troth policy test",
        tests=str(len(outcome.trials)),
        failures=str(len(outcome.failed)),
        errors="0",
        skipped="0",
    )
    for one in outcome.trials:
        source, _, line = one.case.place.rpartition(":")
        made = ElementTree.SubElement(
            suite,
            "testcase",
            name=_clean(one.case.name),
            classname=_clean(source),
            file=_clean(source),
            line=line,
        )
        if one.failures:
            failure = ElementTree.SubElement(
                made, "failure", message=_clean("; ".join(one.failures)), type="policy"
            )
            failure.text = _clean("\n".join(_explain(one)))
    found = ElementTree.Element("testsuites")
    found.append(suite)
    ElementTree.indent(found)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(found, "unicode")}'


def _clean(text: str) -> str:
    """Text without what XML 1.0 can't hold (section 2.2)."""
    return "".join(one if one in "\t\n" or one.isprintable() else "�" for one in text)
