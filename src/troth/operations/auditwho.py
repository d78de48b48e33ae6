"""``audit.who``: who could do what with a resource at a moment.

The rules are exact: the version of the policy set that was in force. Identities are put back from
what they are now by the events since then: their state and their end are known, and so are their
roles and labels unless a manifest or a template changed them meanwhile, which is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from troth.audit.found import read_text
from troth.audit.query import Found, Kind, Query, Spot
from troth.core.clock import Clock
from troth.core.errors import Invalid, NotFound
from troth.core.ids import IdentityId
from troth.identity.identity import Identity, State, tell_refusal
from troth.operations.auditsearch import DAY, Searcher
from troth.operations.call import Call
from troth.operations.moments import check_zones
from troth.operations.replay import make_present_book
from troth.operations.versions import read_declared
from troth.policy.comparison import Access, Level, list_instance_parties, measure_access
from troth.policy.inquiry import Party, Trust, make_identity_party
from troth.policy.rule import IDENTITY, SYSTEM
from troth.policy.rulebook import RuleBook
from troth.policy.version import Version
from troth.store.declarations import Declared
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import auditsearch as wire

MOST_IDENTITIES = 10_000
MOST_EVENTS = 20_000
"""Events of identities since then that are looked at."""
MOST_LOOKUPS = 50
"""Identities whose earlier events are looked for one by one."""
MOST_MEASURED = 100_000
"""Questions, of about 20 µs each."""
MOST_NAMED = 20
PAGE = 500
EVENT_PAGE = 1000
VERSIONS = 100
_TICK = timedelta(microseconds=1)
_LONG = timedelta(days=400)
_UNKNOWN = Trust(0, "low", "low")
"""What was thought of anybody is a condition here."""

BASIS = (
    "Rules and resources are those of the version that was in force.",
    "What depends on a request, on trust or on a grant stands as a condition.",
    "Tokens and certificates that were given out before may have worked until they expired.",
)

_BEFORE: Mapping[str, State] = {
    "identity.activated": State.PROPOSED,
    "identity.suspended": State.ACTIVE,
    "identity.resumed": State.SUSPENDED,
    "identity.released": State.QUARANTINED,
}
"""The state before an event, where there is but one that it can be."""
_STILL = ("identity.changed", "identity.extended", "identity.unattended", "identity.expired")
"""Events that leave the state as it is."""


@dataclass(frozen=True, slots=True)
class Then:
    """An identity as it was, as far as that is known: if not `exact`, `note` says why."""

    identity: Identity
    exact: bool = True
    note: str = ""


@dataclass(slots=True)
class _History:
    """What identities went through after a moment, by id; each list the newest first."""

    events: dict[str, list[Found]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    complete: bool = True


@dataclass(frozen=True, slots=True)
class AskWho:
    """``audit.who``: each subject with what it could do, always or on a condition."""

    store: Store
    searcher: Searcher
    clock: Clock

    async def __call__(self, call: Call[wire.AskWho]) -> wire.WhoCould:
        """The answer, with what it rests on. `NotFound` if no such resource was declared then,
        `Invalid` for a moment in the future."""
        body, now = call.body, self.clock.now()
        at = _check_moment(body.at, now)
        version, declared = await self.store.read(lambda tx: _read_version(tx, at))
        book = await asyncio.to_thread(make_present_book, declared, at)
        resource = book.resources.get(body.resource)
        if resource is None:
            raise _miss(book, body.resource, version, at)
        if body.action and body.action not in resource.actions:
            known = ", ".join(resource.actions)
            raise NotFound(f"{resource.name} had no action {body.action!r}. It had: {known}.")
        actions = (body.action,) if body.action else tuple(resource.actions)
        identities, history = await self._read_identities(at, now)
        thens = await self._put_back(identities, history, at)
        items, whole = await asyncio.to_thread(
            _measure_all, book, thens, resource.name, actions, at
        )
        if missed := describe_missed(thens, items):
            history.notes[missed] = None
        if resource.name.startswith(SYSTEM):
            history.notes["People whose uid configuration names aren't listed."] = None
        return wire.WhoCould(
            resource=resource.name,
            at=at,
            version=0 if version is None else version.number,
            digest="" if version is None else version.digest,
            actions=list(actions),
            items=items,
            complete=whole and history.complete,
            notes=[*BASIS, *history.notes],
        )

    async def _read_identities(
        self, at: datetime, now: datetime
    ) -> tuple[dict[str, Identity], _History]:
        """Those that may have lived then, as they are now, and what they went through since."""
        history = _History()
        found: dict[str, Identity] = {}
        after: str | None = None
        while len(found) < MOST_IDENTITIES:
            page = await self.store.read(
                lambda tx, after=after: tx.identities.page(living=True, after=after, limit=PAGE)  # type: ignore[misc]
            )
            found |= {one.id: one for one in page}
            if len(page) < PAGE:
                break
            after = page[-1].name
        else:
            history.complete = False
            history.notes[f"Only the first {MOST_IDENTITIES} identities were looked at."] = None
        if at < now:
            await self._read_history(at, now, history)
        gone = [IdentityId(id_) for id_ in history.events if id_ not in found]
        retired = await self.store.read(lambda tx: tx.identities.find_all(gone))
        everybody = [*found.values(), *retired.values()]
        return {one.id: one for one in everybody if one.created_at <= at}, history

    async def _read_history(self, at: datetime, now: datetime, history: _History) -> None:
        query = Query(at + _TICK, now + DAY, action="identity.", kind=Kind.EVENT)
        after: Spot | None = None
        count = 0
        while count < MOST_EVENTS:
            answer = await self.searcher.search(query, EVENT_PAGE, after)
            history.notes.update(dict.fromkeys(answer.damage))
            for one in answer.found:
                count += 1
                history.events.setdefault(read_text(one.detail, "id"), []).append(one)
            if (after := answer.following) is None:
                break
        else:
            history.complete = False
            history.notes[
                f"Only the last {MOST_EVENTS} events of identities were looked at: ask for a "
                "later moment, or take states for uncertain."
            ] = None
        if history.events.pop("", None):
            history.notes[
                "Some events of identities are redacted: whose they were isn't known."
            ] = None

    async def _put_back(
        self, identities: Mapping[str, Identity], history: _History, at: datetime
    ) -> list[Then]:
        """Each as it was."""
        found = []
        lookups = 0
        for id_, identity in identities.items():
            events = history.events.get(id_, [])
            state = find_state(identity, events)
            note = "" if state is not None else "its state then isn't known: taken for active"
            end = find_end(identity, events)
            late = "" if end is not None else "its end then isn't known: taken for later"
            if state is None and lookups < MOST_LOOKUPS:
                lookups += 1
                if (state := await self._look_up(identity, at)) is not None:
                    note = ""
            changed = describe_changes(events)
            note = "; ".join(filter(None, (note, late, changed)))
            end = end or max(identity.expires_at, at + _TICK)
            then = replace(identity, state=state or State.ACTIVE, expires_at=end)
            found.append(Then(then, not note, note))
        return found

    async def _look_up(self, identity: Identity, at: datetime) -> State | None:
        """The state after the last event before a moment."""
        query = Query(
            max(at - _LONG, identity.created_at - DAY),
            at + _TICK,
            identity=str(identity.spiffe_id),
            action="identity.",
            kind=Kind.EVENT,
        )
        answer = await self.searcher.search(query, 20)
        for one in answer.found:
            if read_text(one.detail, "id") == identity.id:
                return _read_state(one)
        return None


def find_state(identity: Identity, events: Iterable[Found]) -> State | None:
    """The state before `events` (the newest first), which ended in what the identity is now; None
    if they leave that open."""
    state: State | None = identity.state
    held = identity.state_before
    for one in events:
        if one.action in _STILL:
            state = state if state is not None else _read_state(one)
        elif one.action == "identity.quarantined":
            state, held = held, None
        elif one.action == "identity.released":
            held, state = _read_state(one), State.QUARANTINED
        else:
            state, held = _BEFORE.get(one.action), None
    return state


def find_end(identity: Identity, events: Iterable[Found]) -> datetime | None:
    """When the identity would have expired before `events` (the newest first); None if an earlier
    version of troth wrote them, which didn't tell."""
    end: datetime | None = identity.expires_at
    for one in events:
        if text := read_text(one.detail, "expires_before"):
            end = _read_moment(text)
        elif one.action == "identity.extended":
            end = None
    return end


