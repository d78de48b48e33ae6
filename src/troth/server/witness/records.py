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
    """By file: what this process itself has brought to the disk."""

    def __post_init__(self) -> None:
        self._place = Folder(self.folder)

    def find(self, origin: str) -> Record | None:
        """The record of a log, or None if nothing of it was ever cosigned.

        `Unavailable` if the file is there and isn't what was written: to begin anew would let the
        log begin anew.
        """
        return self._load(_name_record(origin))

    def show(self, digest: str) -> bytes:
        """The note of a log by the SHA-256 of its origin, in hexadecimal; `NotFound` if there is
        none.

        What is shown is on the disk for good: of what was found there nobody knows whether a
        process before this one came to sync it, so it is written once more.
        """
        record = self._load(f"logs/{digest}")
        if record is None:
            raise NotFound("Nothing of such a log was cosigned here.")
        if not self.is_settled(record.checkpoint.origin):
            self.save(record)
        return render_note(record.note)

    def _load(self, name: str) -> Record | None:
        kept = self._kept.get(name)
        if kept is not None:
            return kept
        try:
            data = self._place.read(name)
        except NotFound:
            return None
        try:
            note = parse_note(data)
            signers = set(verify_note(note, self.keys))
            checkpoint = parse_checkpoint(note.text)
            if _name_record(checkpoint.origin) != name:
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
        return _name_record(origin) in self._kept

    def save(self, record: Record) -> None:
        """Have the record on the disk when this returns; after an error the old one or the new."""
        name = _name_record(record.checkpoint.origin)
        self._kept.pop(name, None)
        self._place.write(name, render_note(record.note))
        self._place.settle()
        self._kept[name] = record

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
