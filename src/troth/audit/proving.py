"""Evidence from the files of a log: what `verify_bundle` checks is put together here."""

from __future__ import annotations

from dataclasses import replace

from troth.audit.bundle import SEGMENT_CLOSED, Bundle, DecisionEvidence
from troth.audit.checkpoint import parse_checkpoint
from troth.audit.contents import read_details, read_entries
from troth.audit.entry import Detail, open_detail, read_leaf
from troth.audit.merkle import hash_leaf, verify_inclusion
from troth.audit.note import parse_note
from troth.audit.proof import LogProof
from troth.audit.tile import WIDTH, DamagedTile, Read, measure_width, name_entries, prove_inclusion
from troth.core.errors import Invalid, NotFound, Refused


def prove_entry(read: Read, note: bytes, position: int) -> Bundle:
    """The evidence for the event at `position`, from 1 on, under the checkpoint in `note`.

    The note's signature isn't looked at: whoever receives the bundle does. `NotFound` if the
    checkpoint doesn't reach so far, `DamagedTile` if the files don't lead to its root. Without
    details among the files the bundle has none.
    """
    checkpoint = parse_checkpoint(parse_note(note).text)
    index, size = position - 1, checkpoint.size
    if not 0 <= index < size:
        raise NotFound(
            f"There is no event {position} in the log: its checkpoint has {size}. What happened a "
            "moment ago is in the next one."
        )
    number, at = divmod(index, WIDTH)
    width = measure_width(size, 0, number)
    try:
        entry = read_entries(read, number, width)[at]
        path = prove_inclusion(read, index, size)
        verify_inclusion(hash_leaf(entry), index, size, checkpoint.root, path)
    except Invalid as error:
        raise DamagedTile(
            name_entries(number, width),
            f"Event {position} can't be proved: a file of the log is damaged. Run `troth audit "
            f"verify` to see which. {error.detail}",
        ) from error
    try:
        beside = read_details(read, number, width)[at]
    except NotFound:
        beside = b""
    return Bundle(entry, beside, LogProof(index, path, note))


def add_decision(bundle: Bundle, decision: DecisionEvidence) -> Bundle:
    """The same bundle with a decision of the segment that its event tells of."""
    return replace(bundle, decision=decision)


def read_closed(detail: Detail | None) -> tuple[str, int, int, str] | None:
    """Server, segment, number of decisions and root in an event's detail; None if it has none."""
    if detail is None:
        return None
    server, segment, size, root = map(detail.body.get, ("server", "segment", "size", "root"))
    named = isinstance(server, str) and isinstance(root, str)
    if not (named and isinstance(segment, int) and isinstance(size, int)):
        return None
    return str(server), segment, size, str(root)


def find_closed(read: Read, size: int, server: str, segment: int) -> int:
    """The position of the event that tells of a segment's end, the newest entries first.

    `Refused` if the log of `size` entries doesn't tell of it. Reads entries until it is found."""
    for index in reversed(range(-(-size // WIDTH))):
        entries = read_entries(read, index, measure_width(size, 0, index))
        if not any(SEGMENT_CLOSED.encode() in entry for entry in entries):
            continue
        details = read_details(read, index, len(entries))
        for entry, beside in zip(entries, details, strict=True):
            leaf = read_leaf(entry)
            if leaf.type != SEGMENT_CLOSED or not beside:
                continue
            told = read_closed(open_detail(leaf, beside))
            if told is not None and told[:2] == (server, segment):
                return leaf.position
    raise Refused(
        f"The log doesn't tell yet of segment {segment} of server {server}: ask again once the "
        "next checkpoint is published."
    )
