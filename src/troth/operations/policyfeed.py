"""The policy feed: what services that decide for themselves are told of rules and parties.

What is put together for one service is shared by all of its processes, and costs what it is about:
not how many rules or identities there are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from troth.core.clock import Clock
from troth.core.errors import Denied, Invalid, NotFound
from troth.core.ids import IdentityId, SpiffeId, TrustDomain
from troth.identity.identity import Identity
from troth.live.parties import show_party
from troth.live.share import Includers, Share, cut_share, find_includers, list_served
from troth.live.snapshot import Snapshot
from troth.operations.call import Call
from troth.operations.declaration import read_bundle
from troth.operations.revocation import HEARTBEAT_SECONDS, read_missed
from troth.operations.roster import Roster, RosterChange
from troth.policy.rulebook import RuleBook
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import rules as wire

MOST_PARTIES = 20_000
"""Parties that a stream tells of by itself."""

_DECLARED = "declaration."
_Value = wire.PolicySnapshot | wire.PolicyChange | wire.PolicyHeartbeat

NOT_SERVING = (
    "{caller} is named in `servers` of no resource, so there are no rules that it could enforce. "
    "Name its identity there, in the resource's manifest."
)


class PolicyDesk:
    """Puts together what services are told. Belongs to one event loop."""

    def __init__(self, store: Store, snapshot: Snapshot, trust_domain: TrustDomain) -> None:
        self._store = store
        self.snapshot = snapshot
        self.trust_domain = trust_domain
        self.roster = Roster(store, snapshot)
        self._book: RuleBook | None = None
        self._includers: Includers = {}
        self._shares: dict[tuple[str, ...], Share] = {}
        self._moves: dict[tuple[str, str], tuple[int, tuple[list[IdentityId], list[str]]]] = {}

    async def read_book(self) -> RuleBook:
        """The rules as of now."""
        book = (await read_bundle(self._store, self.snapshot)).rules
        if book is not self._book:
            self._book, self._shares, self._moves = book, {}, {}
            self._includers = find_includers(book.roles.values())
        return book

    async def read_share(self, server: str, wanted: Sequence[str]) -> Share:
        """The share of the identity of that name, of all that it serves, or what it `wanted`.

        Raises `Denied` for what it doesn't serve.
        """
        book = await self.read_book()
        served = list_served(book, server)
        if not served:
            raise Denied(NOT_SERVING.format(caller=f"'{server}'"))
        strange = sorted(set(wanted) - set(served))
        if strange:
            raise Denied(
                f"'{server}' isn't named in `servers` of resource {strange[0][:128]!r}, so it "
                "isn't told the rules about it."
            )
        names = tuple(sorted(set(wanted))) if wanted else served
        if len(names) > wire.MOST_RESOURCES:
            raise Invalid(
                f"'{server}' serves more than {wire.MOST_RESOURCES} resources: name those that "
                "this process is for, in `resources`."
            )
        share = self._shares.get(names)
        if share is None:
            share = self._shares[names] = cut_share(book, self._includers, names)
        return share

    def compare(self, before: Share, after: Share) -> tuple[list[IdentityId], list[str]]:
        """Whom other rules may permit something who weren't meant before, and the names of those
        who aren't meant any more."""
        key, roster = (before.rules.digest, after.rules.digest), self.roster
        known = self._moves.get(key)
        if known is None or known[0] != roster.epoch:
            if before.wanted == after.wanted:
                found: tuple[list[IdentityId], list[str]] = ([], [])
            else:
                old, new = set(roster.select(before.wanted)), set(roster.select(after.wanted))
                found = (sorted(new - old), roster.list_names(old - new))
            known = self._moves[key] = (roster.epoch, found)
        return known[1]

    async def find_identity(self, subject: str) -> Identity | None:
        """A living identity by SPIFFE ID or name, as the store has it: whoever was told by another
        server that it changed must not be given what this one still remembers."""

        def find(tx: Transaction) -> Identity | None:
            if not subject.startswith("spiffe://"):
                return next(iter(tx.identities.list_named([subject])), None)
            return next(iter(tx.identities.list_living_at([SpiffeId.parse(subject)])), None)

        if subject.startswith("spiffe://") and not subject.startswith(f"{self.trust_domain.id}/"):
            return None
        try:
            return await self._store.read(find)
        except Invalid:
            return None

    async def find_server(self, principal: str) -> str:
        """The name of the identity that calls; `Denied` if it is none."""
        known = self.snapshot.facts.find_named(principal)
        found = known or await self.find_identity(principal)
        if found is None:
            raise Denied(
                f"{principal} is no identity here; only those are told rules that serve a resource."
            )
        return found.name


