"""Delegates by name: a registration names them, a token's `may_act` says their SPIFFE ID."""

from __future__ import annotations

from troth.identity.identity import Identity, State
from troth.live.snapshot import Snapshot
from troth.store.engine import Store

NAMES_KNOWN = 10_000


class Delegates:
    """Finds the SPIFFE IDs of delegates, live where they are known. Belongs to one event loop."""

    def __init__(self, store: Store, snapshot: Snapshot) -> None:
        self._store = store
        self._snapshot = snapshot
        self._names: dict[str, str] = {}

    async def find_only(self, identity: Identity) -> str:
        """The SPIFFE ID of the one delegate of `identity`; "" if it has none, several, or one that
        isn't registered: a token says at most one party in `may_act` (RFC 8693, section 4.4)."""
        if len(identity.delegates) != 1:
            return ""
        name = identity.delegates[0]
        facts, epoch = self._snapshot.facts, self._snapshot.epoch
        # What is remembered here is a guess where to look: what counts is the fact.
        known = facts.find_named(self._names.get(name, ""))
        if known is not None and known.name == name:
            return str(known.spiffe_id)
        found = await self._store.read(lambda tx: tx.identities.find_named(name))
        if found is None or found.state is State.RETIRED:
            return ""
        facts.remember(found, epoch)
        if len(self._names) >= NAMES_KNOWN:
            self._names.clear()
        self._names[name] = str(found.spiffe_id)
        return self._names[name]
