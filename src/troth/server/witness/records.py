"""What a witness must not forget: per log the last checkpoint that it cosigned, in a file.

A file appears whole, and is on the disk before anything is answered. Beside them lies evidence:
what logs submitted that doesn't continue what was cosigned before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import msgspec

from troth.archive.place import Folder
from troth.audit.checkpoint import Checkpoint, parse_checkpoint
from troth.audit.cosignature import read_timestamp
from troth.audit.note import Note, VerifierKey, parse_note, render_note, verify_note
from troth.audit.witness import Reason
from troth.core.errors import Invalid, NotFound, Unavailable

MOST_EVIDENCE = 100
"""Files of each reason for one log: anybody can send true checkpoints with wrong proofs."""


@dataclass(frozen=True, slots=True)
class Record:
    """The last checkpoint of a log that was cosigned: `note` with the log's signatures and the
    witness's own; `timestamp` of those, in seconds since 1970."""

    checkpoint: Checkpoint
    note: Note
    timestamp: int


class _Evidence(msgspec.Struct, frozen=True):
    origin: str
    reason: str
    found_at: str
    cosigned: str
    submitted: str


@dataclass(slots=True)
class Records:
    """The files below a folder, which nobody else may write. Its methods block."""

    folder: Path
    keys: tuple[VerifierKey, ...]
    """The witness's own."""
    _place: Folder = field(init=False)
    _kept: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._place = Folder(self.folder)

    def find(self, origin: str) -> Record | None:
        """The record of a log, or None if nothing of it was ever cosigned.

        `Unavailable` if the file is there and isn't what was written: to begin anew would let the
        log begin anew.
        """
        kept = self._kept.get(origin)
        if kept is not None:
            return kept
        name = _name_record(origin)
        try:
            data = self._place.read(name)
        except NotFound:
            return None
        try:
            note = parse_note(data)
            signers = set(verify_note(note, self.keys))
            checkpoint = parse_checkpoint(note.text)
            if checkpoint.origin != origin:
                raise Invalid("it is about another log")
        except Invalid as error:
            raise Unavailable(
                f"{self.folder / name} isn't what this witness wrote there: {error.detail} Nothing "
                "of that log is cosigned until it is. Never restore an old copy of it: make a new "
                "witness, with a folder of its own."
            ) from error
        ids = {(key.name, key.key_id) for key in signers}
        own = [one for one in note.signatures if (one.name, one.key_id) in ids]
        return Record(checkpoint, note, max(map(read_timestamp, own)))

    def is_settled(self, origin: str) -> bool:
        """Whether this process itself has brought the log's record to the disk."""
        return origin in self._kept

    def save(self, record: Record) -> None:
        """Have the record on the disk when this returns; after an error the old one or the new."""
        origin = record.checkpoint.origin
        self._kept.pop(origin, None)
        self._place.write(_name_record(origin), render_note(record.note))
        self._place.settle()
        self._kept[origin] = record

    def read(self, digest: str) -> bytes:
        """The note of a log by the SHA-256 of its origin, in hexadecimal; `NotFound` if there is
        none."""
        return self._place.read(f"logs/{digest}")

    def keep_evidence(self, record: Record, submitted: bytes, reason: Reason, now: datetime) -> str:
        """Keep both sides; where they are, or "" if the same are there, or too many."""
        origin = record.checkpoint.origin
        cosigned = render_note(record.note).decode()
        label = f"{sha256(origin.encode()).hexdigest()[:16]}-{reason.value}"
        told = submitted.partition(b"\n\n")[2].rpartition(b"\n\n")[0]
        digest = sha256(record.note.text.encode() + b"\n" + told).hexdigest()[:16]
        folder, name = self.folder / "evidence", f"{label}-{digest}.json"
        held = sum(1 for _ in folder.glob(f"{label}-*.json")) if folder.is_dir() else 0
        if held >= MOST_EVIDENCE or (folder / name).exists():
            return ""
        found = _Evidence(origin, reason.value, now.isoformat(), cosigned, submitted.decode())
        self._place.write(f"evidence/{name}", msgspec.json.format(msgspec.json.encode(found)))
        self._place.settle()
        return str(folder / name)


def _name_record(origin: str) -> str:
    return f"logs/{sha256(origin.encode()).hexdigest()}"
