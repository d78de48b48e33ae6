"""What this node remembers of the server's log, so that no history is rewritten unnoticed.

The newest checkpoint is kept in the data directory. When the log isn't the one that was seen, the
node goes on working: it alarms, keeps both checkpoints as evidence, and tells the server.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from troth.agent.connection import Api
from troth.agent.timing import Sleep
from troth.audit.continuity import Forked, RolledBack
from troth.audit.pin import Pin, begin_pin, read_pin, renew_pin
from troth.core.clock import Clock
from troth.core.errors import Invalid, TrothError
from troth.wire.api.checkpoints import CheckpointShown, DisputeCheckpoint, ShowCheckpoint

log = structlog.get_logger(__name__)

NAME = "log.pin"
PERIOD = 60.0
"""Seconds between two looks."""


class PinFile:
    """The pin in the data directory; it appears whole or not at all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> Pin | None:
        """What is remembered; None if nothing is. `Invalid` if it can't be read."""
        try:
            return read_pin((self._directory / NAME).read_bytes())
        except FileNotFoundError:
            return None

    def save(self, pin: Pin) -> None:
        """Remember this from now on."""
        self._write(NAME, msgspec.json.encode(pin))

    def keep_evidence(self, pin: Pin, found: str, name: str) -> Path:
        """Keep both checkpoints beside the pin."""
        return self._write(name, f"{pin.note}\n\n{found}".encode())

    def _write(self, name: str, data: bytes) -> Path:
        path = self._directory / name
        draft = path.with_name(f"{name}.new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        draft.rename(path)
        return path


class LogWatch:
    """Looks at the log every minute, and remembers it."""

    def __init__(
        self,
        api: Api,
        file: PinFile,
        clock: Clock,
        sleep: Sleep,
        disputed: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._file = file
        self._clock = clock
        self._sleep = sleep
        self._disputed = disputed
        self._told = ""

    async def run(self) -> None:
        """Look for ever. A look that fails is made up for by the next."""
        while True:
            try:
                await self.look()
            except (TrothError, OSError) as error:
                why = error.detail if isinstance(error, TrothError) else str(error)
                log.debug("log.unseen", reason=why)
            await self._sleep(PERIOD)

    async def look(self) -> None:
        """Compare the log with what is remembered, once."""
        try:
            pin = self._file.load()
        except Invalid as error:
            log.error("log.pin_damaged", reason=error.detail)
            pin = None
        shown: CheckpointShown = await self._api.call(
            "checkpoint.show", ShowCheckpoint(since=pin.size if pin else 0)
        )
        if pin is None:
            self._file.save(begin_pin(shown.keys, shown.note))
            return
        try:
            renewed = renew_pin(pin, shown.note, [bytes.fromhex(one) for one in shown.proof])
        except (Forked, RolledBack, Invalid, ValueError) as error:
            await self._alarm(pin, shown.note, error)
            return
        if renewed is not pin:
            self._file.save(renewed)

    async def _alarm(self, pin: Pin, found: str, error: Exception) -> None:
        detail = error.detail if isinstance(error, TrothError) else "It sent no proof."
        self._disputed()
        if detail == self._told:
            return
        self._told = detail
        name = f"log.disputed-{self._clock.now():%Y%m%dT%H%M%SZ}.txt"
        kept = self._file.keep_evidence(pin, found, name)
        log.error("log.disputed", reason=detail, kept=str(kept))
        await self._api.call("checkpoint.dispute", DisputeCheckpoint(note=pin.note))
