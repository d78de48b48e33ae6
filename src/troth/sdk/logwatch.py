"""What a service remembers of the servers' log: in memory, and in a file if one is named.

With a file a service that starts again remembers as well.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from troth.live.logwatch import LogWatch

log = logging.getLogger("troth.sdk")


class PinFile:
    """The pin in a file of the service's choice."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> bytes | None:
        """What is remembered; None if nothing is."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def save(self, data: bytes) -> None:
        """Remember this from now on."""
        draft = self._path.with_name(f"{self._path.name}.new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)

    def set_aside(self) -> None:
        """Keep a damaged one for whoever looks into it."""
        self._path.replace(self._path.with_name(f"{self._path.name}.damaged"))


def open_watch(path: Path | None = None) -> LogWatch:
    """A watch that tells the service's log what is wrong."""
    return LogWatch(_alarm, None if path is None else PinFile(path))


def _alarm(detail: str, seen: str, found: str) -> None:
    if seen:
        log.error("The servers' log was rewritten: %s Seen before: %r", detail, seen)
    else:
        log.error("%s What the log was before isn't known any more.", detail)
