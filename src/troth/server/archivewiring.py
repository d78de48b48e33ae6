"""How the archive is opened and filled: built once, as everything in `troth.server.wiring`."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from pathlib import Path

from troth.archive.depot import Depot, open_depot
from troth.archive.engine import Bounds, Engine
from troth.archive.foreman import Foreman
from troth.archive.log import DecisionLog
from troth.archive.parquetarchive import ParquetArchive
from troth.audit.redaction import REDACTED
from troth.core.clock import Clock
from troth.operations.decisionlog import CloseSegments, RemoveSegments
from troth.operations.decisionsource import find_oldest_needed
from troth.operations.packing import PackArchive, name_cursor
from troth.operations.redaction import FollowRedactions
from troth.operations.retention import RemoveDays
from troth.operations.sinking import find_needed
from troth.operations.table import Parts
from troth.operations.trimming import TrimJournal
from troth.server.background import Task
from troth.server.config import Config
from troth.store.engine import Store

PACK_SECONDS = 60.0


async def open_archive_depot(config: Config) -> Depot:
    """Where the archive's files lie."""
    return await asyncio.to_thread(open_depot, config.archive.place)


async def open_archive(
    config: Config, store: Store, clock: Clock, depot: Depot, decisions: DecisionLog
) -> ParquetArchive:
    """The archive, and how far events are in it."""
    settings = config.archive
    bounds = Bounds(memory=settings.search_memory_mb << 20, seconds=settings.search_seconds)
    foreman = _employ(config)
    engine = Engine(depot, bounds)
    archive = ParquetArchive(depot, engine, clock, decisions, foreman.redact_event)
    cursor = name_cursor(find_scope(config, store, decisions))
    archive.know_events(await store.read(lambda tx: tx.cursors.get(cursor)))
    return archive


def find_scope(config: Config, store: Store, decisions: DecisionLog) -> str:
    """Which of the archives of all servers on the database this one is: "" if they share it, or if
    there is one server; else each has a folder of its own, with all events in it."""
    return "" if "://" in config.archive.place or not store.shared else decisions.server


def list_archive_tasks(
    parts: Parts, config: Config, depot: Depot, archive: ParquetArchive
) -> list[Task]:
    """Background work that closes segments, packs them, and removes what is too old."""
    store, clock, decisions = parts.store, parts.clock, parts.decisions
    scope = find_scope(config, store, decisions)
    foreman = _employ(config)
    pack = PackArchive(store, clock, decisions, depot, foreman, archive, scope)
    sinks = [sink.name for sink in config.sinks if sink.decisions]
    needed = partial(find_oldest_needed, server=decisions.server, sinks=sinks)
    kept = timedelta(days=config.decisions.keep_days)
    days = timedelta(days=config.archive.keep_days)
    return [
        Task("decisions.close", 30.0, CloseSegments(store, clock, decisions)),
        Task(
            "decisions.remove",
            600.0,
            RemoveSegments(store, clock, decisions, kept, needed),
            irreversible=True,
        ),
        Task("archive.pack", PACK_SECONDS, pack, wakes=("decisions.closed",)),
        Task(
            "archive.redact",
            300.0,
            FollowRedactions(store, archive, scope),
            wakes=(REDACTED,),
        ),
        Task(
            "journal.trim",
            3600.0,
            TrimJournal(
                store,
                clock,
                parts.log,
                lambda tx: tx.cursors.get(name_cursor(scope)),
                timedelta(days=config.audit.database_days),
                partial(find_needed, sinks=[sink.name for sink in config.sinks]),
                shared_place="://" in config.audit.place and "://" in config.archive.place,
            ),
            irreversible=True,
        ),
        Task(
            "archive.remove",
            3600.0,
            RemoveDays(store, clock, depot, foreman, scope, days),
            wakes=("hold.released",),
            irreversible=True,
        ),
    ]


def _employ(config: Config) -> Foreman:
    where = config.archive.place.removeprefix("file://")
    root = config.data / "archive" if "://" in where else Path(where)
    return Foreman(where, str(root / ".work"), config.archive.pack_memory_mb << 20)
