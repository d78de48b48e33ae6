"""What the leaves of a log stand for: its entries, and what lies beside them, in bundles of 256."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256

from troth.audit.entry import Leaf, read_leaf, split_details, split_entries
from troth.audit.flaw import Fault, Findings, describe_run, group
from troth.audit.merkle import HASH_SIZE, hash_leaf
from troth.audit.redaction import NEEDED, REDACTED, Redactions
from troth.audit.tile import (
    WIDTH,
    DamagedTile,
    Read,
    measure_width,
    name_details,
    name_entries,
)
from troth.core.errors import Invalid, NotFound

Watch = Callable[[Leaf, bytes], None]
"""Told of each entry that is shown to be in the tree, with what was shown to lie beside it: salt
and detail, or nothing."""

Name = Callable[[int, int], str]
Split = Callable[[bytes], list[bytes]]

_SECONDS = len("2026-01-01T00:00:00")
_TOLERANCE = timedelta(seconds=5)
"""How much earlier an event may be than the one before it, without a clock that was set back."""
_LENGTH = 2
"""Bytes of the length before an entry."""


def read_entries(read: Read, index: int, width: int) -> list[bytes]:
    """The first `width` entries of a bundle, cut from the full one if the partial one is gone.

    `NotFound` if there is neither, `Invalid` if it holds more or less.
    """
    return _read_whole(read, name_entries, index, width, split_entries)


def read_details(read: Read, index: int, width: int) -> list[bytes]:
    """The same of what lies beside them."""
    return _read_whole(read, name_details, index, width, split_details)


def _read_whole(read: Read, name: Name, index: int, width: int, split: Split) -> list[bytes]:
    parts = _read_parts(read, name, index, width, split)
    if len(parts) != width:
        raise Invalid(f"{name(index, width)} holds {len(parts)} entries and not {width}.")
    return parts


def _read_parts(read: Read, name: Name, index: int, width: int, split: Split) -> list[bytes]:
    try:
        return split(read(name(index, width)))
    except NotFound:
        if width == WIDTH:
            raise
    parts = split(read(name(index, WIDTH)))
    return parts[:width] if len(parts) == WIDTH else parts


def compute_hashes(read: Read, index: int, width: int) -> bytes | None:
    """The leaf hashes of a bundle's entries, one after the other; None if they can't be had."""
    try:
        return b"".join(map(hash_leaf, read_entries(read, index, width)))
    except (NotFound, Invalid, DamagedTile):
        return None


class Contents:
    """Holds bundles against leaf hashes. `leaves` and `details` say how deep it looks."""

    def __init__(
        self,
        read: Read,
        findings: Findings,
        leaves: bool,
        details: bool,
        watch: Watch | None = None,
    ) -> None:
        self._read, self._findings, self._watch = read, findings, watch
        self._leaves, self._details = leaves, leaves and details
        self._redactions = Redactions()
        self._latest = ("", 0)
        """The last entry's time, and its index."""

    def verify(self, index: int, width: int, hashes: bytes | None, proved: bool) -> None:
        """Look at a bundle whose leaves have these hashes, `proved` or only taken for true."""
        name, first = name_entries(index, width), index * WIDTH
        try:
            entries = _read_parts(self._read, name_entries, index, width, split_entries)
        except NotFound:
            words = f"{name} is missing."
            self._findings.add(Fault.MISSING, name, words, first, first + width - 1)
            return
        except DamagedTile as error:
            self._findings.add(Fault.CUT, error.name, error.detail, first, first + width - 1)
            return
        except Invalid:
            entries = self._salvage(name, index, width)
        else:
            if len(entries) != width:
                words = f"{name} holds {len(entries)} entries and not {width}."
                self._findings.add(Fault.CUT, name, words, first + min(len(entries), width))
        right = self._compare(name, first, entries[:width], hashes, proved)
        if self._leaves:
            leaves = {at: self._read_leaf(name, first + at, entries[at]) for at in right}
            beside = self._verify_details(index, width, leaves) if self._details and right else {}
            if self._watch is not None:
                for at, leaf in leaves.items():
                    if leaf is not None:
                        self._watch(leaf, beside.get(at, b""))

    def conclude(self, size: int, end: int) -> None:
        """Judge the details that are gone, once all bundles up to entry `end` of `size` were looked
        at: a part of the log doesn't hold what is told later of it."""
        for bundle, places in self._redactions.list_left():
            if end < size:
                self._findings.untold += len(places)
                continue
            name = name_details(bundle, measure_width(size, 0, bundle))
            why = "no event in the log that was shown says that it was redacted. If that was done "
            why += "since, a newer checkpoint shows it"
            self._tell_emptied(name, bundle * WIDTH, places, why)

    def _tell_emptied(self, name: str, first: int, places: Sequence[int], why: str) -> None:
        for start, end in group(places):
            start, end = first + start, first + end
            words = f"In {name}, the detail of {describe_run('entry', 'entries', start, end)} was "
            self._findings.add(Fault.EMPTIED, name, f"{words}emptied: {why}.", start, end)

    def _compare(
        self, name: str, first: int, entries: list[bytes], hashes: bytes | None, proved: bool
    ) -> Sequence[int]:
        """Which of a bundle's entries are shown to be those of the tree."""
        if hashes is None:
            words = f"Nothing shows whether the entries of {name} are right: no tile is left."
            self._findings.add(Fault.UNPROVED, name, words, first)
            return ()
        found = [sha256(b"\x00" + entry).digest() for entry in entries]
        right: Sequence[int] = range(len(found))
        if b"".join(found) != hashes[: len(found) * HASH_SIZE]:
            right = [at for at in right if found[at] == pick(hashes, at)]
            fault = Fault.ALTERED if proved else Fault.UNPROVED
            for start, end in group(sorted(set(range(len(found))).difference(right))):
                start, end = first + start, first + end
                words = f"In {name}, {describe_run('entry', 'entries', start, end)} "
                words += "isn't what the log's tree holds: altered, or moved."
                if not proved:
                    words += " Or the tile is, which can't be shown either."
                self._findings.add(fault, name, words, start, end)
        if not proved:
            return ()
        self._findings.entries += len(right)
        return right

    def _salvage(self, name: str, index: int, width: int) -> list[bytes]:
        """What can still be taken from a bundle that is cut off or has a wrong length in it."""
        try:
            data = self._read(name)
        except NotFound:
            data = self._read(name_entries(index, WIDTH))
        entries: list[bytes] = []
        at = 0
        while at + _LENGTH <= len(data) and len(entries) <= WIDTH:
            end = at + _LENGTH + int.from_bytes(data[at : at + _LENGTH], "big")
            if end > len(data):
                break
            entries.append(data[at + _LENGTH : end])
            at = end
        last = index * WIDTH + width - 1
        if len(entries) > width:
            words = f"{name} holds more than {width} entries."
            self._findings.add(Fault.CUT, name, words, last + 1)
            return entries
        torn = min(index * WIDTH + len(entries), last)
        words = f"{name} ends in the middle of entry {torn}: it was cut off, or the length of an "
        words += "entry was altered."
        self._findings.add(Fault.CUT, name, words, torn, last)
        return entries

    def _read_leaf(self, name: str, index: int, entry: bytes) -> Leaf | None:
        try:
            leaf = read_leaf(entry)
        except Invalid:
            words = f"Entry {index} is in the tree, but none that this version of troth can read."
            self._findings.add(Fault.MISPLACED, name, words, index, index)
            return None
        if leaf.position != index + 1:
            words = f"Entry {index} must be event {index + 1}, and says that it is event "
            words += f"{leaf.position}."
            self._findings.add(Fault.MISPLACED, name, words, index, index)
        before, where = self._latest
        # RFC 3339 with six digits always: in the order of letters. Events of one moment are sealed
        # in the order of their commits, and some have the time of a certificate, in whole seconds.
        if leaf.at < before and leaf.at[:_SECONDS] < _step_back(before):
            words = f"The clock went back, from {before} (entry {where}) to {leaf.at} (entry "
            self._findings.remark(f"{words}{index}).")
        self._latest = (leaf.at, index)
        return leaf

    def _verify_details(
        self, index: int, width: int, leaves: dict[int, Leaf | None]
    ) -> dict[int, bytes]:
        """What lies beside the leaves, of those that it was shown of."""
        name, first = name_details(index, width), index * WIDTH
        findings = self._findings
        try:
            details = _read_parts(self._read, name_details, index, width, split_details)
        except NotFound:
            words = f"{name} is missing."
            findings.add(Fault.MISSING, name, words, first, first + width - 1)
            return {}
        except DamagedTile as error:
            findings.add(Fault.CUT, error.name, error.detail, first, first + width - 1)
            return {}
        except Invalid as error:
            words = f"{name} can't be taken apart. {error.detail}"
            findings.add(Fault.CUT, name, words, first, first + width - 1)
            return {}
        if len(details) != width:
            words = f"{name} holds the details of {len(details)} entries and not of {width}."
            findings.add(Fault.CUT, name, words, first + min(len(details), width))
        right, wrong, emptied = {}, [], []
        for at, leaf in leaves.items():
            if leaf is None or at >= len(details):
                continue
            beside = details[at]
            if not beside:
                if leaf.type.startswith(NEEDED):
                    emptied.append(at)
                else:
                    self._redactions.note_gone(first + at)
            elif sha256(beside).hexdigest() == leaf.detail:  # salt and detail as they lie
                right[at] = beside
                if leaf.type == REDACTED:
                    findings.redacted += self._redactions.explain(leaf, beside)
            else:
                wrong.append(at)
        findings.details += len(right)
        for start, end in group(wrong):
            start, end = first + start, first + end
            words = f"In {name}, what lies beside {describe_run('entry', 'entries', start, end)} "
            words += "isn't what the log commits to: altered."
            findings.add(Fault.ALTERED, name, words, start, end)
        self._tell_emptied(name, first, emptied, "events of this type are never redacted")
        return right


def pick(hashes: bytes | None, number: int) -> bytes | None:
    """Hash `number` of a tile; None where there is none."""
    if hashes is None:
        return None
    return hashes[number * HASH_SIZE : (number + 1) * HASH_SIZE] or None


def _step_back(at: str) -> str:
    """The latest second of which an event that follows one of `at` counts as in order."""
    try:
        return (datetime.fromisoformat(at[:_SECONDS]) - _TOLERANCE).isoformat()
    except (ValueError, OverflowError):
        return at  # no time at all: whatever comes first in the order of letters is told
