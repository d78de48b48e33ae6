"""The log after kills: each checkpoint continues the one before, and at the end it holds it all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tests.soak.audit import demand
from tests.soak.records import Records
from troth.archive.place import Folder
from troth.archive.tiles import CHECKPOINT, KEYS, LogFolder
from troth.audit.checkpoint import Checkpoint, open_checkpoint
from troth.audit.continuity import verify_growth
from troth.audit.entry import StoredEvent, render_entry
from troth.audit.note import VerifierKey, parse_vkey
from troth.audit.verification import verify_log
from troth.core.errors import NotFound, TrothError

PATIENCE = 30.0
_HEAD = "select coalesce(max(position), 0) from journal"
_ROWS = (
    "select position, type, version, subject, actor, at, request_id, body, salt, digest "
    "from journal where position is not null order by position"
)


class LogAudit:
    """What was seen of the servers' log, by whoever remembers it. Each has files of its own."""

    def __init__(self) -> None:
        self._seen: dict[Path, Checkpoint] = {}
        self._keys: list[VerifierKey] = []
        self.looks = 0
        self.entries = 0

    def look(self, data: Path) -> None:
        """That the log in a server's data directory continues what was seen there."""
        found = self._read_checkpoint(data)
        if found is None:
            return
        seen = self._seen.get(data, found)
        try:
            verify_growth(Folder(data / "log").read, seen, found)
        except TrothError as error:
            demand(False, f"the log of {data.name} doesn't continue: {error.detail}")
        self._seen[data] = found
        self.looks += 1

    def wait_complete(self, data: Sequence[Path], records: Records) -> None:
        """Until every server has published all that is in the journal, which nobody adds to."""
        deadline = time.monotonic() + PATIENCE
        for one in data:
            while True:
                found, ((head,),) = self._read_checkpoint(one), records.rows(_HEAD)
                if found is not None and found.size >= head:
                    break
                size = found.size if found else 0
                demand(time.monotonic() < deadline, f"{one.name} has {size} entries of {head}")
                time.sleep(0.2)

    def conclude(self, data: Sequence[Path], records: Records) -> None:
        """That all files are whole, the same, and what the journal says."""
        rows = records.rows(_ROWS)
        roots = {}
        for one in data:
            self.look(one)
            folder = LogFolder(Folder(one / "log"))
            found = self._seen[one]
            findings = verify_log(folder.read, found.size, found.root)
            demand(findings.intact, f"the log of {one.name} is damaged: {findings.flaws}")
            entries = dict(folder.list_entries(0, folder.size))
            for row in rows[: folder.size]:
                event = StoredEvent._make(bytes(v) if isinstance(v, memoryview) else v for v in row)
                demand(
                    render_entry(event)[0] == entries.get(event.position),
                    f"{one.name} has another entry than the journal at {event.position}",
                )
            self.entries = folder.size
            roots[one] = folder.size
        least = min(roots.values())
        different = {LogFolder(Folder(one / "log")).compute_root(least) for one in data}
        demand(len(different) == 1, f"{len(different)} histories at {least} entries")

    def _read_checkpoint(self, data: Path) -> Checkpoint | None:
        folder = Folder(data / "log")
        try:
            keys = [parse_vkey(line) for line in folder.read(KEYS).decode().splitlines()]
            note = folder.read(CHECKPOINT)
        except NotFound:
            return None
        self._keys = self._keys or keys
        demand(self._keys == keys, "the log's keys changed")
        found, _, signers = open_checkpoint(note, keys)
        demand(set(signers) == set(keys), "a key didn't sign a checkpoint")
        return found
