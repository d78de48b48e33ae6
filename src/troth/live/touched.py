"""Whose facts changed lately: a bounded memory of identities, that streams take deltas from."""

from __future__ import annotations

from collections import deque

from troth.core.ids import IdentityId

CAPACITY = 20_000


class TouchedIdentities:
    """The identities of which something changed last; complete for whoever knows all up to `floor`
    or later."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._touched: deque[tuple[int, IdentityId]] = deque()
        self._capacity = capacity
        self.floor = 0

    def clear(self, epoch: int) -> None:
        """Forget everything: from here on there is an answer for `epoch` and later."""
        self._touched.clear()
        self.floor = epoch

    def note(self, identity_id: IdentityId, position: int) -> None:
        """The journal says at `position` that the identity, or evidence of it, changed."""
        self._touched.append((position, identity_id))
        if len(self._touched) > self._capacity:
            self.floor = self._touched.popleft()[0]

    def since(self, epoch: int) -> list[IdentityId] | None:
        """Who changed after `epoch`, each once; None if that isn't known any more."""
        if epoch < self.floor:
            return None
        found: dict[IdentityId, None] = {}
        for position, identity_id in reversed(self._touched):
            if position <= epoch:
                break
            found[identity_id] = None
        return list(found)[::-1]
