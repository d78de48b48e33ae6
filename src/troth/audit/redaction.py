"""Redactions as the log tells of them.

A detail that isn't there proves nothing by itself: anybody who can write the files can take it out.
The event that tells of the redaction is in the tree, and always later than what was redacted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from troth.audit.entry import Leaf, StoredEvent, open_detail
from troth.audit.tile import WIDTH
from troth.core.errors import Invalid

REDACTED = "journal.redacted"
"""The event that tells of a redaction; its body names the position."""
NEEDED = ("authority.", "archive.", "checkpoint.", "decisions.", "hold.", "journal.", "log.")
"""Types of events that other proofs and records stand on, and that are never redacted. They tell of
no persons but who acted for the installation."""


class Redactions:
    """Entries whose detail is gone, until the event that tells of it comes.

    Holds a number of 256 bits for each bundle that lacks some.
    """

    __slots__ = ("_gone",)

    def __init__(self) -> None:
        self._gone: dict[int, int] = {}

    def note_gone(self, index: int) -> None:
        """The detail of entry `index` isn't there."""
        bundle, at = divmod(index, WIDTH)
        self._gone[bundle] = self._gone.get(bundle, 0) | 1 << at

    def explain(self, leaf: Leaf, beside: bytes) -> bool:
        """Take in an event of type `REDACTED` that was shown, with its detail: whether something
        was gone until now that it tells of."""
        position = _read_position(leaf, beside)
        bundle, at = divmod(position - 1, WIDTH)
        left = self._gone.get(bundle, 0)
        if not left >> at & 1:
            return False
        left ^= 1 << at
        if left:
            self._gone[bundle] = left
        else:
            del self._gone[bundle]
        return True

    def list_left(self) -> Iterator[tuple[int, list[int]]]:
        """What no event told of: the bundles in their order, and the places in each."""
        for bundle, left in sorted(self._gone.items()):
            yield bundle, [at for at in range(WIDTH) if left >> at & 1]


def read_redacted(event: StoredEvent) -> int:
    """The position that an event of type `REDACTED` names, as it lies in the journal; 0 if it names
    none before its own."""
    try:
        body = msgspec.json.decode(event.body, type=dict[str, Any])
    except (ValueError, RecursionError):  # a row that somebody altered
        return 0
    return _check_position(body.get("position"), event.position)


def _read_position(leaf: Leaf, beside: bytes) -> int:
    """The position that the event names; 0 if it names none before its own."""
    try:
        detail = open_detail(leaf, beside)
    except Invalid:
        return 0
    return _check_position(None if detail is None else detail.body.get("position"), leaf.position)


def _check_position(named: object, own: int) -> int:
    if type(named) is not int or not 0 < named < own:  # True is no position
        return 0
    return named
