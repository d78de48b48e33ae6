"""Policies in Cedar itself: what is known of them before they are asked, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from troth.core.errors import Invalid
from troth.policy.decision import Question, decide
from troth.policy.fact import FactKind
from troth.policy.policy import Policy
from troth.policy.raw import close_raw, read_raw
from troth.policy.rule import EVERYBODY, IDENTITY, Effect, Principal, Subjects
from troth.policy.rulebook import make_rule_book

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


def read(text: str) -> Any:
    return read_raw(
        "policy/p", text, None, lambda group, key: FactKind.TEXT if key == "x" else None
    )


def when(text: str) -> Any:
    return read(f"permit (principal, action, resource) when {{ {text} }};")


@pytest.mark.parametrize(
    ("head", "subjects", "actions", "resources"),
    [
        ("principal, action, resource", EVERYBODY, (), ()),
        ('principal in Role::"a", action, resource', Subjects(roles=("a",)), (), ()),
        ('principal == Identity::"a", action, resource', Subjects(identities=("a",)), (), ()),
        ('principal in Type::"a", action, resource', Subjects(types=("a",)), (), ()),
        ('principal is Identity in Role::"a", action, resource', EVERYBODY, (), ()),
        (
            'principal, action == Action::"ledger/read", resource',
            EVERYBODY,
            ("read",),
            ("ledger",),
        ),
        (
            'principal, action in [Action::"ledger/a", Action::"ledger/b/c"], resource',
            EVERYBODY,
            ("a", "b/c"),
            ("ledger",),
        ),
        ('principal, action, resource == Resource::"ledger"', EVERYBODY, (), ("ledger",)),
        (
            'principal, action, resource == System::"troth.identity"',
            EVERYBODY,
            (),
            ("troth.identity",),
        ),
        ("principal, action, resource is Resource", EVERYBODY, (), ()),
    ],
)
def test_what_it_is_about(head: str, subjects: Any, actions: Any, resources: Any) -> None:
    rule = read(f"forbid ({head});")
    assert (rule.effect, rule.subjects) == (Effect.FORBID, subjects)
    assert (rule.actions, rule.resources) == (actions, resources)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('context.identity.environment == "prod"', ["identity.environment"]),
        ('context.request has ip && context["request"]["ip"].isLoopback()', ["request.ip"]),
        ('context.identity.labels["a"] == "b"', ["identity.labels.a"]),
        ("context has request.ip && context.identity has labels", ["request.ip"]),
        ("context.resource.x == context.subject.x", ["resource.x", "subject.x"]),
        ('{Var: "context"}.Var == {"left": 1, ".": 2}.left', []),
        ('principal in Role::"a" || resource == Resource::"b"', []),
        ('if context.request has path then context.request.path like "/*" else false', None),
    ],
)
def test_what_it_reads(text: str, names: list[str] | None) -> None:
    found = [fact.name for fact in when(text).reads]
    assert found == (["request.path"] if names is None else names)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("permit (principal, action, resource)", "Cedar doesn't understand it"),
        ("", "exactly one"),
        ("permit (principal, action, resource);" * 2, "exactly one"),
        ('@id("x") permit (principal, action, resource);', "no annotations"),
        ("permit (principal == ?principal, action, resource);", "without slots"),
        ('permit (principal, action == Action::"read", resource);', "named with its resource"),
        (
            'permit (principal, action in [Action::"a/x", Action::"b/x"], resource);',
            "several resources",
        ),
        (
            'permit (principal, action == Action::"a/x", resource == Resource::"b");',
            "other resources",
        ),
        ('permit (principal, action, resource == Thing::"b");', "Resource::"),
        ("permit (principal, action, resource is System);", "Resource::"),
    ],
)
def test_what_can_not_be_a_rule(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        read(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("context == {}", "the context as a whole"),
        ("(if true then context else context).request.ip.isLoopback()", "as a whole"),
        ("[context].isEmpty()", "as a whole"),
        ('context.nothing.x == ""', "which nothing declares"),
        ('context.request.y == ""', "which nothing declares"),
        ("principal.name == 1", "stand in the context"),
        ("principal has name", "stand in the context"),
        ('resource.getTag("a") == 1', "stand in the context"),
        ('context.request.windows.contains("always")', "which nothing declares"),
    ],
)
def test_what_can_not_be_read(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        when(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 4000 + "true" + ")" * 4000,
        "[" * 4000 + "]" * 4000 + " == 1",
        "true||(" * 2000 + "true" + ")" * 2000,
        "{a:" * 3000 + "1" + "}" * 3000 + " == 1",
        "if true then " * 1000 + "true" + " else true" * 1000,
        "context" + ".a" * 7000 + " == 1",
        "true" + " && true" * 1800,
        "!" * 8000 + "true",
        "-" * 8000 + "1 == 1",
        '"\ud800" == ""',
    ],
)
def test_what_would_overflow_the_stack_is_refused_before(text: str) -> None:
    """Cedar's parser ends the process there: a crash, not an error."""
    with pytest.raises(Invalid):
        when(text)


