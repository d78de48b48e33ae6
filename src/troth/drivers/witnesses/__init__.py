"""Witnesses: other people's servers that cosign what this log says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from troth.audit.witness import Cosigned, Declined, Submission

BUILT_IN: dict[str, str] = {
    "https": "troth.drivers.witnesses.https:open_witness",
}
"""Name → ``module:factory``; loaded only when configured."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a witness is: the URL of its submission prefix, and a PEM file with the authorities
    that vouch for it; None for those of the system."""

    url: str
    authorities: Path | None = None


class Witness(Protocol):
    """One witness. What it says is not verified: its keys are for the caller to know."""

    async def add_checkpoint(self, submission: Submission) -> Cosigned | Declined:
        """Its answer to one request, within the time that the driver was opened with.

        `Unavailable` if it can't be reached, isn't who it should be, or answers what no witness
        does; the sentence says which, for the log.
        """
        ...


OpenWitness = Callable[[Whereabouts, float], Witness]
"""A driver's factory: where the witness is, and the seconds that bound each call."""


def load_driver(name: str) -> OpenWitness:
    """The factory of the driver called `name`, imported now."""
    module, _, factory = BUILT_IN[name].partition(":")
    made: OpenWitness = getattr(import_module(module), factory)
    return made