@dataclass(frozen=True, slots=True)
class FollowPolicies:
    """``policy.follow``: a complete value, then what changes.

    Only for identities that serve a resource, and about what they serve. A caller that names where
    it left off, and knows the rules as they are, gets the changes of parties since.
    """

    store: Store
    desk: PolicyDesk
    clock: Clock
    lease: timedelta

    async def __call__(self, call: Call[wire.FollowPolicies]) -> AsyncIterator[_Value]:
        """Values until the snapshot is stale, which is an error to come back after."""
        opened = self.clock.monotonic()
        snapshot = self.desk.snapshot
        snapshot.check_fresh()
        server = await self.desk.find_server(call.caller.principal)
        wanted = [name for name in call.body.resources.split(",") if name]
        stream = _Stream(self, opened, server, wanted)
        loads = snapshot.loads
        yield await stream.start(call.body)
        while True:
            # Woken by any change after what was told: none can be lost between two values.
            await snapshot.wait_beyond(stream.told, HEARTBEAT_SECONDS, policies=True)
            snapshot.check_fresh()
            snapshot.check_same(loads)
            yield await stream.go_on()


class _Stream:
    """What one caller was told so far: up to `told` of the roster, and up to `epoch` of the journal
    by what it can name again."""

    def __init__(self, feed: FollowPolicies, opened: float, server: str, wanted: list[str]) -> None:
        self._feed = feed
        self._desk = feed.desk
        self._opened = opened
        self._server = server
        self._wanted = wanted
        self._share: Share | None = None
        self._complete = True
        self.told = 0
        self.epoch = 0

    async def start(self, body: wire.FollowPolicies) -> _Value:
        """The first value."""
        snapshot, roster = self._desk.snapshot, self._desk.roster
        place = (snapshot.last_position, snapshot.mark)
        share = await self._read()
        if body.rules == share.rules.digest and self._complete:
            missed = await read_missed(self._feed.store, snapshot, body.after, body.mark)
            if missed and not any(one.event.type.startswith(_DECLARED) for one in missed[1:]):
                ids = {
                    IdentityId(str(one.event.body[key]))
                    for one in missed[1:]
                    for noun, key in (("identity.", "id"), ("evidence.", "identity_id"))
                    if one.event.type.startswith(noun)
                }
                self._share, self.told, self.epoch = share, roster.epoch, place[0]
                views = await roster.show(sorted(ids))
                meant = [one for one in views if share.wanted.means(one.name, one.roles)]
                names = {one.name for one in meant}
                gone = [
                    str(one.event.body["name"])
                    for one in missed[1:]
                    if one.event.type.startswith("identity.")
                    and one.event.body["name"] not in names
                ]
                return self._change(body.after, place, None, meant, sorted(set(gone)))
        return await self._show_all(share, place)

    async def go_on(self) -> _Value:
        """The next value."""
        snapshot, roster = self._desk.snapshot, self._desk.roster
        place = (snapshot.last_position, snapshot.mark)
        complete = self._complete
        share, before = await self._read(), self._share
        changes = roster.list_changes(self.told)
        if changes is None or before is None or complete != self._complete:
            return await self._show_all(share, place)
        ids: dict[IdentityId, None] = {}
        gone: dict[str, None] = {}
        for change in changes:
            _take_change(change, share, ids, gone)
        if not self._complete:
            gone |= {view.name: None for view in await roster.show(ids)}
            ids = {}
        rules = None
        if share.rules.digest != before.rules.digest:
            rules = share.rules
            if self._complete:
                added, removed = self._desk.compare(before, share)
                ids |= dict.fromkeys(added)
                gone |= dict.fromkeys(removed)
        self._share, self.told = share, roster.epoch
        parties = await roster.show(ids)
        since, self.epoch = self.epoch, max(self.epoch, place[0])
        if rules is None and not parties and not gone:
            mark = place[1] if self.epoch == place[0] else ""
            return wire.PolicyHeartbeat(epoch=self.epoch, mark=mark, as_of=self._tell_age())
        names = {view.name for view in parties}
        return self._change(since, place, rules, parties, [n for n in gone if n not in names])

    async def _read(self) -> Share:
        """The share, and the roster, as of now."""
        share = await self._desk.read_share(self._server, self._wanted)
        roster = self._desk.roster
        await roster.refresh()
        self._complete = roster.complete and len(roster.select(share.wanted)) <= MOST_PARTIES
        return share

    async def _show_all(self, share: Share, place: tuple[int, str]) -> wire.PolicySnapshot:
        roster = self._desk.roster
        self._share, self.told, self.epoch = share, roster.epoch, place[0]
        ids = sorted(roster.select(share.wanted)) if self._complete else []
        return wire.PolicySnapshot(
            epoch=self.epoch,
            mark=place[1],
            as_of=self._tell_age(),
            lease=self._feed.lease.total_seconds(),
            trust_domain=str(self._desk.trust_domain),
            rules=share.rules,
            parties=await roster.show(ids),
            complete=self._complete,
        )

    def _change(
        self,
        since: int,
        place: tuple[int, str],
        rules: wire.RuleSet | None,
        parties: Sequence[wire.PartyView],
        gone: Sequence[str],
    ) -> wire.PolicyChange:
        return wire.PolicyChange(
            since=since,
            epoch=self.epoch,
            mark=place[1] if self.epoch == place[0] else "",
            as_of=self._tell_age(),
            lease=self._feed.lease.total_seconds(),
            rules=rules,
            parties=parties,
            gone=gone,
        )

    def _tell_age(self) -> float:
        return self._feed.clock.monotonic() - self._opened - self._desk.snapshot.age


