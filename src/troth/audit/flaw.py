"""What is wrong with the files of a log: where, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MOST_FLAWS = 1000
"""Flaws that are kept; more are counted."""
MOST_REMARKS = 100


class Fault(StrEnum):
    """What is wrong with a file, or with an entry in it."""

    MISSING = "missing"
    """The file isn't there."""
    CUT = "cut"
    """It is shorter or longer than it must be, or can't be taken apart."""
    ALTERED = "altered"
    """It holds something else than the tree commits to."""
    EMPTIED = "emptied"
    """What lay beside an entry is gone, and the log doesn't say that it was redacted."""
    UNPROVED = "unproved"
    """It can't be held against anything: what would show it is damaged itself."""
    MISPLACED = "misplaced"
    """The entry says that it stands elsewhere."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """A place that is damaged: the file, and the entries in it from `first` to `last`, from 0 on;
    None where it is the file as a whole."""

    fault: Fault
    name: str
    detail: str
    first: int | None = None
    last: int | None = None


@dataclass(slots=True)
class Findings:
    """What was found. `entries` and `details` were shown to be what the checkpoint commits to;
    `redacted` details were taken out, and the log says so; `untold` ones are gone, and what may
    say so lies behind the part that was looked at. `remarks` are no flaws: a clock that was set
    back."""

    entries: int = 0
    details: int = 0
    redacted: int = 0
    untold: int = 0
    tiles: int = 0
    flaws: list[Flaw] = field(default_factory=list)
    flaw_count: int = 0
    remarks: list[str] = field(default_factory=list)
    remark_count: int = 0

    @property
    def intact(self) -> bool:
        """Whether nothing was found wanting."""
        return not self.flaw_count

    def add(
        self,
        fault: Fault,
        name: str,
        detail: str,
        first: int | None = None,
        last: int | None = None,
    ) -> None:
        """Keep a flaw, or count it where there are too many."""
        self.flaw_count += 1
        if len(self.flaws) < MOST_FLAWS:
            self.flaws.append(Flaw(fault, name, detail, first, last))

    def remark(self, words: str) -> None:
        """Keep something that is worth knowing."""
        self.remark_count += 1
        if len(self.remarks) < MOST_REMARKS:
            self.remarks.append(words)


def group(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as runs: the first and the last of each."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def describe_run(noun: str, plural: str, first: int, last: int) -> str:
    """One or several, by their numbers: ``entry 5``, ``entries 5 to 9``."""
    return f"{noun} {first}" if first == last else f"{plural} {first} to {last}"
