"""The roster: all living identities by role, so that it is known at once whom a rule can permit
something. Made when it is first wanted, and kept in step with the journal; shared by all streams.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from troth.core.ids import IdentityId
from troth.identity.identity import Identity, State
from troth.live.parties import show_party
from troth.live.share import Wanted
from troth.live.snapshot import Snapshot
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.trust.evidence import Evidence
from troth.wire.api.rules import PartyView

MOST = 200_000
"""Living identities of which it is known what they hold; with more, parties are asked for one by
one."""
CHANGES = 20_000
PAGE = 500
VIEWS = 20_000
"""Parties that are kept as they are told."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A living identity as rules mean it."""

    id: IdentityId
    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RosterChange:
    """Something about one identity changed at `epoch`; None for one that isn't living."""

    epoch: int
    before: Entry | None
    after: Entry | None


class Roster:
    """Belongs to one event loop."""

    def __init__(self, store: Store, snapshot: Snapshot) -> None:
        self._store = store
        self._snapshot = snapshot
        self._turn = asyncio.Lock()
        self._loads = -1
        self._entries: dict[IdentityId, Entry] = {}
        self._named: dict[str, Entry] = {}
        self._holders: dict[str, set[IdentityId]] = {}
        self._changes: deque[RosterChange] = deque()
        self._floor = 0
        self._views: OrderedDict[IdentityId, PartyView] = OrderedDict()
        self.epoch = 0
        self.complete = True
        """Whether it knows everybody; else it knows nobody but who changed."""

    async def refresh(self) -> None:
        """Take in all that the snapshot has heard of."""
        if self._is_fresh():
            return
        async with self._turn:
            while not self._is_fresh():
                await self._catch_up()

    def _is_fresh(self) -> bool:
        snapshot = self._snapshot
        return self._loads == snapshot.loads and self.epoch >= snapshot.policies_epoch

    async def _catch_up(self) -> None:
        loads, epoch = self._snapshot.loads, self._snapshot.epoch
        touched = self._snapshot.touched.since(self.epoch) if loads == self._loads else None
        if touched is None:
            await self._load(loads, epoch)
            return
        for start in range(0, len(touched), PAGE):
            await self._read_changed(touched[start : start + PAGE], epoch)
        self.epoch = max(self.epoch, epoch)

    async def _load(self, loads: int, epoch: int) -> None:
        """Start anew: what was read while the journal went on is read again afterwards."""
        self._entries, self._named, self._holders = {}, {}, {}
        self._changes.clear()
        self._views.clear()
        self.complete = True
        after: str | None = None
        while self.complete:
            page = await self._store.read(
                lambda tx, after=after: tx.identities.page(living=True, after=after, limit=PAGE)  # type: ignore[misc]
            )
            for one in page:
                self._put(_enter(one))
            if len(page) < PAGE:
                break
            after = page[-1].name
            if len(self._entries) > MOST:
                self.complete = False
        if not self.complete:
            self._entries, self._named, self._holders = {}, {}, {}
        self._floor = self.epoch = epoch
        self._loads = loads

    async def _read_changed(self, ids: Sequence[IdentityId], epoch: int) -> None:
        def read(
            tx: Transaction,
        ) -> tuple[dict[IdentityId, Identity], dict[IdentityId, tuple[Evidence, ...]]]:
            return tx.identities.find_all(ids), tx.evidence.list_all(ids)

        found, evidence = await self._store.read(read)
        for id_ in ids:
            identity = found.get(id_)
            living = identity is not None and identity.state is not State.RETIRED
            after = _enter(identity) if identity is not None and living else None
            before = self._entries.get(id_)
            if before is None and after is None and identity is not None and not self.complete:
                before = _enter(identity)
            self._remove(id_)
            self._views.pop(id_, None)
            if after is not None and identity is not None:
                if self.complete:
                    self._put(after)
                self._keep(id_, show_party(identity, evidence[id_]))
            self._note(RosterChange(epoch, before, after))

    def _note(self, change: RosterChange) -> None:
        self._changes.append(change)
        if len(self._changes) > CHANGES:
            self._floor = self._changes.popleft().epoch

    def _put(self, entry: Entry) -> None:
        self._entries[entry.id] = self._named[entry.name] = entry
        for role in entry.roles:
            self._holders.setdefault(role, set()).add(entry.id)

    def _remove(self, id_: IdentityId) -> None:
        entry = self._entries.pop(id_, None)
        if entry is None:
            return
        if self._named.get(entry.name) is entry:
            del self._named[entry.name]
        for role in entry.roles:
            holders = self._holders[role]
            holders.discard(id_)
            if not holders:
                del self._holders[role]

    def _keep(self, id_: IdentityId, view: PartyView) -> None:
        self._views[id_] = view
        if len(self._views) > VIEWS:
            self._views.popitem(last=False)

    # What streams ask

    def list_changes(self, since: int) -> list[RosterChange] | None:
        """What changed after `since`, in order; None if that isn't known any more."""
        if since < self._floor:
            return None
        found: list[RosterChange] = []
        for change in reversed(self._changes):
            if change.epoch <= since:
                break
            found.append(change)
        return found[::-1]

    def select(self, wanted: Wanted) -> Collection[IdentityId]:
        """Everybody who is meant."""
        if wanted.anyone:
            return self._entries.keys()
        found = {self._named[name].id for name in wanted.names if name in self._named}
        for role in wanted.roles:
            found |= self._holders.get(role, set())
        return found

    def list_names(self, ids: Iterable[IdentityId]) -> list[str]:
        """The names of these."""
        return [entry.name for id_ in ids if (entry := self._entries.get(id_)) is not None]

    async def show(self, ids: Iterable[IdentityId]) -> list[PartyView]:
        """These identities as they are told, as of now or later; none of those that ended."""
        wanted = list(ids)
        views = {id_: self._views.get(id_) for id_ in wanted}
        missing = [id_ for id_, view in views.items() if view is None]
        for start in range(0, len(missing), PAGE):
            part = missing[start : start + PAGE]
            place = (self._loads, self.epoch)
            found, evidence = await self._store.read(
                lambda tx, part=part: (tx.identities.find_all(part), tx.evidence.list_all(part))  # type: ignore[misc]
            )
            # What was read while the journal went on is told, since it is newer; it isn't kept.
            still = place == (self._loads, self.epoch) and self._is_fresh()
            for id_, identity in found.items():
                if identity.state is State.RETIRED:
                    continue
                views[id_] = view = show_party(identity, evidence[id_])
                if still:
                    self._keep(id_, view)
        return [view for view in views.values() if view is not None]


def _enter(identity: Identity) -> Entry:
    return Entry(identity.id, identity.name, identity.roles)
