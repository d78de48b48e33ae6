"""Logs in memory, written by the real writer and signed with real keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from troth.archive.tiles import LogFolder
from troth.audit.entry import SALT_SIZE, StoredEvent
from troth.audit.note import VerifierKey
from troth.core.entropy import SeededEntropy
from troth.core.errors import NotFound
from troth.core.ids import TrustDomain
from troth.drivers.keystores.memory import MemoryKeystore
from troth.operations.logkeys import LogSigner, open_signer

SIGNED_AT = datetime(2027, 3, 1, 12, tzinfo=UTC)
FIRST = 1_804_000_000_000_000
"""The first event's time, in microseconds since 1970."""


class MemoryPlace:
    """Files in a dictionary."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = {} if files is None else files

    def read(self, name: str) -> bytes:
        try:
            return self.files[name]
        except KeyError:
            raise NotFound(f"There is no {name}.") from None

    def write(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def add(self, name: str, data: bytes) -> None:
        self.write(name, data)

    def remove(self, name: str) -> None:
        for one in [one for one in self.files if one == name or one.startswith(f"{name}/")]:
            del self.files[one]

    def settle(self) -> None:
        """Nothing is ever lost here."""

    def set_aside(self, suffix: str) -> str:
        self.files.clear()
        return suffix

    def describe(self) -> str:
        return "memory"


@cache
def make_signer(domain: str = "example.org") -> LogSigner:
    """The keys of a log; the same for all tests of a run."""
    return open_signer(MemoryKeystore(SeededEntropy(4)), TrustDomain(domain))


def make_event(position: int, **fields: Any) -> StoredEvent:
    """An event as it lies in the journal; each another one."""
    values: dict[str, Any] = {
        "position": position,
        "type": "token.issued",
        "version": 1,
        "subject": "spiffe://example.org/payments",
        "actor": f"uid:{1000 + position % 7}",
        "at": FIRST + position * 1000,
        "request_id": f"req_{position:024x}",
        "body": f'{{"audience":"ledger","note":"{position}"}}',
        "salt": position.to_bytes(SALT_SIZE, "big"),
        "digest": None,
    }
    return StoredEvent(**(values | fields))


def make_events(count: int, first: int = 1) -> list[StoredEvent]:
    """Events that follow each other."""
    return [make_event(position) for position in range(first, first + count)]


@dataclass
class FakeLog:
    """A log whose files can be spoilt; `read` reads them."""

    files: dict[str, bytes]
    folder: LogFolder
    signer: LogSigner = field(default_factory=make_signer)

    @property
    def size(self) -> int:
        return self.folder.size

    @property
    def root(self) -> bytes:
        return self.folder.root

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        return self.signer.keys

    @property
    def checkpoint(self) -> bytes:
        return self.files["checkpoint"]

    def read(self, name: str) -> bytes:
        try:
            return self.files[name]
        except KeyError:
            raise NotFound(f"{name} isn't there.") from None

    def grow(self, events: Sequence[StoredEvent]) -> None:
        """Append, and sign what there is then."""
        self.folder.append(events)
        self.folder.settle()
        note = self.signer.sign(self.folder.size, self.folder.root, SIGNED_AT).encode()
        self.folder.save("checkpoint", note)
        self.folder.save("vkey", self.signer.render_keys().encode())

    def flip(self, name: str, at: int = 0, bit: int = 0) -> None:
        """Change a bit of a file."""
        data = bytearray(self.files[name])
        data[at] ^= 1 << bit
        self.files[name] = bytes(data)

    def copy(self) -> FakeLog:
        """Another one with the same files."""
        files = dict(self.files)
        return FakeLog(files, LogFolder(MemoryPlace(files)), self.signer)

    def write_to(self, folder: Path) -> Path:
        """The files on a disk."""
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder


def make_log(events: int | Sequence[StoredEvent], signer: LogSigner | None = None) -> FakeLog:
    """A log of so many events, or of these."""
    place = MemoryPlace()
    log = FakeLog(place.files, LogFolder(place), signer or make_signer())
    log.grow(make_events(events) if isinstance(events, int) else events)
    return log


@cache
def show_log(count: int) -> FakeLog:
    """The same log of so many events for all tests of a run: to look at; spoil a `copy`."""
    return make_log(count)
