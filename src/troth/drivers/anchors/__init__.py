"""Anchors: places out of the server's reach that are given checkpoints now and then.

Whoever rewrites the log would have to rewrite those places too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

BUILT_IN: dict[str, str] = {
    "file": "troth.drivers.anchors.file:open_anchor",
    "http": "troth.drivers.anchors.http:open_anchor",
}
"""Name → ``module:factory``; loaded only when configured."""

SECONDS = 10.0
"""For one delivery."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an anchor is: a path, or a URL."""

    target: str


class Anchor(Protocol):
    """One place. It may get a checkpoint twice; it never gets an older one after a newer one."""

    async def deliver(self, note: bytes) -> None:
        """Return once the place has the signed note for good; `Unavailable` if that can't be."""
        ...


OpenAnchor = Callable[[Place], Anchor]
"""A driver's factory; `Invalid` for a target that can't be one."""


def load_driver(name: str) -> OpenAnchor:
    """The factory of the driver called `name`, imported now."""
    module, _, factory = BUILT_IN[name].partition(":")
    made: OpenAnchor = getattr(import_module(module), factory)
    return made