def test_brackets_in_texts_and_comments_are_none() -> None:
    assert when(f'context.resource.x == "{"(" * 100}" // {"[" * 100}\n').cedar


def test_what_is_left_of_one_that_means_nothing_any_more() -> None:
    """A permit permits nothing, and a forbid forbids what it was about."""
    assert close_raw("p", "permit (principal, action, resource);", None) is None
    text = 'forbid (principal in Role::"a", action == Action::"ledger/read", resource);'
    rule = close_raw("p", text, None)
    assert rule is not None
    assert (rule.subjects.roles, rule.actions, rule.resources) == (("a",), ("read",), ("ledger",))
    rule = close_raw("p", "no cedar at all", None)
    assert rule is not None
    assert (rule.effect, rule.subjects, rule.resources) == (Effect.FORBID, EVERYBODY, ())


def test_a_set_that_does_not_compile_any_more_denies() -> None:
    def make(effect: str, when: str) -> Policy:
        text = f"{effect} (principal, action, resource) when {{ {when} }};"
        return Policy(effect, {}, "o", "p", Effect.FORBID, EVERYBODY, cedar=text)

    asked = Question(Principal(IDENTITY, "app"), "read", "ledger", {})
    good = make("permit", "true")
    assert decide(make_rule_book(0, (), (), [good]).index, asked, NOW).allowed
    gone = 'context.resource.gone == ""'
    for effect in ("permit", "forbid"):
        book = make_rule_book(0, (), (), [make(effect, gone)])
        assert len(book.mistakes) == 1
        assert "which nothing declares" in book.mistakes[0]
    book = make_rule_book(0, (), (), [replace(good, name="a"), make("forbid", gone)])
    assert decide(book.index, asked, NOW).determining == ("policy/forbid",)


def test_a_forbid_that_can_not_be_evaluated_denies_and_is_named() -> None:
    def make(name: str, text: str) -> Policy:
        return Policy(name, {}, "o", "p", Effect.FORBID, EVERYBODY, cedar=text)

    permit = make("a", "permit (principal, action, resource);")
    broken = '(principal, action, resource) when { context.request.path == "/" };'
    asked = Question(Principal(IDENTITY, "app"), "read", "ledger", {})
    book = make_rule_book(0, (), (), [permit, make("b", f"forbid {broken}")])
    found = decide(book.index, asked, NOW)
    assert (found.allowed, found.determining, found.faults) == (
        False,
        ("policy/b",),
        ("policy/b",),
    )
    book = make_rule_book(0, (), (), [permit, make("b", f"permit {broken}")])
    found = decide(book.index, asked, NOW)
    assert (found.allowed, found.determining, found.faults) == (True, ("policy/a",), ("policy/b",))
