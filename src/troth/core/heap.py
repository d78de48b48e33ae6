"""The collector of cycles: rare while a process starts, and past what lasts once it runs."""

from __future__ import annotations

import gc

STARTING_OBJECTS = 200_000
"""New objects that it waits for at the start: importing makes as many, and nearly all of them last.
Walking over them again and again is a tenth of what a start takes."""
YOUNG_OBJECTS = 20_000
"""New objects that it waits for later."""


def begin_heap() -> None:
    """As the first thing of a process."""
    gc.set_threshold(STARTING_OBJECTS, 20, 20)


def settle_heap() -> None:
    """What is here now stays: a process that runs for long calls this once it is ready.

    Otherwise the collector walks over hundreds of thousands of lasting objects again and again,
    since a batch of issuances makes and drops thousands: a twentieth of the processor's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
