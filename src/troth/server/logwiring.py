"""How the log is opened and what keeps it: built once, as everything in `troth.server.wiring`."""

from __future__ import annotations

import asyncio

import structlog

from troth.archive.place import open_place
from troth.archive.tiles import DamagedLog, LogFolder
from troth.core.clock import Clock
from troth.operations.log import CompareRows, LogMeter, WriteLog, is_trimmed
from troth.operations.recording import BACKGROUND, record_event
from troth.operations.table import Parts
from troth.server.background import Task
from troth.server.config import Config
from troth.store.engine import Store
from troth.store.sealer import Sealer

COMPARE_SECONDS = 60.0

log = structlog.get_logger(__name__)


async def open_log(config: Config, store: Store, clock: Clock) -> LogFolder:
    """The log's files. What is damaged is written anew from the journal: the edge, or all.

    `DamagedLog` if the journal can't do that, since its old rows were trimmed.
    """
    place = open_place(config.audit.place)
    try:
        return await asyncio.to_thread(LogFolder, place)
    except DamagedLog as error:
        detail = error.detail
        log.error("log.damaged", detail=detail)
    kept = ""
    try:
        found = await asyncio.to_thread(LogFolder, place, cut_back=True)
    except DamagedLog as error:
        if await store.read(is_trimmed):
            raise DamagedLog(
                f"{error.detail} The journal's old rows were trimmed, so it can't be written anew: "
                "put the files back, from another server or a backup."
            ) from error
        kept = await asyncio.to_thread(place.set_aside, f"damaged-{clock.now():%Y%m%dT%H%M%SZ}")
        log.error("log.set_aside", kept=kept)
        found = await asyncio.to_thread(LogFolder, place)
    await store.transact(
        lambda tx: record_event(
            tx, BACKGROUND, "log.damaged", "log", clock.now(), detail=detail, kept=kept
        )
    )
    return found


def list_log_tasks(parts: Parts, config: Config, sealer: Sealer, meter: LogMeter) -> list[Task]:
    """Background work that keeps the log."""
    store, clock = parts.store, parts.clock
    alone = not config.outsiders.witnesses
    return [
        Task(
            "log.write",
            float(config.audit.checkpoint_seconds),
            WriteLog(store, clock, parts.log, parts.signer, sealer, alone, meter),
            quiet=True,
        ),
        Task("log.compare", COMPARE_SECONDS, CompareRows(store, clock, parts.log), quiet=True),
    ]