def _read_moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def describe_changes(events: Iterable[Found]) -> str:
    """Why roles and labels may have been others than they are now; "" if they weren't."""
    changes = [
        one
        for one in events
        if one.action == "identity.changed"
        or (one.action == "identity.extended" and one.detail.get("words"))
    ]
    if not changes:
        return ""
    words = changes[-1].detail.get("words")
    said = [one for one in words if isinstance(one, str)] if isinstance(words, list) else []
    told = f" ({'; '.join(said[:3])})" if said else ""
    return (
        f"roles and labels are those of now: it was changed at {changes[-1].at.isoformat()}{told}"
    )


def describe_missed(thens: Iterable[Then], items: Iterable[wire.CouldDo]) -> str:
    """Who isn't listed, and could have been: known as they are now alone; "" if there are none."""
    listed = {one.spiffe_id for one in items}
    missed = [
        one.identity.name
        for one in thens
        if not one.exact and str(one.identity.spiffe_id) not in listed
    ]
    if not missed:
        return ""
    shown = ", ".join(sorted(missed)[:MOST_NAMED]) + (", …" if len(missed) > MOST_NAMED else "")
    return (
        f"Not listed, but changed since then, so it may have been able to ({len(missed)}): {shown}."
    )


def _read_state(found: Found) -> State | None:
    try:
        return State(read_text(found.detail, "state"))
    except ValueError:
        return None


