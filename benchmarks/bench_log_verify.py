"""Entries of a log verified a second, from its files: ours, and PyPI's `aics-tlog` on the same.

Both read the same files from the same folder and do the same work: the right edge against the root,
each full tile against the one above it, each entry against its leaf hash. Ours would name every
damaged place and go on; theirs ends at the first. The runs alternate on one core, and both must
refuse a flipped byte. Besides, ours is measured with what only it looks at: that the entries are
events in their order, and that the details beside them are those that they commit to.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import aics_tlog

from benchmarks.report import print_rates, say
from troth.archive.place import Folder
from troth.archive.tiles import LogFolder
from troth.audit.entry import SALT_SIZE, StoredEvent
from troth.audit.verification import Scope, verify_log
from troth.cli.logsource import FolderSource

ENTRIES = 200_000
RUNS = 9
RATIO = 1.0
FIRST = 1_790_000_000_000_000
FLIPPED = "tile/entries/002"

PLAIN = Scope(leaves=False, details=False)
LEAVES = Scope(details=False)
ALL = Scope()


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=ENTRIES, help="fewer, for a quick look")
    count = parser.parse_args().entries
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        root = write_log(path, count)
        say(f"{count} entries in {sum(one.is_file() for one in path.rglob('*'))} files")
        plain, theirs, leaves, everything = [], [], [], []
        for _ in range(RUNS):
            plain.append(measure(count, lambda: verify(path, count, root, PLAIN)))
            theirs.append(measure(count, lambda: audit(path, count, root)))
            leaves.append(measure(count, lambda: verify(path, count, root, LEAVES)))
            everything.append(measure(count, lambda: verify(path, count, root, ALL)))
            say(f"{plain[-1]:,.0f} /s, aics-tlog {theirs[-1]:,.0f} /s")
        refuse_flipped(path, count, root)
    print_rates(
        "log-verify",
        plain,
        theirs,
        least=RATIO,
        entries=count,
        reference_is=f"aics_tlog.audit_tiles {aics_tlog.__version__}, same files, runs alternate",
        work="every tile and every entry bundle against the root, from a folder, on one core",
        with_events_in_order=round(statistics.median(leaves), 1),
        with_details_too=round(statistics.median(everything), 1),
    )


def write_log(path: Path, count: int) -> bytes:
    """A log as a server writes it, of events such as most are; its root."""
    log = LogFolder(Folder(path))
    for start in range(0, count, 10_000):
        log.append([make_event(number) for number in range(start, min(start + 10_000, count))])
    log.settle()
    return log.root


def make_event(number: int) -> StoredEvent:
    """An access token was issued."""
    return StoredEvent(
        position=number + 1,
        type="token.issued",
        version=1,
        subject=f"spiffe://example.org/service-{number % 1000}",
        actor=f"spiffe://example.org/service-{number % 1000}",
        at=FIRST + number * 1000,
        request_id=f"req_{number:020x}",
        body='{"audience":["https://orders.example.org"],"expires_at":"2026-01-01T00:10:00+00:00",'
        f'"jti":"{number:032x}","scope":["orders.read"],"source":"10.0.0.1"}}',
        salt=number.to_bytes(SALT_SIZE, "big"),
        digest=None,
    )


def verify(path: Path, count: int, root: bytes, scope: Scope) -> None:
    """Ours; an error unless all of it holds."""
    found = verify_log(FolderSource(path).read, count, root, scope)
    if not found.intact or found.entries != count:
        raise SystemExit(f"our verifier found {found.flaw_count} flaws and {found.entries} entries")


def audit(path: Path, count: int, root: bytes) -> None:
    """Theirs."""
    aics_tlog.audit_tiles(aics_tlog.FileSystemTileReader(path), count, root)


def measure(count: int, work: Callable[[], None]) -> float:
    """How many entries a second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def refuse_flipped(path: Path, count: int, root: bytes) -> None:
    """A verifier that accepts anything is the fastest."""
    file = path / FLIPPED
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    found = verify_log(FolderSource(path).read, count, root, PLAIN)
    if [flaw.name for flaw in found.flaws] != [FLIPPED]:
        raise SystemExit("our verifier didn't find the flipped byte")
    try:
        audit(path, count, root)
    except aics_tlog.TileVerificationError:
        return
    raise SystemExit("aics-tlog didn't find the flipped byte")


if __name__ == "__main__":
    main()
