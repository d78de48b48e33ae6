"""Decisions to be recorded, and disks that fail when they are told to."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta
from typing import Any

from troth.archive.proof import DecisionProof
from troth.archive.record import DecisionRecord
from troth.archive.writing import Disk
from troth.audit.merkle import hash_leaf, verify_inclusion

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVER = (datetime(1971, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC))


def make_record(number: int = 0, **fields: Any) -> DecisionRecord:
    """A typical decision; each number another one, a second after the one before."""
    values: dict[str, Any] = {
        "id": f"dec_{number:036x}",
        "at": NOON + timedelta(seconds=number, microseconds=7),
        "request_id": f"req_{number:024x}",
        "caller": "spiffe://example.org/gateway",
        "point": "authzen",
        "subject_type": "identity",
        "subject": "spiffe://example.org/payments",
        "action": "orders:read",
        "resource": "orders",
        "resource_type": "order",
        "resource_id": f"o-{number}",
        "allowed": number % 3 != 0,
        "policies": ("role:orders-reader",),
        "reason": "permitted by role orders-reader",
        "epoch": 1234,
        "facts": {"trust.score": 82, "request.ip": "10.1.2.3", "tags": ["a", None, 1.5, True]},
    }
    return DecisionRecord(**values | fields)


def verify_proof(proof: DecisionProof, root: bytes) -> DecisionRecord:
    """The decision, proved to be in the segment with this root; `Invalid` if it isn't."""
    verify_inclusion(hash_leaf(proof.entry), proof.index, proof.size, root, proof.path)
    return proof.record


def make_records(count: int, start: int = 0) -> list[DecisionRecord]:
    """So many of them."""
    return [make_record(number) for number in range(start, start + count)]


class FailingDisk(Disk):
    """Fails as long as it is told to: `full` writes half, `broken_sync` and `broken_truncate`."""

    def __init__(self) -> None:
        self.full = self.broken_sync = self.broken_truncate = False
        self.syncs = 0

    def write(self, handle: int, data: bytes, place: int) -> None:
        if self.full:
            super().write(handle, data[: len(data) // 2], place)
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(handle, data, place)

    def sync(self, handle: int) -> None:
        self.syncs += 1
        if self.broken_sync:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(handle)

    def truncate(self, handle: int, size: int) -> None:
        if self.broken_truncate:
            raise OSError(errno.EIO, "Input/output error")
        super().truncate(handle, size)