def _check_moment(at: datetime | None, now: datetime) -> datetime:
    if at is None:
        return now
    check_zones(at=at)
    if at > now:
        raise Invalid("'at' lies in the future: nobody knows what will be permitted then.")
    return at


def _read_version(tx: Transaction, at: datetime) -> tuple[Version | None, list[Declared]]:
    """The version that was in force, with what it declares."""
    before: int | None = None
    while page := tx.policy_sets.list(before=before, limit=VERSIONS):
        for one in page:
            if one.created_at <= at:
                return one, read_declared(tx, one.number)
        before = page[-1].number
    return None, []


def _miss(book: RuleBook, name: str, version: Version | None, at: datetime) -> NotFound:
    if version is None:
        return NotFound(
            f"Nothing was declared at {at.isoformat()}: no version of the policy set is that old. "
            "`troth policy history` lists them."
        )
    known = sorted(one for one in book.resources if not one.startswith(SYSTEM))
    shown = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
    return NotFound(
        f"There was no resource {name[:80]!r} in version {version.number}, in force at "
        f"{at.isoformat()}. There were: {shown or 'none'}."
    )


def _measure_all(
    book: RuleBook, thens: Iterable[Then], resource: str, actions: tuple[str, ...], at: datetime
) -> tuple[list[wire.CouldDo], bool]:
    """Everybody's access, and whether all were asked about."""
    items: list[wire.CouldDo] = []
    left = MOST_MEASURED
    for then in sorted(thens, key=lambda one: one.identity.name):
        left -= len(actions)
        if left < 0:
            return items, False
        one = then.identity
        party = make_identity_party(book, one, _UNKNOWN, (), tell_refusal(one, one.state, at))
        for access, some in _measure(book, party, resource, actions, at).items():
            items.append(
                wire.CouldDo(
                    subject_type=IDENTITY,
                    subject=one.name,
                    spiffe_id=str(one.spiffe_id),
                    actions=some,
                    level=access.level.value,
                    condition=access.condition,
                    exact=then.exact,
                    note=then.note,
                )
            )
    for (type_, id_), party in sorted(list_instance_parties(book).items()):
        left -= len(actions)
        if left < 0:
            return items, False
        for access, some in _measure(book, party, resource, actions, at).items():
            items.append(
                wire.CouldDo(
                    subject_type=type_,
                    subject=id_,
                    spiffe_id="",
                    actions=some,
                    level=access.level.value,
                    condition=access.condition,
                )
            )
    return items, True


def _measure(
    book: RuleBook, party: Party, resource: str, actions: tuple[str, ...], at: datetime
) -> dict[Access, list[str]]:
    found: dict[Access, list[str]] = {}
    for action in actions:
        access = measure_access(book, party, resource, action, at)
        if access.level is not Level.NEVER:
            found.setdefault(access, []).append(action)
    return found
