"""Searches: ``decision.search``, for all whom a question would be permitted.

Candidates are gone through in the order of their names, a bounded number for each page. A page may
hold fewer results than were asked for and still not be the last.

Source: AuthZEN 1.0, "Subject Search API", "Resource Search API", "Action Search API".
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from troth.core.errors import Denied
from troth.identity.identity import Identity
from troth.live.bundle import Bundle
from troth.operations.call import Call
from troth.operations.decision import DecisionMaker
from troth.operations.evaluation import (
    OTHERS,
    Scope,
    find_scope,
    make_subject,
)
from troth.operations.places import Places
from troth.policy.inquiry import Inquiry, Party
from troth.policy.rule import IDENTITY
from troth.policy.rulebook import RuleBook
from troth.store.engine import Store
from troth.wire.api.decisions import SearchDecisions as Request
from troth.wire.authzen.question import Entity, Question
from troth.wire.authzen.search import Found, PageEnd, Results, Search, render_token
from troth.wire.authzen.told import Told, read_told

MOST_CANDIDATES = 2000
"""That are looked at for one page."""
MOST_IDENTITIES = 500
"""Likewise of identities, which are read from the store."""
_STEP = 50
"""Candidates after which others have their turn."""


class Directory:
    """The ids of a type's things that are declared, in order, as long as one rule book holds."""

    def __init__(self) -> None:
        self._book: RuleBook | None = None
        self._instances: dict[str, list[str]] = {}
        self._things: dict[str, list[str]] = {}

    def list_instances(self, book: RuleBook, type_: str) -> list[str]:
        """Those that are known by name: who can be a subject."""
        self._refresh(book)
        if type_ not in self._instances and book.list_of_type(type_):
            self._instances[type_] = sorted(
                {one.id for resource in book.list_of_type(type_) for one in resource.instances}
            )
        return self._instances.get(type_, [])

    def list_things(self, book: RuleBook, type_: str) -> list[str]:
        """Instances, and resources that have none: by the only id that fits them, or their name."""
        self._refresh(book)
        if type_ not in self._things and book.list_of_type(type_):
            single = (
                one.name if "*" in one.pattern else one.pattern
                for one in book.list_of_type(type_)
                if not one.instances
            )
            found = {*self.list_instances(book, type_), *single}
            self._things[type_] = sorted(id_ for id_ in found if book.match(type_, id_) is not None)
        return self._things.get(type_, [])

    def _refresh(self, book: RuleBook) -> None:
        if self._book is not book:
            self._book, self._instances, self._things = book, {}, {}