def _take_change(
    change: RosterChange, share: Share, ids: dict[IdentityId, None], gone: dict[str, None]
) -> None:
    before, after = change.before, change.after
    if after is not None and share.wanted.means(after.name, after.roles):
        ids[after.id] = None
        gone.pop(after.name, None)
        if before is not None and before.name != after.name:
            gone[before.name] = None
    elif before is not None and share.wanted.means(before.name, before.roles):
        ids.pop(before.id, None)
        gone[before.name] = None


@dataclass(frozen=True, slots=True)
class ShowParty:
    """``policy.party``: one party, for services that more can ask than a stream tells of."""

    desk: PolicyDesk
    store: Store

    async def __call__(self, call: Call[wire.AskParty]) -> wire.PartyView:
        """Raises `NotFound` for who is no living identity, or can be permitted nothing there."""
        self.desk.snapshot.check_fresh()
        server = await self.desk.find_server(call.caller.principal)
        book = await self.desk.read_book()
        served = list_served(book, server)
        if not served:
            raise Denied(NOT_SERVING.format(caller=f"'{server}'"))
        identity = await self.desk.find_identity(call.body.subject)
        if identity is None or not await self._is_meant(server, served, identity):
            raise NotFound("The subject is no living identity that rules here could mean.")
        evidence = await self.store.read(lambda tx: tx.evidence.list(identity.id))
        return show_party(identity, evidence)

    async def _is_meant(self, server: str, served: tuple[str, ...], identity: Identity) -> bool:
        for start in range(0, len(served), wire.MOST_RESOURCES):
            part = served[start : start + wire.MOST_RESOURCES]
            share = await self.desk.read_share(server, part)
            if share.wanted.means(identity.name, identity.roles):
                return True
        return False
