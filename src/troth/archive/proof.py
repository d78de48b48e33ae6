"""Proofs that a decision is in a closed segment: the entry, and its path to the segment's root.

The root stands in the journal's event ``decisions.closed``, and from there in the journal's own
log. Whoever holds that root needs nothing of ours to check a proof: SHA-256 and RFC 6962 do.
"""

from __future__ import annotations

from dataclasses import dataclass

from troth.archive.record import DecisionRecord, decode_record
from troth.archive.segment import RECORD, Damage, DamagedSegment, Segment
from troth.audit.merkle import compute_root, hash_leaf, make_path
from troth.core.errors import NotFound, Refused


@dataclass(frozen=True, slots=True)
class DecisionProof:
    """An entry of a segment with `size` records, and the hashes beside its way to the root."""

    server: str
    segment: int
    index: int
    size: int
    entry: bytes
    path: tuple[bytes, ...]

    @property
    def record(self) -> DecisionRecord:
        """The decision; trust it once its path leads to a root that is known."""
        return decode_record(self.entry)


def prove_decision(segment: Segment, decision: str, end: int | None) -> DecisionProof | None:
    """That the decision with this id is in `segment`; None if it isn't.

    `end` is given for an open segment: then `Refused`, if it is there.
    """
    needle = decision.encode()
    index = -1
    for found in segment.walk(end):
        if isinstance(found, Damage) or found.kind != RECORD:
            continue
        index += 1
        if needle in found.payload and decode_record(found.payload).id == decision:
            if end is not None:
                raise Refused(
                    "The decision is recorded, and can be proved once its segment is closed: ask "
                    "again within the hour."
                )
            return make_proof(segment, index)
    return None


def find_record(segment: Segment, decision: str, end: int | None) -> DecisionRecord | None:
    """The decision with this id, if it is in `segment`, proved or not."""
    needle = decision.encode()
    for found in segment.walk(end):
        if isinstance(found, Damage) or found.kind != RECORD or needle not in found.payload:
            continue
        record = decode_record(found.payload)
        if record.id == decision:
            return record
    return None


def make_proof(segment: Segment, index: int) -> DecisionProof:
    """The proof for record `index`, from 0 on; `NotFound` if there is none.

    Raises `DamagedSegment` if the file isn't any more what its footer says, and `Refused` if it has
    none. Holds 32 bytes for each record.
    """
    footer = segment.footer
    if footer is None:
        raise Refused(f"{segment.path} isn't closed: nothing in it can be proved yet.")
    leaves: list[bytes] = []
    entry = None
    for found in segment.walk():
        if isinstance(found, Damage) or found.kind != RECORD:
            continue
        if len(leaves) == index:
            entry = found.payload
        leaves.append(hash_leaf(found.payload))
    if entry is None:
        raise NotFound(f"Segment {segment.header.number} has no record {index}.")
    path = make_path(leaves, index)
    if compute_root(leaves[index], index, len(leaves), path) != footer.root:
        raise DamagedSegment(
            f"{segment.path} is damaged: its records don't lead to the root in its footer. Restore "
            "it from a backup."
        )
    name, number = segment.header.server, segment.header.number
    return DecisionProof(name, number, index, len(leaves), entry, path)
