"""The event base: what happened, to what, by whom, when, and because of which request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_TYPE = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*\.[a-z0-9]+(?:_[a-z0-9]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Event:
    """One fact of the journal.

    `type` is ``noun.verbed``; `subject` and `actor` are SPIFFE IDs or record names; `body` holds
    plain JSON values and never a secret or a private key.
    """

    type: str
    subject: str
    actor: str
    at: datetime
    request_id: str
    body: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1

    def __post_init__(self) -> None:
        if not _TYPE.fullmatch(self.type):
            raise ValueError(f"event type {self.type!r} is not noun.verbed")

    @property
    def redacted(self) -> bool:
        """Whether who did what to whom was taken out: somebody always was the actor."""
        return not self.actor


@dataclass(frozen=True, slots=True)
class SealedEvent:
    """An event with its position in the sealed journal: positions are dense and start at 1."""

    position: int
    event: Event
