"""`troth audit verify` with decisions: in segments and in an archive, against the log."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest

from tests.fakes.archivehouse import ArchiveHouse
from tests.fakes.decisions import NOON, make_record, make_records
from tests.fakes.logs import FakeLog, make_event, make_events, make_log, make_signer, show_log
from tests.unit.cli.conftest import Run
from tests.unit.cli.test_audit_verify import list_outcomes, report, write
from troth.archive.engine import locate
from troth.archive.layout import Table
from troth.archive.log import DecisionLog
from troth.archive.parquet import Selection, read_label, write_parquet
from troth.archive.segment import ClosedSegment
from troth.audit.entry import StoredEvent
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy

MISSING = "{} events of the log aren't in the archive: removed, or not packed yet."


@pytest.fixture
def vkey() -> str:
    return make_signer().keys[0].render()


def close_segments(folder: Path, *groups: int) -> list[ClosedSegment]:
    """Segments of so many decisions each."""
    log = DecisionLog(folder, VirtualClock(NOON), SeededEntropy(), "a1b2")

    async def fill() -> list[ClosedSegment]:
        made, start = [], 0
        for size in groups:
            await log.append(make_records(size, start))
            start += size
            closed = await log.close_segment()
            assert closed is not None
            made.append(closed)
        return made

    made = asyncio.run(fill())
    log.close()
    return made


def make_told(closed: list[ClosedSegment]) -> FakeLog:
    """A log that tells of these segments."""
    return make_log(list_told(closed))


def list_told(closed: list[ClosedSegment]) -> list[StoredEvent]:
    """Events that tell of these segments, and others."""
    events = make_events(20)
    for number, one in enumerate(closed):
        body = {
            "server": one.server,
            "segment": one.number,
            "size": one.footer.count,
            "root": one.footer.root.hex(),
        }
        events[10 + number] = make_event(
            11 + number, type="decisions.closed", subject=one.server, body=json.dumps(body)
        )
    return events


@pytest.fixture
def decisions(tmp_path: Path) -> Path:
    return tmp_path / "decisions"


def test_decisions_are_those_that_the_log_tells_of(
    run: Run, tmp_path: Path, decisions: Path, vkey: str
) -> None:
    closed = close_segments(decisions, 7, 5)
    where = write(make_told(closed), tmp_path)
    verify = ["audit", "verify", where, "--key", vkey, "--decisions", str(decisions), "--json"]
    found = report(run(*verify))
    assert found["holds"] is True
    assert "12 decisions in 2 segments" in found["steps"][2]["words"]

    first = decisions / "0000000001.decisions"
    whole = first.read_bytes()
    first.write_bytes(whole.replace(b"orders:read", b"orders:reaD", 1))
    found = report(run(*verify))
    assert list_outcomes(found) == ["shown", "shown", "wrong"]
    assert found["flaws"][0]["name"] == first.name
    first.unlink()
    found = report(run(*verify))
    assert found["holds"] is True
    assert "Segment 1 of server a1b2 isn't there" in found["remarks"][0]
    assert run(*verify, "--from", "3").exit_code == 2


def test_a_segment_that_was_rewritten_as_a_whole(
    run: Run, tmp_path: Path, decisions: Path, vkey: str
) -> None:
    where = write(make_told(close_segments(tmp_path / "other", 6)), tmp_path)
    close_segments(decisions, 7)
    verify = ["audit", "verify", where, "--key", vkey, "--decisions", str(decisions), "--json"]
    found = report(run(*verify))
    assert [flaw["fault"] for flaw in found["flaws"]] == ["altered"]
    assert "rewritten" in found["flaws"][0]["detail"]
    write(show_log(20), tmp_path)
    found = report(run(*verify))
    assert [flaw["fault"] for flaw in found["flaws"]] == ["unproved"]


def test_decisions_without_the_logs_details(
    run: Run, tmp_path: Path, decisions: Path, vkey: str
) -> None:
    where = write(make_told(close_segments(decisions, 7)), tmp_path)
    options = ["--key", vkey, "--decisions", str(decisions), "--no-details", "--json"]
    result = run("audit", "verify", where, *options)
    assert result.exit_code == 1
    assert list_outcomes(report(result)) == ["shown", "shown", "absent", "open"]


# The archive


def pack(tmp_path: Path, *groups: int) -> tuple[ArchiveHouse, list[ClosedSegment]]:
    """An archive of segments of so many decisions each, and what the log is told of them."""
    house = ArchiveHouse(tmp_path)

    async def fill() -> list[ClosedSegment]:
        made, start = [], 0
        for size in groups:
            await house.log.append(make_records(size, start))
            start += size
            closed = await house.log.close_segment()
            assert closed is not None
            house.pack(closed.number)
            made.append(closed)
        return made

    made = asyncio.run(fill())
    house.compact()
    house.close()
    return house, made


def test_what_the_archive_has_leads_to_the_roots_in_the_log(
    run: Run, tmp_path: Path, vkey: str
) -> None:
    house, closed = pack(tmp_path, 40, 1, 25)
    where = write(make_told(closed), tmp_path)
    verify = ["audit", "verify", where, "--key", vkey, "--archive", str(house.root), "--json"]
    result = run(*verify)
    found = report(result)
    assert result.exit_code == 0, result.output
    assert "66 decisions in 3 segments of the archive" in found["steps"][2]["words"]
    assert found["remarks"] == [MISSING.format(20)]
    (file,) = house.list_paths()
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    result = run(*verify)
    assert result.exit_code == 1
    assert file.name in str(report(result)["flaws"])
    assert run(*verify[:-2], str(tmp_path / "nowhere")).exit_code == 2


def test_an_archive_of_other_decisions_is_not_that_of_the_log(
    run: Run, tmp_path: Path, vkey: str
) -> None:
    house, closed = pack(tmp_path / "one", 40, 3)
    _, other = pack(tmp_path / "other", 41)
    where = write(make_told(other), tmp_path)
    verify = ["audit", "verify", where, "--key", vkey, "--archive", str(house.root), "--json"]
    found = report(run(*verify))
    assert [flaw["fault"] for flaw in found["flaws"]] == ["altered", "unproved"]
    assert "rewritten" in found["flaws"][0]["detail"]
    assert closed[0].footer.root != other[0].footer.root


def test_what_the_archive_says_besides_is_held_against_the_records(
    run: Run, tmp_path: Path, vkey: str
) -> None:
    house, closed = pack(tmp_path, 9)
    where = write(make_told(closed), tmp_path)
    verify = ["audit", "verify", where, "--key", vkey, "--archive", str(house.root), "--json"]
    (ids,) = house.list_paths(Table.IDS)
    other, _ = pack(tmp_path / "other", 12)
    ids.write_bytes(other.list_paths(Table.IDS)[0].read_bytes())
    result = run(*verify)
    assert result.exit_code == 1
    found = report(result)
    assert [(one["fault"], one["name"][:4]) for one in found["flaws"]] == [("altered", "ids/")]
    assert list_outcomes(found)[2] == "wrong"


def test_a_segment_of_which_a_day_was_removed_is_noted_and_nothing_else_is_excused(
    run: Run, tmp_path: Path, vkey: str
) -> None:
    house = ArchiveHouse(tmp_path)
    records = [make_record(n, at=NOON + timedelta(hours=8 * n)) for n in range(6)]

    async def fill() -> ClosedSegment:
        await house.log.append(records)
        closed = await house.log.close_segment()
        assert closed is not None
        house.pack(closed.number)
        return closed

    closed = asyncio.run(fill())
    house.close()
    log = make_told([closed])
    files = house.list_files()
    verify = ["audit", "verify", write(log, tmp_path), "--key", vkey, "--archive", str(house.root)]
    for file in (files[0], files[-1]):
        path = house.root / file.name
        away = path.rename(tmp_path / "away")
        (flaw,) = report(run(*verify, "--json"))["flaws"]
        assert "is missing" in flaw["detail"]
        body = {"table": "decisions", "segments": [{"server": closed.server, "segment": 1}]}
        told = make_event(21, type="archive.removed", body=json.dumps(body))
        write(make_log([*list_told([closed]), told]), tmp_path)
        found = report(run(*verify, "--json"))
        assert found["flaws"] == []
        assert "What is left of segment 1" in found["remarks"][0]
        assert "0 decisions" in found["steps"][2]["words"]
        write(log, tmp_path)
        away.rename(path)


# The archive's events

UNMAPPED = (
    "{{event_version: unmapped.event_version, body: {body}, commitment: {commitment}, "
    "redacted: unmapped.redacted}} AS unmapped"
)


def make_logged(tmp_path: Path) -> tuple[ArchiveHouse, list[str], FakeLog]:
    """An archive of two days of events, how to verify it, and the log that has them and more."""
    day = 86_400_000_000
    events = [one._replace(at=one.at + day * (one.position > 30)) for one in make_events(50)]
    events[7] = events[7]._replace(type="token.refused")
    log = make_log(events)
    house = ArchiveHouse(tmp_path)
    for first in range(0, 45, 15):
        house.pack_events(events[first : first + 15])
    house.compact(Table.EVENTS)
    house.close()
    vkey = make_signer().keys[0].render()
    archive = ["--archive", str(house.root), "--json"]
    return house, ["audit", "verify", write(log, tmp_path), "--key", vkey, *archive], log


def forge_event(house: ArchiveHouse, column: str, where: str = 'metadata."sequence" = 12') -> None:
    """Say something else in a row of the first file, with checksums that are right."""
    file = house.list_files(Table.EVENTS)[0]
    sql = (
        "WITH a AS (SELECT * FROM read_parquet(?, hive_partitioning = false)) "
        f"SELECT * REPLACE ({column}) FROM a WHERE {where} "
        f"UNION ALL SELECT * FROM a WHERE NOT ({where})"
    )
    with house.workshop.engine.connect() as link:
        label, local = read_label(link, file), house.workshop.work / "forged.parquet"
        write_parquet(link, Selection(Table.EVENTS, sql, [locate([file])]), local, label)
    house.depot.put(local, file)
    house.workshop.engine.close()


def test_archived_events_are_those_of_the_log(run: Run, tmp_path: Path) -> None:
    _, verify, _ = make_logged(tmp_path)
    result = run(*verify)
    assert result.exit_code == 0, result.output
    remarks = report(result)["remarks"]
    assert remarks == [MISSING.format(5)]
    remarks = report(run(*verify, "--no-details"))["remarks"]
    assert remarks[0].startswith("Of 45 events in the archive it can't be told who did what")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("{uid: 'spiffe://example.org/other'} AS entity", "Event 12 doesn't say what the log"),
        ("make_timestamptz(epoch_us(time_dt) + 1) AS time_dt", "Event 12 isn't the one that"),
        ("2::INTEGER AS status_id", "Rows say something else than their events: 12."),
        ("9::INTEGER AS severity_id", "Rows say something else than their events: 12."),
        (UNMAPPED.format(body="NULL::VARCHAR", commitment="unmapped.commitment"), "no content"),
        (UNMAPPED.format(body="'['", commitment="unmapped.commitment"), "doesn't say what the log"),
        (UNMAPPED.format(body="unmapped.body", commitment="NULL::BLOB"), "isn't the one that"),
    ],
)
def test_an_archived_event_that_was_altered_is_named(
    run: Run, tmp_path: Path, column: str, words: str
) -> None:
    house, verify, _ = make_logged(tmp_path)
    forge_event(house, column)
    result = run(*verify)
    assert result.exit_code == 1
    (flaw,) = report(result)["flaws"]
    assert flaw["fault"] == "altered"
    assert words in flaw["detail"]
    assert list_outcomes(report(result))[2] == "wrong"


def test_archived_events_that_are_missing_or_of_no_log_are_named(run: Run, tmp_path: Path) -> None:
    house, verify, _ = make_logged(tmp_path)
    place = "struct_pack({}) AS metadata".format(
        ", ".join(
            f'"{name}" := {"99::BIGINT" if name == "sequence" else f"metadata.{name}"}'
            for name in (
                *("version", "sequence", "correlation_uid", "event_code"),
                *("log_name", "product", "profiles"),
            )
        )
    )
    forge_event(house, place, 'metadata."sequence" = 30')
    (flaw,) = report(run(*verify))["flaws"]
    assert "The log doesn't tell of event 99" in flaw["detail"]
    forge_event(house, place, 'metadata."sequence" = 12')
    (flaw,) = report(run(*verify))["flaws"]
    assert "Before event 13 one is missing" in flaw["detail"]
