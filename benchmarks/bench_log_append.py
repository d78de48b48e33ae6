"""Entries of the log a second, from committed events to a signed checkpoint, on one core, durable.

The events are in the journal, committed in transactions of 256; what is timed is everything after
that: they are sealed, become leaves, tiles, entries and details on disk, and a checkpoint with both
signatures over them is committed and shown. The reference is the same rows inserted into SQLite by
`sqlite3` itself in transactions of 256, without a log, before and after each run on the same core.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.report import print_rates, say
from troth.archive.place import Folder
from troth.archive.tiles import LogFolder
from troth.audit.checkpoint import open_checkpoint
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy
from troth.core.events import Event
from troth.core.ids import TrustDomain
from troth.drivers.keystores.memory import MemoryKeystore
from troth.live.snapshot import INDIFFERENT
from troth.operations.log import WriteLog, read_checkpoint
from troth.operations.logkeys import open_signer
from troth.store.engine import Store, open_store
from troth.store.sealer import Sealer

EVENTS = 100_000
GROUP = 256
RUNS = 5
RATIO = 0.4
LEAST = 50_000.0
"""Entries a second that there must be besides the ratio."""
TYPE = "token.issued"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_events() -> list[Event]:
    """Events such as most are where there are many: an access token was issued."""
    return [
        Event(
            type=TYPE,
            subject=f"spiffe://example.org/service-{number % 1000}",
            actor=f"spiffe://example.org/service-{number % 1000}",
            at=NOW,
            request_id=f"req_{number:020x}",
            body={
                "audience": ["https://orders.example.org"],
                "expires_at": "2026-01-01T00:10:00+00:00",
                "jti": f"{number:032x}",
                "scope": ["orders.read"],
                "source": "10.0.0.1",
            },
        )
        for number in range(EVENTS)
    ]


async def fill(store: Store, events: list[Event]) -> float:
    """Commit them as operations would; seconds of processor time."""
    began = time.process_time()
    for at in range(0, EVENTS, GROUP):
        some = events[at : at + GROUP]
        await store.transact(lambda tx: tx.journal.append_all(some))  # noqa: B023 - awaited here
    return time.process_time() - began


async def measure(folder: Path, events: list[Event]) -> tuple[float, float]:
    """Entries a second from commit to checkpoint, and with the commit itself."""
    clock = SystemClock()
    entropy = SystemEntropy()
    store = open_store(f"sqlite:///{folder}/troth.db", clock=clock, entropy=entropy)
    log = LogFolder(Folder(folder / "log"))
    signer = open_signer(MemoryKeystore(entropy), TrustDomain("example.org"))
    sealer = Sealer(store, clock=clock, holder=store.holder, without=INDIFFERENT, memory=log)
    write = WriteLog(store, clock, log, signer, sealer)
    began = time.perf_counter()
    await fill(store, events)
    committed = time.perf_counter()
    while True:
        sealed = await sealer.seal_batch()
        if sealed is None or not sealed.more:
            break
    await write()
    ended = time.perf_counter()
    checkpoint, _, _ = open_checkpoint(read_checkpoint(log), signer.keys)
    if checkpoint.size != EVENTS or checkpoint.root != log.root:
        raise SystemExit(f"the checkpoint is of {checkpoint.size} entries, not of {EVENTS}")
    store.close()
    return EVENTS / (ended - committed), EVENTS / (ended - began)


def insert_plainly(folder: Path, events: list[Event]) -> float:
    """Rows a second into the same table by `sqlite3`, without a log."""
    store = open_store(f"sqlite:///{folder}/plain.db", clock=SystemClock())
    store.close()
    database = sqlite3.connect(folder / "plain.db", isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    rows = [
        (e.type, e.version, e.subject, e.actor, 0, e.request_id, _BODY % number)
        for number, e in enumerate(events)
    ]
    began = time.perf_counter()
    for at in range(0, EVENTS, GROUP):
        database.execute("BEGIN IMMEDIATE")
        database.executemany(_INSERT, rows[at : at + GROUP])
        database.execute("COMMIT")
    seconds = time.perf_counter() - began
    database.close()
    return EVENTS / seconds


_INSERT = (
    "INSERT INTO journal (type, version, subject, actor, at, request_id, body) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_BODY = (
    '{"audience":["https://orders.example.org"],"expires_at":"2026-01-01T00:10:00+00:00",'
    '"jti":"%032x","scope":["orders.read"],"source":"10.0.0.1"}'
)


def in_folder(run: Callable[[Path], float | tuple[float, float]]) -> float | tuple[float, float]:
    """Run it in a folder of its own, which goes afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-log-") as name:
        return run(Path(name))


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    events = make_events()
    rates, whole, references = [], [], [in_folder(lambda f: insert_plainly(f, events))]
    for run in range(RUNS):
        found = in_folder(lambda f: asyncio.run(measure(f, events)))
        assert isinstance(found, tuple)
        rates.append(found[0])
        whole.append(found[1])
        references.append(in_folder(lambda f: insert_plainly(f, events)))
        say(f"run {run + 1}: {rates[-1]:,.0f} entries/s; plain rows {references[-1]:,.0f}/s")
    print_rates(
        "log-append",
        rates,
        [one for one in references if isinstance(one, float)],
        least=RATIO,
        reference_is="the same rows into the same table by sqlite3 in transactions of 256",
        events=EVENTS,
        least_per_s=LEAST,
        enough=statistics.median(rates) >= LEAST,
        with_the_commit_per_s=round(statistics.median(whole)),
    )


if __name__ == "__main__":
    main()
