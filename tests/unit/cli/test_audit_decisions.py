"""`troth audit verify` with decisions: in segments and in an archive, against the log."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.fakes.archivehouse import ArchiveHouse
from tests.fakes.decisions import NOON, make_records
from tests.fakes.logs import FakeLog, make_event, make_events, make_log, make_signer, show_log
from tests.unit.cli.conftest import Run
from tests.unit.cli.test_audit_verify import list_outcomes, report, write
from troth.archive.layout import Table
from troth.archive.log import DecisionLog
from troth.archive.segment import ClosedSegment
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy


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
    return make_log(events)


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
    assert not found["remarks"]
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