@dataclass(slots=True)
class _Page:
    """Results so far; `last` is the last candidate that was looked at."""

    results: list[Found] = field(default_factory=list)
    last: str = ""
    looked: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class SearchDecisions:
    """``decision.search``: one page of results. Nothing is recorded: nobody is answered whether
    they may, and who acts on a result asks first."""

    store: Store
    decider: DecisionMaker
    places: Places
    directory: Directory = field(default_factory=Directory)

    async def __call__(self, call: Call[Request | Search]) -> Results:
        """The page. `Denied` for a search about one thing that the caller may not ask about; of a
        search for things, those aren't in the results."""
        search = call.body.as_search() if isinstance(call.body, Request) else call.body
        scope = await find_scope(self.decider, call)
        bundle = await self.decider.read_bundle()
        resource = search.resource
        if search.target != "resource" and not scope.covers(
            bundle.rules, resource.type, resource.id
        ):
            raise Denied(OTHERS)
        if search.target == "subject":
            page = await self._find_subjects(search, bundle)
        elif search.target == "resource":
            page = await self._find_resources(search, bundle, scope)
        else:
            page = await self._find_actions(search, bundle)
        token = render_token(search.digest, page.last) if page.more else ""
        return Results(page.results, PageEnd(token, len(page.results)))

    def _tell(self, search: Search, bundle: Bundle) -> Told:
        question = Question(search.subject, search.action, search.resource, search.context)
        return read_told(question, self.places.find_describer(bundle.rules.index.reads))

    async def _find_subjects(self, search: Search, bundle: Bundle) -> _Page:
        resource = search.resource
        inquiry = Inquiry(
            search.action.name, resource.type, resource.id, self._tell(search, bundle)
        )
        page = _Page()
        if not self._is_possible(bundle.rules, inquiry):
            return page
        type_, properties = search.subject.type, search.subject.properties
        if type_ == IDENTITY:
            async for identity in self._list_identities(search, page):
                party = await self.decider.find_identity_party(bundle, identity)
                if self._permits(bundle, party, inquiry):
                    names = {"spiffe_id": str(identity.spiffe_id)}
                    page.results.append(Found(IDENTITY, identity.name, properties=names))
            return page
        ids = self.directory.list_instances(bundle.rules, type_)
        async for id_ in _go_through(ids, search, page):
            subject = make_subject(Entity(type_, id_, properties))
            party = await self.decider.find_party(bundle, subject)
            if self._permits(bundle, party, inquiry):
                page.results.append(Found(type_, id_))
        return page

    async def _find_resources(self, search: Search, bundle: Bundle, scope: Scope) -> _Page:
        page, type_ = _Page(), search.resource.type
        party = await self.decider.find_party(bundle, make_subject(search.subject))
        ids, told = self.directory.list_things(bundle.rules, type_), self._tell(search, bundle)
        async for id_ in _go_through(ids, search, page):
            inquiry = Inquiry(search.action.name, type_, id_, told)
            if scope.covers(bundle.rules, type_, id_) and self._permits(bundle, party, inquiry):
                page.results.append(Found(type_, id_))
        return page

    async def _find_actions(self, search: Search, bundle: Bundle) -> _Page:
        page, type_, id_ = _Page(), search.resource.type, search.resource.id
        resource = bundle.rules.match(type_, id_)
        if resource is None:
            return page
        party = await self.decider.find_party(bundle, make_subject(search.subject))
        told = self._tell(search, bundle)
        async for name in _go_through(sorted(resource.actions), search, page):
            if self._permits(bundle, party, Inquiry(name, type_, id_, told)):
                page.results.append(Found(name=name))
        return page

    def _permits(self, bundle: Bundle, party: Party, inquiry: Inquiry) -> bool:
        return self.decider.weigh(bundle, party, inquiry).allowed

    @staticmethod
    def _is_possible(book: RuleBook, inquiry: Inquiry) -> bool:
        """Whether there is anything that somebody could be permitted to do."""
        resource = book.match(inquiry.resource_type, inquiry.resource_id)
        return resource is not None and inquiry.action in resource.actions

    async def _list_identities(self, search: Search, page: _Page) -> AsyncIterator[Identity]:
        """Living identities by name, as many as one page takes."""
        listed = await self.store.read(
            lambda tx: tx.identities.page(
                living=True, after=search.after or None, limit=MOST_IDENTITIES + 1
            )
        )
        for identity in listed:
            if _is_full(page, search, MOST_IDENTITIES):
                page.more = True
                return
            page.last, page.looked = identity.name, page.looked + 1
            yield identity


async def _go_through(ids: list[str], search: Search, page: _Page) -> AsyncIterator[str]:
    """Those after the page before, as many as one page takes."""
    for id_ in _after(ids, search.after):
        if _is_full(page, search, MOST_CANDIDATES):
            page.more = True
            return
        page.last, page.looked = id_, page.looked + 1
        if page.looked % _STEP == 0:
            await asyncio.sleep(0)
        yield id_


def _after(ids: list[str], place: str) -> Iterator[str]:
    start = bisect_right(ids, place) if place else 0
    for number in range(start, len(ids)):
        yield ids[number]


def _is_full(page: _Page, search: Search, most: int) -> bool:
    return len(page.results) >= search.limit or page.looked >= most
