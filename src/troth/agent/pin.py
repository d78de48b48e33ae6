"""What this node remembers of the server's log: looked at every minute, kept in its directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from troth.agent.connection import Api
from troth.agent.credential import write_private
from troth.agent.timing import Sleep
from troth.core.clock import Clock
from troth.core.errors import TrothError
from troth.live.logwatch import PERIOD, LogWatch

log = structlog.get_logger(__name__)

NAME = "log.pin"


class PinFile:
    """The pin in the data directory, and what is evidence beside it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> bytes | None:
        """What is remembered; None if nothing is."""
        try:
            return (self._directory / NAME).read_bytes()
        except FileNotFoundError:
            return None

    def save(self, data: bytes) -> None:
        """Remember this from now on."""
        write_private(self._directory / NAME, data)

    def set_aside(self) -> None:
        """Keep a damaged one for whoever looks into it."""
        path = self._directory / NAME
        path.replace(path.with_name(f"{NAME}.damaged"))

    def keep_evidence(self, name: str, seen: str, found: str) -> Path:
        """Keep two checkpoints that contradict each other beside the pin."""
        path = self._directory / name
        write_private(path, f"{seen}\n\n{found}".encode())
        return path


class Pinning:
    """Background: look at the log for ever, and alarm if it isn't the one that was seen."""

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
        self._watch = LogWatch(self._alarm, file)

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
        await self._watch.look(self._api.call)

    def _alarm(self, detail: str, seen: str, found: str) -> None:
        self._disputed()
        if not seen:
            log.error("log.pin_damaged", reason=detail)
            return
        name = f"log.disputed-{self._clock.now():%Y%m%dT%H%M%SZ}.txt"
        try:
            kept = str(self._file.keep_evidence(name, seen, found))
        except OSError as error:
            kept = f"not kept: {error}"
        log.error("log.disputed", reason=detail, kept=kept)
