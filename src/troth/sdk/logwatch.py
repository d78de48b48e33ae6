"""What a service remembers of the servers' log, so that no history is rewritten unnoticed.

In memory, and in a file if one is named: then a service that starts again remembers as well.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from troth.audit.continuity import Forked, RolledBack
from troth.audit.pin import Pin, begin_pin, read_pin, renew_pin
from troth.core.errors import Invalid, TrothError
from troth.wire.api.checkpoints import CheckpointShown, DisputeCheckpoint, ShowCheckpoint

log = logging.getLogger("troth.sdk")

Ask = Callable[[str, msgspec.Struct], Awaitable[Any]]

PERIOD = 60.0
"""Seconds between two looks."""


class LogWatch:
    """The newest checkpoint that was seen. `problem` says what is wrong with the log, if anything:
    once it is set it stays, whatever the servers show afterwards."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._pin: Pin | None = None
        self._loaded = path is None
        self.problem = ""

    @property
    def size(self) -> int:
        """Entries of the newest checkpoint that was seen; 0 before the first."""
        return self._pin.size if self._pin else 0

    async def look(self, ask: Ask) -> None:
        """Compare the log with what is remembered, once; `ask` calls an operation of a server."""
        pin = self._recall()
        shown: CheckpointShown = await ask("checkpoint.show", ShowCheckpoint(since=self.size))
        if pin is None:
            self._remember(begin_pin(shown.keys, shown.note))
            return
        try:
            renewed = renew_pin(pin, shown.note, [bytes.fromhex(one) for one in shown.proof])
        except (Forked, RolledBack, Invalid, ValueError) as error:
            detail = error.detail if isinstance(error, TrothError) else "It sent no proof."
            if not self.problem:
                self.problem = detail
                log.error("The servers' log was rewritten: %s Seen before: %r", detail, pin.note)
                await ask("checkpoint.dispute", DisputeCheckpoint(note=pin.note))
            return
        if renewed is not pin:
            self._remember(renewed)

    def _recall(self) -> Pin | None:
        if not self._loaded and self._path is not None:
            try:
                self._pin = read_pin(self._path.read_bytes())
            except FileNotFoundError:
                pass
            self._loaded = True
        return self._pin

    def _remember(self, pin: Pin) -> None:
        self._pin = pin
        if self._path is None:
            return
        draft = self._path.with_name(f"{self._path.name}.new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(handle, msgspec.json.encode(pin))
            os.fsync(handle)
        finally:
            os.close(handle)
        draft.rename(self._path)
