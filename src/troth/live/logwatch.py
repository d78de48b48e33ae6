"""What a client remembers of the servers' log, so that no history is rewritten unnoticed.

The newest checkpoint that was seen is kept. When the log isn't the one that was seen, the client
works on: it alarms, keeps both checkpoints, and tells the server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from troth.audit.continuity import Forked, RolledBack, Unproved
from troth.audit.pin import DamagedPin, Pin, begin_pin, read_pin, renew_pin
from troth.core.errors import Invalid
from troth.wire.api.checkpoints import CheckpointShown, DisputeCheckpoint, ShowCheckpoint

PERIOD = 60.0
"""Seconds between two looks."""
PATIENCE = 5
"""Looks in a row that show a shorter log, or no proof, until that is taken for what it seems to be,
whatever the servers say: one of several may be behind the others for a moment."""
_DOUBTFUL = (RolledBack, Unproved)

Ask = Callable[[str, msgspec.Struct], Awaitable[Any]]
"""Calls an operation of a server."""


class Shelf(Protocol):
    """Where the pin lies between two starts. Writes appear whole or not at all."""

    def load(self) -> bytes | None:
        """What was saved last; None if nothing was."""
        ...

    def save(self, data: bytes) -> None:
        """Keep this from now on."""
        ...

    def set_aside(self) -> None:
        """Keep what was loaded under another name: it is damaged."""
        ...


class Alarm(Protocol):
    """Called once for each kind of thing that is wrong."""

    def __call__(self, detail: str, seen: str, found: str) -> None:
        """What is wrong, the checkpoint that was remembered, and the one that doesn't continue it:
        together they are evidence. Both are empty if the memory itself was damaged."""
        ...


class LogWatch:
    """Looks at the log and remembers it: on the `shelf`, or without one in memory.

    `problem` says what is wrong with the log, if anything: once it is set it stays, whatever the
    servers show afterwards.
    """

    def __init__(self, alarm: Alarm, shelf: Shelf | None = None) -> None:
        self._alarm = alarm
        self._shelf = shelf
        self._pin: Pin | None = None
        self._loaded = shelf is None
        self._alarmed: set[type[Exception]] = set()
        self._told: set[type[Exception]] = set()
        self._behind = 0
        self.problem = ""

    @property
    def size(self) -> int:
        """Entries of the newest checkpoint that was seen; 0 before the first."""
        return self._pin.size if self._pin else 0

    async def look(self, ask: Ask) -> None:
        """Compare the log with what is remembered, once. Errors of `ask` are a look that failed."""
        pin = self._recall()
        shown: CheckpointShown = await ask("checkpoint.show", ShowCheckpoint(since=self.size))
        if pin is None:
            self._remember(begin_pin(shown.keys, shown.note))
            return
        try:
            renewed = renew_pin(pin, shown.note, shown.proof)
        except (Forked, RolledBack, Unproved, Invalid) as found:
            await self._doubt(ask, pin, shown.note, found)
            return
        self._behind = 0
        if renewed is not pin:
            self._remember(renewed)

    async def _doubt(
        self, ask: Ask, pin: Pin, note: str, found: Forked | RolledBack | Unproved | Invalid
    ) -> None:
        """Alarm about what is certain, and have a server look at what isn't; both once a kind."""
        kind = type(found)
        if kind in _DOUBTFUL:
            self._behind += 1
        if kind not in _DOUBTFUL or self._behind >= PATIENCE:
            self._raise_alarm(kind, found.detail, pin.note, note)
        if kind in self._told:
            return
        answer = await ask("checkpoint.dispute", DisputeCheckpoint(note=pin.note))
        if not answer.continued:
            self._raise_alarm(kind, found.detail, pin.note, note)
        if kind in self._alarmed:
            self._told.add(kind)

    def _raise_alarm(self, kind: type[Exception], detail: str, seen: str, found: str) -> None:
        if kind in self._alarmed:
            return
        self._alarmed.add(kind)
        self.problem = self.problem or detail
        self._alarm(detail, seen, found)

    def _recall(self) -> Pin | None:
        if self._shelf is None or self._loaded:
            return self._pin
        data = self._shelf.load()
        if data is not None:
            try:
                self._pin = read_pin(data)
            except DamagedPin as error:
                self._shelf.set_aside()
                self._raise_alarm(DamagedPin, error.detail, "", "")
        self._loaded = True
        return self._pin

    def _remember(self, pin: Pin) -> None:
        self._pin = pin
        if self._shelf is not None:
            self._shelf.save(msgspec.json.encode(pin))
