"""Declarations (roles, resources, issuers): planned and applied with the other manifests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from troth.core.errors import Refused
from troth.core.ids import TrustDomain
from troth.identity.issuer import Issuer
from troth.identity.plan import Action
from troth.live.bundle import Bundle, make_bundle
from troth.live.snapshot import Snapshot
from troth.manifests.declared import DeclaredChange, plan_declared
from troth.manifests.reading import ManifestSet
from troth.manifests.references import find_unexplained, list_identity_names
from troth.operations.authorship import Surroundings, may_mention, may_remove, reads_all
from troth.operations.call import Call
from troth.operations.recording import record_event
from troth.policy.findings import list_findings
from troth.policy.policy import Policy, Segment
from troth.policy.resource import Resource
from troth.policy.role import Role, find_cycle
from troth.policy.rulebook import RuleBook, make_rule_book
from troth.policy.schema import find_raw_misfits
from troth.policy.system import list_system_resources, list_system_roles
from troth.store.declarations import TYPES, Declared, name_kind
from troth.store.engine import Store
from troth.store.transaction import Transaction

MOST = 100_000
"""Declarations of one kind: all of them are held in memory."""

Changes = list[DeclaredChange[Declared]]


class RememberedBooks:
    """The rule books that were compiled last, since one change is looked at from several sides.

    They are shared between threads: rules are listed in them, and nothing is decided by them.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[list[Declared], RuleBook], ...] = ()

    def compile(self, declared: Iterable[Declared]) -> RuleBook:
        """The rule book of what is declared, in whatever order."""
        wanted = sorted(declared, key=lambda one: (name_kind(one), one.name))
        kept = self._kept
        for known, book in kept:
            if known == wanted:
                return book
        made = make_remaining_book(0, wanted)
        self._kept = ((wanted, made), *kept)[:_BOOKS]
        return made


_BOOKS = 2
"""What there is, and what is to be."""


def plan_declarations(
    tx: Transaction,
    parsed: ManifestSet,
    call: Call[Any],
    trust_domain: TrustDomain,
    books: RememberedBooks,
    *,
    prune: bool,
) -> Changes:
    """The steps for all that is declared; `Refused` if they can't be taken together. A prune
    reaches what its caller may declare."""
    wanted: tuple[Declared, ...] = parsed.declared
    current = [stored.value for stored in tx.declarations.list()]
    changes: Changes = []
    for kind in TYPES:
        changes += _plan_kind(kind, wanted, current, prune=prune)
    if prune:
        around = Surroundings(tx, trust_domain, [*current, *wanted])
        changes = [_keep_others(call, around, change) for change in changes]
    _check_whole(changes, books)
    return changes


def _keep_others(
    call: Call[Any], around: Surroundings, change: DeclaredChange[Declared]
) -> DeclaredChange[Declared]:
    """A removal that isn't the caller's to ask for is none."""
    if change.action is not Action.REMOVE or may_remove(call, around, change):
        return change
    return replace(change, action=Action.KEEP, words=("left alone: it isn't this caller's",))


def list_hidden(call: Call[Any], changes: Changes) -> frozenset[tuple[str, str]]:
    """Kind and name of what stays as it is, and is others': a caller isn't told of it."""
    if reads_all(call):
        return frozenset()
    return frozenset(
        (change.kind, change.name)
        for change in changes
        if change.action is Action.KEEP
        and change.stored is not None
        and not may_mention(call, change.stored)
    )


def _plan_kind(
    kind: str, wanted: Sequence[Declared], current: Sequence[Declared], *, prune: bool
) -> Changes:
    mine = [one for one in wanted if name_kind(one) == kind]
    there = [one for one in current if name_kind(one) == kind]
    return plan_declared(kind, mine, there, prune=prune)


def plan_return(tx: Transaction, wanted: Sequence[Declared], books: RememberedBooks) -> Changes:
    """The steps to have what a version declared, and nothing else of its kinds."""
    current = [stored.value for stored in tx.declarations.list()]
    issuers = [one for one in current if isinstance(one, Issuer)]
    changes: Changes = []
    for kind in TYPES:
        changes += _plan_kind(kind, (*wanted, *issuers), current, prune=True)
    _check_whole(changes, books)
    return changes


def list_remaining(changes: Changes) -> list[Declared]:
    """What there will be once the steps are taken."""
    return [
        value
        for change in changes
        if change.action is not Action.REMOVE
        and (value := change.wanted or change.stored) is not None
    ]


def warn_of_names(tx: Transaction, parsed: ManifestSet, changes: Changes) -> list[str]:
    """A sentence for each name in what is submitted that nothing here explains."""
    remaining = [*list_system_roles(), *list_system_resources(), *list_remaining(changes)]
    beside = {one.name for one in parsed.resources}  # of those reading has told already
    mentioned = list_identity_names(parsed.specs, parsed.resources, parsed.issuers, parsed.policies)
    mentioned -= (named := {spec.name for spec in parsed.specs})
    named |= {one.name for one in tx.identities.list_named(mentioned)} if mentioned else set()
    return find_unexplained(
        parsed.specs,
        parsed.declared,
        {one.name: one for one in remaining if isinstance(one, Role)},
        {one.name: one for one in remaining if isinstance(one, Resource)},
        named,
        beside,
    )


