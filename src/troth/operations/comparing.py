"""What a plan does to access: whose appears, disappears or changes its condition."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from troth.identity.identity import Identity
from troth.identity.plan import Action
from troth.operations.declaration import Changes, RememberedBooks, list_remaining
from troth.operations.planning import Planner, Plans
from troth.operations.versions import KINDS
from troth.policy.comparison import (
    Comparison,
    Key,
    Side,
    Turn,
    compare_access,
    find_touched,
    list_instance_parties,
)
from troth.policy.inquiry import Party, Trust, make_identity_party
from troth.policy.resource import Resource
from troth.policy.rule import ANYONE, IDENTITY
from troth.policy.rulebook import RuleBook
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import manifests as wire

MOST_IDENTITIES = 10_000
"""Identities that are looked at; where more may be touched, that is said."""
PAGE = 500
CRITICAL = "critical"
_UNKNOWN = Trust(0, "low", "low")
"""What is thought of anybody is no part of a comparison."""


@dataclass(frozen=True, slots=True)
class Comparer:
    """Compares what there is with what a plan makes of it."""

    store: Store
    planner: Planner

    async def compare(self, plans: Plans) -> Comparison:
        """The access that changes. The plan may have been carried out or not."""
        if not changes_access(plans):
            return Comparison()
        books = await asyncio.to_thread(make_books, plans.declared, self.planner.books)
        moved = self.planner.list_moved(plans.identities)
        return await self.compare_books(*books, *moved)

    async def compare_books(
        self,
        before: RuleBook,
        after: RuleBook,
        left: Sequence[Identity] = (),
        come: Sequence[Identity] = (),
    ) -> Comparison:
        """The same from one rule book to another, where identities as they were before (`left`)
        become others (`come`)."""
        marks = await asyncio.to_thread(lambda: find_touched(before, after).marks)
        still, whole = await self.store.read(lambda tx: _read_holders(tx, marks))
        changed = {one.name for one in (*left, *come)}
        still = [one for one in still if one.name not in changed]
        now = self.planner.clock.now()

        def run() -> Comparison:
            sides = (
                Side(before, make_parties(before, (*still, *left))),
                Side(after, make_parties(after, (*still, *come))),
            )
            return compare_access(*sides, now)

        found = await asyncio.to_thread(run)
        return found if whole else Comparison(found.changes, found.more, complete=False)


def changes_access(plans: Plans) -> bool:
    """Whether access may differ afterwards."""
    return _changes_rules(plans.declared) or not plans.identities.is_empty


def _changes_rules(changes: Changes) -> bool:
    return any(one.kind in KINDS and one.action is not Action.KEEP for one in changes)


def make_books(changes: Changes, books: RememberedBooks) -> tuple[RuleBook, RuleBook]:
    """The rule books before and after."""
    before = books.compile([one.stored for one in changes if one.stored is not None])
    if not _changes_rules(changes):
        return before, before
    return before, books.compile(list_remaining(changes))


def _read_holders(tx: Transaction, marks: frozenset[str]) -> tuple[list[Identity], bool]:
    """Living identities that one of these marks may mean; and whether these are all."""
    if not marks:
        return [], True
    names = [mark.partition(":")[2] for mark in marks if mark.startswith("identity:")]
    if ANYONE not in marks and not any(mark.startswith("role:") for mark in marks):
        return tx.identities.list_named(names), True
    found: list[Identity] = []
    after: str | None = None
    while len(found) < MOST_IDENTITIES:
        page = tx.identities.page(living=True, after=after, limit=PAGE)
        found += page
        if len(page) < PAGE:
            return found, True
        after = page[-1].name
    return found, False


def make_parties(book: RuleBook, identities: Iterable[Identity]) -> dict[Key, Party]:
    """Who asks, by type and name: declared instances, and these identities."""
    parties = list_instance_parties(book)
    for one in identities:
        parties[IDENTITY, one.name] = make_identity_party(book, one, _UNKNOWN)
    return parties


def find_critical(planner: Planner, plans: Plans) -> tuple[str, ...]:
    """Why a second person must agree, in sentences: what of it is about resources of sensitivity
    critical, before or afterwards. None: nobody must."""
    if not changes_access(plans):
        return ()
    values = [value for one in plans.declared for value in (one.stored, one.wanted)]
    names = {
        value.name
        for value in values
        if isinstance(value, Resource) and value.sensitivity == CRITICAL
    }
    if not names:
        return ()
    reasons = [
        f"Resource {one.name} is critical."
        for one in plans.declared
        if one.kind == "Resource" and one.name in names and one.action is not Action.KEEP
    ]
    before, after = make_books(plans.declared, planner.books)
    reasons += _list_touching(before, after, names)
    reasons += _list_moving(planner, plans, (before, after), names)
    return tuple(dict.fromkeys(reasons))


def _list_touching(before: RuleBook, after: RuleBook, critical: set[str]) -> list[str]:
    touched = find_touched(before, after)
    reasons = []
    for rule in touched.rules:
        about = sorted(critical.intersection(rule.resources)) if rule.resources else ["any"]
        if about and not rule.id.startswith("troth/"):
            what = "any resource" if about == ["any"] else " and ".join(about)
            kind, name = rule.id.split("/")[:2]
            reasons.append(f"{kind.capitalize()} {name} is about {what}.")
        elif about:
            reasons.append(f"What is forbidden at {' and '.join(about)} by itself changes.")
    for role in sorted(touched.roles):
        held = {*before.expand((role,)), *after.expand((role,))}
        reached = {
            permission.resource
            for book in (before, after)
            for name in held
            if name in book.roles
            for permission in book.roles[name].permissions
        }
        if about := sorted(critical & reached):
            reasons.append(f"Role {role} includes others, about {' and '.join(about)}.")
    return reasons


def _list_moving(
    planner: Planner, plans: Plans, books: tuple[RuleBook, RuleBook], critical: set[str]
) -> list[str]:
    """Who comes to have access to what is critical by what they are, not by what rules say."""
    moved = planner.list_moved(plans.identities)
    before, after = (
        Side(book, make_parties(book, identities))
        for book, identities in zip(books, moved, strict=True)
    )
    found = compare_access(before, after, planner.clock.now(), only=frozenset(critical))
    reasons = [
        f"{one.words[0].upper()}{one.words[1:]}."
        for one in found.changes
        if one.turn is not Turn.LOSES
    ]
    if not found.complete:
        reasons.append("There is too much to look at each access to what is critical.")
    return reasons[:20]


def view_access(found: Comparison) -> list[wire.AccessChange]:
    """What changes, as the API shows it."""
    return [
        wire.AccessChange(
            turn=one.turn.value,
            subject_type=one.subject_type,
            subject=one.subject,
            resource=one.resource,
            actions=list(one.actions),
            before=one.before.level.value,
            after=one.after.level.value,
            condition=one.after.condition,
            condition_before=one.before.condition,
            words=one.words,
        )
        for one in found.changes
    ]
