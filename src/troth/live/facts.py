"""Facts of identities: as asked for, bounded, and never older than the snapshot they belong to."""

from __future__ import annotations

from collections import OrderedDict

from troth.core.ids import IdentityId
from troth.identity.identity import Identity, State

CAPACITY = 10_000


class Facts:
    """The identities that were asked for last, each dropped when the journal says it changed.

    A fact is read from the store while the journal moves on. So it is kept only if nothing about
    that identity was journaled after the epoch at which the reading began.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._known: OrderedDict[IdentityId, Identity] = OrderedDict()
        self._named: dict[str, IdentityId] = {}
        self._called: dict[str, IdentityId] = {}
        self._changed: OrderedDict[IdentityId, int] = OrderedDict()
        self._floor = 0

    def find(self, identity_id: IdentityId) -> Identity | None:
        """The identity, or None if it must be read from the store."""
        found = self._known.get(identity_id)
        if found is not None:
            self._known.move_to_end(identity_id)
        return found

    def find_named(self, spiffe_id: str) -> Identity | None:
        """As `find`, by the SPIFFE ID of a living one."""
        found = self._named.get(spiffe_id)
        return None if found is None else self.find(found)

    def find_called(self, name: str) -> Identity | None:
        """As `find`, by the name of a living one."""
        found = self._called.get(name)
        return None if found is None else self.find(found)

    def remember(self, identity: Identity, epoch: int) -> None:
        """Keep what was read at `epoch` or later, unless it may have changed since."""
        if epoch < self._floor or epoch < self._changed.get(identity.id, 0):
            return
        self._known[identity.id] = identity
        self._known.move_to_end(identity.id)
        if identity.state is not State.RETIRED:
            self._named[str(identity.spiffe_id)] = identity.id
            self._called[identity.name] = identity.id
        if len(self._known) > self._capacity:
            _, oldest = self._known.popitem(last=False)
            self._forget_names(oldest)

    def drop(self, identity_id: IdentityId, position: int) -> None:
        """The journal says at `position` that the identity changed."""
        known = self._known.pop(identity_id, None)
        if known is not None:
            self._forget_names(known)
        self._changed[identity_id] = position
        self._changed.move_to_end(identity_id)
        if len(self._changed) > self._capacity:
            _, self._floor = self._changed.popitem(last=False)

    def clear(self, epoch: int) -> None:
        """Forget everything; nothing read before `epoch` will be kept."""
        self._known.clear()
        self._named.clear()
        self._called.clear()
        self._changed.clear()
        self._floor = epoch

    def _forget_names(self, identity: Identity) -> None:
        for index, name in (
            (self._named, str(identity.spiffe_id)),
            (self._called, identity.name),
        ):
            if index.get(name) == identity.id:
                del index[name]
