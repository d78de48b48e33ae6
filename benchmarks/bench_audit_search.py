"""How long it takes to find something in 10 million decisions of 30 days: what an identity did on a
day, and who touched a resource in the month.

The rows are made by DuckDB itself, and written by the statements that packing uses, a file a day as
after its compaction; so there are as many of them in minutes. Both questions go through the
archive's search, as `troth audit search` and `troth audit touched` ask them, with every block of a
file checked as it is read. The reference, in the same run, is DuckDB alone on the same rows in one
Parquet file in the order in which they came, with its own row groups. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template
from typing import Any

import duckdb

from benchmarks.report import print_result, say
from troth.archive.compaction import Compactor
from troth.archive.decisionrows import COLUMNS, KEPT
from troth.archive.depot import FolderDepot
from troth.archive.engine import Bounds, Engine
from troth.archive.layout import ArchiveFile, Table
from troth.archive.log import DecisionLog
from troth.archive.packing import Packer
from troth.archive.parquet import LAYOUT, Label, Selection, write_parquet
from troth.archive.parquetarchive import ParquetArchive
from troth.archive.record import DecisionRecord
from troth.archive.workshop import Workshop
from troth.audit.query import Query
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS = 30
IDENTITIES, RESOURCES, CALLERS, TEAMS = 10_000, 1_000, 20, 20
ASKED = 60
MOST = 0.2
SERVER = "0badcafe"
HOUR_ROWS = 24
RECORDED, TOGETHER = 50_000, 50
"""Decisions recorded, and how many at once: a server under load has as many waiting."""

STAGED = f"""
    SELECT
        ((n % rows_day) % (rows_day // {HOUR_ROWS} + 1))::INTEGER AS i,
        {int(BEGIN.timestamp()) * 1_000_000} + n * 86400000000 // rows_day
            + (hash(n, 1) % 1000)::BIGINT AS t,
        'dec_' || md5((n * 2)::VARCHAR)[1:24] AS id,
        'req_' || md5((n * 2 + 1)::VARCHAR)[1:24] AS rq,
        'spiffe://example.org/gateway-' || (s % {CALLERS}) AS ca,
        CASE WHEN s % 3 = 0 THEN 'envoy' ELSE 'authzen' END AS po,
        'identity' AS st,
        'service-' || s AS su,
        ['read', 'read', 'read', 'write', 'list'][1 + (hash(n, 2) % 5)::INTEGER] AS ac,
        'r-' || r AS re,
        'record' AS rt,
        'r-' || r AS ri,
        hash(n, 3) % 20 <> 0 AS al,
        ['role:team-' || (s % {TEAMS})] AS pl,
        '' AS rs,
        1234 + n // 100000 AS ep,
        '{{"identity.environment":"prod","trust.score":' || (50 + s % 50)
            || ',"identity.labels.team":"team-' || (s % {TEAMS}) || '","request.ip":"10.1.'
            || (s % 256) || '.' || (hash(n, 4) % 4) || '","request.method":"GET","request.path":'
            || '"/orders/' || (hash(n, 5) % 100000) || '"}}' AS fa,
        NULL::VARCHAR AS ta,
        '10.1.' || (s % 256) || '.' || (hash(n, 4) % 4) AS ip,
        2 AS ai, 1 AS si, NULL::VARCHAR AS raw,
        '{SERVER}' AS server,
        1 + n * {HOUR_ROWS} // rows_day AS segment
    FROM (
        SELECT n, rows_day, s,
            CASE WHEN hash(n, 6) % 10 < 7
                THEN s % {TEAMS} + {TEAMS} * (s // {TEAMS} % 5)
                ELSE (hash(n, 7) % {RESOURCES})::INTEGER END AS r
        FROM (
            SELECT n, (hash(n) % {IDENTITIES})::INTEGER AS s, $rows_day AS rows_day
            FROM range($begin, $end) AS counted(n)
        )
    )
"""
"""Rows as packing stages them: identities that mostly use what is their own."""


def main() -> None:
    """Make the files, ask both, and print one JSON object as the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--millions", type=float, default=10.0)
    count = int(parser.parse_args().millions * 1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="troth-audit-search-"))
    try:
        run(folder, count)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path, count: int) -> None:
    """All of it."""
    a_day = count // DAYS
    began = time.monotonic()
    depot = make_archive(folder, a_day)
    say(f"{count:,} decisions in {time.monotonic() - began:.0f} s, in a file a day")
    began = time.monotonic()
    plain = make_reference(folder, a_day * DAYS)
    say(f"the same in the order of arrival in {time.monotonic() - began:.0f} s")
    size = sum(path.stat().st_size for path in (folder / "archive").rglob("*.parquet"))
    clock = SystemClock()
    log = DecisionLog(folder / "decisions", clock, SystemEntropy(), SERVER)
    archive = ParquetArchive(depot, Engine(depot, Bounds()), clock, log, lambda _: False)
    alone = duckdb.connect(config={"threads": 2})
    alone.execute("SET parquet_metadata_cache = true")
    what = measure_what(archive, alone, plain)
    who = measure_who(archive, alone, plain)
    log.close()
    recording, packing = asyncio.run(measure_recording(folder))
    worse = max(what, who, key=lambda pair: pair[0] / pair[1])
    print_result(
        "audit-search",
        value=worse[0] * 1000,
        unit="ms",
        reference=worse[1] * 1000,
        targets={"ratio": MOST, "bytes_a_decision": 100, "recording_us": 40},
        met=worse[0] / worse[1] <= MOST and size / (a_day * DAYS) <= 100 and recording <= 40,
        digits=2,
        reference_is="DuckDB alone on the same rows in one file in the order of arrival",
        what_ms=round(what[0] * 1000, 2),
        what_reference_ms=round(what[1] * 1000, 2),
        what_ratio=round(what[0] / what[1], 4),
        who_ms=round(who[0] * 1000, 2),
        who_reference_ms=round(who[1] * 1000, 2),
        who_ratio=round(who[0] / who[1], 4),
        decisions=a_day * DAYS,
        bytes_a_decision=round(size / (a_day * DAYS), 1),
        recording_us=round(recording, 1),
        packing_us=round(packing, 1),
    )


def make_archive(folder: Path, a_day: int) -> FolderDepot:
    """A file for each day, with what stands beside it."""
    depot = FolderDepot(folder / "archive")
    work = folder / "archive" / ".work"
    work.mkdir()
    bounds = Bounds(memory=2 << 30, spill=work, seconds=3600)
    workshop = Workshop(depot, Engine(depot, bounds, work), work)
    callers = tuple(sorted(f"spiffe://example.org/gateway-{n}" for n in range(CALLERS)))
    label = Label(LAYOUT, a_day, (), callers)
    with workshop.engine.connect() as link:
        for day in range(DAYS):
            rows = Template(STAGED).substitute(
                rows_day=a_day, begin=day * a_day, end=(day + 1) * a_day
            )
            local = work / f"{day}.parquet"
            select = f"SELECT {COLUMNS} FROM ({rows}) ORDER BY su, t, segment, i"
            write_parquet(link, Selection(Table.DECISIONS, select, []), local, label)
            first = 1 + day * HOUR_ROWS
            file = ArchiveFile(
                Table.DECISIONS, (BEGIN + day * DAY).date(), SERVER, first, first + HOUR_ROWS - 1
            )
            workshop.deliver(link, local, file, label)
    assert Compactor(workshop).roll_month(SERVER, BEGIN.date()) == DAYS
    workshop.engine.close()
    return depot


def make_reference(folder: Path, count: int) -> str:
    """The same rows in one file, as they came."""
    path = folder / "arrival.parquet"
    rows = Template(STAGED).substitute(rows_day=count // DAYS, begin=0, end=count)
    making = duckdb.connect(config={"threads": 2, "memory_limit": "4GB"})
    making.execute(f"COPY (SELECT {COLUMNS} FROM ({rows})) TO '{path}' (FORMAT parquet)")
    making.close()
    return str(path)


def measure_what(
    archive: ParquetArchive, alone: duckdb.DuckDBPyConnection, plain: str
) -> tuple[float, float]:
    """Everything that an identity did on a day."""
    chance = random.Random(1)
    asked = [(chance.randrange(IDENTITIES), chance.randrange(DAYS)) for _ in range(ASKED)]

    def ask(number: int, day: int) -> list[Any]:
        since = BEGIN + day * DAY
        identity = f"spiffe://example.org/service-{number}"
        query = Query(since, since + DAY, identity=identity)
        answer = archive.search(query, 1000, names=(f"service-{number}",))
        assert answer.following is None
        assert not answer.damage
        return [one.id for one in answer.found]

    sql = f"""
        SELECT {KEPT} FROM read_parquet('{plain}')
        WHERE actor."user".uid = ? AND time_dt >= make_timestamptz(?::BIGINT)
            AND time_dt < make_timestamptz(?::BIGINT)
        ORDER BY time_dt DESC
    """

    def ask_alone(number: int, day: int) -> list[Any]:
        since = int((BEGIN + day * DAY).timestamp()) * 1_000_000
        values = [f"service-{number}", since, since + 86_400_000_000]
        return [row[3] for row in alone.execute(sql, values).fetchall()]

    return compare("what an identity did on a day", asked, ask, ask_alone)


def measure_who(
    archive: ParquetArchive, alone: duckdb.DuckDBPyConnection, plain: str
) -> tuple[float, float]:
    """Who touched a resource in the month."""
    chance = random.Random(2)
    asked = [(chance.randrange(RESOURCES),) for _ in range(ASKED)]
    end = BEGIN + DAYS * DAY

    def ask(number: int) -> list[Any]:
        answer = archive.who_touched(f"r-{number}", BEGIN, end, 1_000_000)
        assert not answer.damage
        return sorted((one.subject, one.action, one.outcome, one.times) for one in answer.found)

    sql = f"""
        SELECT actor."user".uid, api.operation, if(status_id = 1, 'success', 'failure'), count(*),
            min(epoch_us(time_dt)), max(epoch_us(time_dt))
        FROM read_parquet('{plain}')
        WHERE resources[1]."name" = ? AND time_dt >= make_timestamptz(?::BIGINT)
            AND time_dt < make_timestamptz(?::BIGINT)
        GROUP BY ALL
    """

    def ask_alone(number: int) -> list[Any]:
        edges = [int(at.timestamp()) * 1_000_000 for at in (BEGIN, end)]
        return sorted(row[:4] for row in alone.execute(sql, [f"r-{number}", *edges]).fetchall())

    return compare("who touched a resource in the month", asked, ask, ask_alone)


async def measure_recording(folder: Path) -> tuple[float, float]:
    """Microseconds of CPU that it takes to record a decision, durable, with `TOGETHER` others at a
    time; and to pack it, in a process of its own."""
    chance = random.Random(3)
    records = [make_record(chance, number) for number in range(RECORDED)]
    log = DecisionLog(folder / "recorded", SystemClock(), SystemEntropy(), SERVER)
    gc.collect()
    start = time.process_time()
    for begin in range(0, RECORDED, TOGETHER):
        await asyncio.gather(*(log.append([one]) for one in records[begin : begin + TOGETHER]))
    recording = time.process_time() - start
    await log.close_segment()
    log.close()
    work = folder / "packed" / ".work"
    work.mkdir(parents=True)
    depot = FolderDepot(folder / "packed")
    workshop = Workshop(depot, Engine(depot, Bounds(spill=work, seconds=600), work), work)
    start = time.process_time()
    packed = Packer(workshop).pack_segment(log.find_path(1))
    packing = time.process_time() - start
    assert packed.rows == RECORDED
    each = (recording / RECORDED * 1e6, packing / RECORDED * 1e6)
    say(f"recorded in {each[0]:.1f} us, packed in {each[1]:.1f} us of CPU")
    return each


def make_record(chance: random.Random, number: int) -> DecisionRecord:
    """A decision as the server records it: random ids, and the facts that its rules read."""
    who, what = chance.randrange(IDENTITIES), chance.randrange(RESOURCES)
    team = who % TEAMS
    return DecisionRecord(
        id=f"dec_{chance.randbytes(12).hex()}",
        at=BEGIN + timedelta(seconds=number / 100),
        request_id=f"req_{chance.randbytes(12).hex()}",
        caller=f"spiffe://example.org/gateway-{who % CALLERS}",
        point="authzen",
        subject_type="identity",
        subject=f"service-{who}",
        action="read",
        resource=f"r-{what}",
        resource_type="record",
        resource_id=f"r-{what}",
        allowed=number % 20 != 0,
        policies=(f"role:team-{team}",),
        reason="",
        epoch=1234,
        facts={
            "identity.environment": "prod",
            "trust.score": 50 + who % 50,
            "identity.labels.team": f"team-{team}",
            "request.ip": f"10.1.{who % 256}.{chance.randrange(4)}",
            "request.method": "GET",
            "request.path": f"/orders/{chance.randrange(100_000)}",
        },
    )


def compare(
    words: str,
    asked: list[Any],
    ask: Callable[..., list[Any]],
    ask_alone: Callable[..., list[Any]],
) -> tuple[float, float]:
    """Medians of both in seconds, in turns; the answers are the same."""
    answered = 0
    for one in asked[:10]:
        found, alone = ask(*one), ask_alone(*one)
        assert found == alone, (one, found[:3], alone[:3])
        answered += bool(found)
    assert answered > 5, answered
    ours, theirs = [], []
    for one in asked:  # files are in the cache, and known to both
        ask(*one)
    for one in asked:
        start = time.perf_counter()
        ask(*one)
        middle = time.perf_counter()
        ask_alone(*one)
        end = time.perf_counter()
        ours.append(middle - start)
        theirs.append(end - middle)
    value, reference = statistics.median(ours), statistics.median(theirs)
    say(f"{words}: {value * 1000:.1f} ms, DuckDB alone {reference * 1000:.1f} ms")
    return value, reference


if __name__ == "__main__":
    main()
    # DuckDB's binding complains of its own objects when the interpreter takes itself apart.
    os._exit(0)