def warn_of_findings(changes: Changes, books: RememberedBooks, now: datetime) -> list[str]:
    """A sentence for each finding in what is added or changed, seen beside all that remains. None
    where there is more than anybody waits for: `troth check` tells them then."""
    remaining = list_remaining(changes)
    touched = {
        (change.kind, change.name)
        for change in changes
        if change.action in (Action.ADD, Action.CHANGE)
    }
    if not touched or len(remaining) > MOST_LOOKED_AT:
        return []
    found = [
        str(one)
        for one in list_findings(books.compile(remaining), now)
        if (one.kind, one.name) in touched
    ]
    if len(found) > MOST_FINDINGS:
        found = [*found[:MOST_FINDINGS], f"{len(found) - MOST_FINDINGS} more findings."]
    return found


MOST_LOOKED_AT = 10_000
MOST_FINDINGS = 50


def _check_whole(changes: Changes, books: RememberedBooks) -> None:
    """What manifests want and what is there besides must fit together."""
    remaining = list_remaining(changes)
    refusals = []
    roles = {one.name: one for one in remaining if isinstance(one, Role)}
    if ring := find_cycle(roles):
        refusals.append(f"Roles include each other: {' → '.join(ring)}.")
    owners: dict[str, str] = {}
    urls: dict[str, str] = {}
    for one in remaining:
        if isinstance(one, Resource):
            for uri in one.identifiers:
                if (owner := owners.setdefault(uri, one.name)) != one.name:
                    refusals.append(f"{uri} of resource '{one.name}' belongs to '{owner}'.")
        elif isinstance(one, Issuer) and urls.setdefault(one.url, one.name) != one.name:
            refusals.append(f"{one.url} of issuer '{one.name}' belongs to '{urls[one.url]}'.")
    for kind in TYPES:
        if sum(name_kind(one) == kind for one in remaining) > MOST:
            refusals.append(f"There would be more than {MOST:,} manifests of kind {kind}.")
    if not refusals:
        refusals += _list_mistakes(changes, remaining, books)
    if refusals:
        raise Refused("Nothing was changed. " + "; ".join(refusals[:20]))


def _list_mistakes(
    changes: Changes, remaining: Sequence[Declared], books: RememberedBooks
) -> list[str]:
    """What of the rules would mean nothing, once these steps are taken."""
    if all(change.action is Action.KEEP for change in changes):
        return []
    book = books.compile(remaining)
    return list(book.mistakes) or list(_list_misfits(changes, book))


def _list_misfits(changes: Changes, book: RuleBook) -> Iterator[str]:
    """What of policies in Cedar isn't as it is declared: of those that change, and of those about
    resources that do."""
    touched = {(one.kind, one.name) for one in changes if one.action is not Action.KEEP}
    for rule in book.index.rules:
        if rule.cedar and (
            ("Policy", rule.id.removeprefix("policy/")) in touched
            or any(("Resource", name) in touched for name in rule.resources)
        ):
            for one in find_raw_misfits(rule, book.resources):
                yield f"{rule.id}: {one.message}."


def make_remaining_book(epoch: int, declared: Iterable[Declared]) -> RuleBook:
    """The rule book of what is declared."""
    return make_rule_book(epoch, *_sort_out(declared))


def _sort_out(
    declared: Iterable[Declared],
) -> tuple[list[Role], list[Resource], list[Policy], list[Segment]]:
    """What is declared about access, by kind, with what comes with troth."""
    found = list(declared)
    return (
        [*list_system_roles(), *(one for one in found if isinstance(one, Role))],
        [*list_system_resources(), *(one for one in found if isinstance(one, Resource))],
        [one for one in found if isinstance(one, Policy)],
        [one for one in found if isinstance(one, Segment)],
    )


def apply_declarations(tx: Transaction, call: Call[Any], changes: Changes, now: datetime) -> None:
    """Take the steps of a plan inside a transaction."""
    for change in changes:
        if change.action is Action.KEEP:
            continue
        before = tx.declarations.find(change.kind, change.name)
        if change.action is Action.ADD and change.wanted is not None:
            tx.declarations.add(change.wanted, now)
            _note(tx, call, change, "added", now)
        elif change.action is Action.CHANGE and change.wanted is not None and before is not None:
            tx.declarations.save(before, change.wanted, now)
            _note(tx, call, change, "changed", now)
        elif change.action is Action.REMOVE:
            tx.declarations.remove(change.kind, change.name)
            _note(tx, call, change, "removed", now)


def _note(
    tx: Transaction, call: Call[Any], change: DeclaredChange[Declared], verb: str, now: datetime
) -> None:
    kind, name, words = change.kind, change.name, list(change.words)
    record_event(tx, call, f"declaration.{verb}", name, now, kind=kind, name=name, words=words)


async def read_bundle(store: Store, snapshot: Snapshot) -> Bundle:
    """What is declared now, live where it is known."""
    found = _find_bundle(snapshot)
    if found is not None:
        return found
    async with snapshot.reading:  # whoever waited here may find what another one read
        return _find_bundle(snapshot) or await _read_anew(store, snapshot)


def _find_bundle(snapshot: Snapshot) -> Bundle | None:
    return snapshot.bundle


async def _read_anew(store: Store, snapshot: Snapshot) -> Bundle:
    epoch = snapshot.epoch
    declared, authorities = await store.read(
        lambda tx: (tx.declarations.list(), tx.authorities.list())
    )
    found = [one.value for one in declared]
    bundle = make_bundle(
        epoch,
        (one for one in found if isinstance(one, Role)),
        (one for one in found if isinstance(one, Resource)),
        (authority for authority in authorities if authority.published),
        (one for one in found if isinstance(one, Issuer)),
        (one for one in found if isinstance(one, Policy)),
        (one for one in found if isinstance(one, Segment)),
    )
    snapshot.keep_bundle(bundle)
    return bundle
