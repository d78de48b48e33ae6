"""The Cedar schema: what compiles from YAML is as it says, and Cedar of others is held to it."""

from __future__ import annotations

from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings

from tests.fakes.rulesets import CONDITIONS, RESOURCES, SEGMENTS, TERMS, books
from troth.policy.fact import FactKind
from troth.policy.policy import Policy
from troth.policy.resource import Instance, Resource
from troth.policy.rule import EVERYBODY, Effect, Rule
from troth.policy.rulebook import RuleBook, make_rule_book
from troth.policy.schema import find_misfits, render_book_schema, render_schema, shape_resource
from troth.policy.system import list_system_resources, list_system_roles


@given(books())
@settings(max_examples=100)
def test_all_that_compiles_from_yaml_is_strictly_typed(book: RuleBook) -> None:
    schema = render_book_schema(book)
    for rule in book.index.rules:
        assert find_misfits(rule, schema) == []


@given(CONDITIONS)
@settings(max_examples=150)
def test_so_is_every_condition_either_way(value: Any) -> None:
    when = tuple(value) if isinstance(value, list) else (value,)
    ledger = Resource(
        *("ledger", {}, "o", "p", (), (), {"read": "Read"}, (), TERMS),
        attributes={"status": FactKind.TEXT, "level": FactKind.NUMBER, "tags": FactKind.TEXTS},
        action_attributes={"soft": FactKind.BOOLEAN},
    )
    policies = [
        Policy(effect.value, {}, "o", "p", effect, EVERYBODY, ("read",), ("ledger",), when)
        for effect in Effect
    ]
    book = make_rule_book(0, (), [ledger], policies, SEGMENTS)
    assert book.mistakes == ()
    schema = render_book_schema(book)
    for rule in book.index.rules:
        assert find_misfits(rule, schema) == []


def test_troths_own_rules_are_too() -> None:
    book = make_rule_book(0, list_system_roles(), list_system_resources())
    schema = cedarpy.Schema.from_str(render_book_schema(book))
    assert len(book.index.rules) > 20
    for rule in book.index.rules:
        assert find_misfits(rule, schema) == []


LEDGER = Resource(
    *("ledger-1.x", {}, "o", "p", (), (), {"read": "Read", "a:b/c": "Other"}, (), TERMS),
    attributes={"status": FactKind.TEXT, "in": FactKind.NUMBER, "__cedar": FactKind.BOOLEAN},
    instances=(Instance("one", {"status": "open"}),),
)
SCHEMA = render_schema([shape_resource(LEDGER)], {"level": FactKind.NUMBER})


@pytest.mark.parametrize(
    "text",
    [
        'permit (principal, action == Action::"ledger-1.x/a:b/c", resource);',
        'permit (principal in Role::"r", action, resource == Resource::"ledger-1.x");',
        'forbid (principal, action, resource) when { context.resource has "in" };',
        """forbid (principal, action, resource)
        when { context.subject has level && context.subject.level > 3 };""",
        'forbid (principal, action, resource) when { context.request.windows.contains("a") };',
    ],
)
def test_what_fits(text: str) -> None:
    assert find_misfits(Rule("p", Effect.FORBID, EVERYBODY, cedar=text), SCHEMA) == []


@pytest.mark.parametrize(
    ("text", "words", "place"),
    [
        (
            'permit (principal, action == Action::"ledger-1.x/wirte", resource);',
            "unrecognized action",
            'Action::"ledger-1.x/wirte"',
        ),
        ('permit (principal in User::"r", action, resource);', "entity type", "User"),
        (
            'forbid (principal, action, resource) when { context.request.country == "CH" };',
            "optional attribute",
            "request.country",
        ),
        (
            """forbid (principal, action, resource)
            when { context.trust has score && context.trust.score > "60" };""",
            "expected",
            "",
        ),
        ('permit (principal, action, resource) when { resource in Role::"x" };', "", ""),
    ],
)
def test_what_does_not(text: str, words: str, place: str) -> None:
    found = find_misfits(Rule("p", Effect.FORBID, EVERYBODY, cedar=text), SCHEMA)
    if not words:
        return  # legal, and never true
    assert words in found[0].message
    assert found[0].place == place
    assert "policy0" not in found[0].message


def test_names_are_quoted() -> None:
    assert RESOURCES
    assert '"ledger-1.x/a:b/c"' in SCHEMA
    assert '"__cedar"?: Bool' in SCHEMA
