"""`troth audit search`, `tail`, `trace`, `who` and `export`, against a server in memory."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from tests.fakes.api import FakeApi
from tests.fakes.ocsf import list_faults
from tests.fakes.views import make_status
from tests.unit.cli.conftest import Run
from troth.cli import following
from troth.cli.audit_export import COLUMNS, FORMULAS, defuse_cell
from troth.cli.words import parse_past
from troth.core.errors import Invalid
from troth.wire.api import auditsearch as wire
from troth.wire.api.nodes import Heartbeat, StreamEnd

AT = datetime(2027, 6, 30, 12, 0, 0, 123456, tzinfo=UTC)
SINCE = AT - timedelta(days=1)


def make_record(number: int = 1, **fields: Any) -> wire.Record:
    values: dict[str, Any] = {
        "kind": "event",
        "id": str(number),
        "at": AT - timedelta(seconds=number),
        "action": "identity.quarantined",
        "outcome": "success",
        "actor": "uid:0",
        "subject": "spiffe://example.org/payments",
        "resource": "",
        "request_id": "req_1",
        "source": "192.0.2.1:7",
        "reason": 'it "scans", says Zoë',
        "task": "",
        "detail": {"reason": "it scans", "name": "payments"},
    }
    return wire.Record(**values | fields)


DECISION = make_record(
    2,
    kind="decision",
    id="dec_1",
    action="read",
    outcome="failure",
    actor="spiffe://example.org/ledger",
    subject="payments",
    resource="ledger",
    reason="no rule permits it",
    detail={"subject_type": "identity", "policies": []},
)


def make_page(*records: wire.Record, following: str | None = None, **more: Any) -> wire.AuditPage:
    return wire.AuditPage(items=list(records), next=following, since=SINCE, until=AT, **more)


def test_a_search_shows_who_what_when_and_why(api: FakeApi, run: Run) -> None:
    api.answers["audit.search"] = make_page(
        make_record(), DECISION, following="abc", notes=["A file is damaged."]
    )
    result = run(
        *("audit", "search", "--identity", "payments", "--outcome", "failure"),
        *("--since", "2027-06-01", "--request", "req_1", "--kind", "decision", "--text", "x"),
    )
    assert result.exit_code == 0
    for word in ("identity.quarantined", "uid:0", "payments", "Zoë", "no rule permits it", "dec_1"):
        assert word in result.stdout
    assert "--after abc" in result.stderr
    assert "A file is damaged." in result.stderr
    (asked,) = api.named("audit.search")
    assert (asked.identity, asked.outcome, asked.kind) == ("payments", "failure", "decision")
    assert (asked.request_id, asked.text) == ("req_1", "x")
    assert asked.since == datetime(2027, 6, 1, tzinfo=UTC)
    assert json.loads(run("audit", "search", "--json").stdout)["next"] == "abc"


def test_nothing_found_says_how_to_widen(api: FakeApi, run: Run) -> None:
    api.answers["audit.search"] = make_page()
    result = run("audit", "search", "--resource", "ledger", "--action", "token.issued")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "from 2027-06-29 12:00 UTC to now" in result.stderr
    assert "--since 30d, or leave out one of --resource, --action." in result.stderr
    assert "--action token." in result.stderr
    assert json.loads(run("audit", "search", "--json").stdout)["items"] == []


def test_ocsf_is_a_valid_event_a_line(api: FakeApi, run: Run) -> None:
    api.answers["audit.search"] = make_page(make_record(), DECISION)
    api.answers["status.show"] = make_status()
    result = run("audit", "search", "--ocsf")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["class_uid"] for one in events] == [3001, 6003]
    assert [list_faults(one) for one in events] == [[], []]
    assert events[0]["metadata"]["tenant_uid"] == make_status().trust_domain


@pytest.mark.parametrize(
    "words",
    [
        ["search", "--since", "soon"],
        ["search", "--limit", "0"],
        ["search", "--identity", "x" * 65_536],
        ["search", "--outcome", "maybe"],
        ["tail", "--position", "-1"],
        ["trace", ""],
        ["trace", "x" * 129],
        ["who", "ledger", "--at", "someday"],
        ["export", "--format", "xml", "-o", "x"],
        ["export", "--format", "parquet", "-o", "-"],
        ["export", "--format", "csv", "--ocsf", "-o", "x"],
        ["export", "--format", "csv"],
    ],
)
def test_wrong_usage(words: list[str], api: FakeApi, run: Run) -> None:
    assert run("audit", *words).exit_code == 2
    assert api.requests == []


def test_times_of_the_past() -> None:
    now = datetime(2027, 6, 30, 12, 5, tzinfo=UTC)
    midnight = datetime(2027, 6, 30, tzinfo=UTC)
    assert parse_past("2h", now) == now - timedelta(hours=2)
    assert parse_past("3d", now) == now - timedelta(days=3)
    assert parse_past("now", now) == now
    assert parse_past("today", now) == midnight
    assert parse_past(" Yesterday ", now) == midnight - timedelta(days=1)
    assert parse_past("2027-06-01", now) == datetime(2027, 6, 1, tzinfo=UTC)
    assert parse_past("2027-06-01T01:00:00+01:00", now) == datetime(2027, 6, 1, tzinfo=UTC)
    for text in ("", "soon", "-1h", "99999999999d", "2027-13-01", "x" * 99):
        with pytest.raises(Invalid):
            parse_past(text, now)


# The tail


def test_a_tail_goes_on_after_what_it_saw(
    api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [make_record(7), Heartbeat(epoch=9), DECISION]
    end = StreamEnd(code="permission_denied", detail="Over.", retryable=False)
    again = StreamEnd(code="unavailable", detail="Come back.", retryable=True)
    turns: Iterator[list[Any]] = iter([[*lines, again], [end]])
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)

    class Turns(list[bytes]):
        """Other lines each time."""

        def __iter__(self) -> Iterator[bytes]:
            return iter([msgspec.json.encode(one) + b"\n" for one in next(turns)])

    api.streams["audit.tail"] = Turns()
    result = run("audit", "tail", "--position", "5", "--json")
    shown = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one.get("id", one["message"]) for one in shown] == ["7", "dec_1", "end"]
    assert [one.position for one in api.named("audit.tail")] == [5, 9]
    assert result.exit_code == 1


def test_a_tail_that_knows_no_position_yet_names_none(
    api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(following, "PATIENCE", 1)
    again = StreamEnd(code="unavailable", detail="Come back.", retryable=True)
    turns: Iterator[list[Any]] = iter([[DECISION, again], [again]])

    class Turns(list[bytes]):
        """Other lines each time."""

        def __iter__(self) -> Iterator[bytes]:
            return iter([msgspec.json.encode(one) + b"\n" for one in next(turns)])

    api.streams["audit.tail"] = Turns()
    result = run("audit", "tail")
    assert [one.position for one in api.named("audit.tail")] == [-1, -1]
    assert "Come back. Trying again.\n" in result.stderr
    assert result.exit_code == 1


# Traces and who could


def make_trace(**more: Any) -> wire.Trace:
    leaf = wire.Step(link="revocation", why="ended the token tok_1", record=make_record(3))
    step = wire.Step(link="request", why="was done", record=make_record(1), steps=[leaf])
    other = wire.Step(link="request", why="was done", record=DECISION)
    cause = wire.Step(link="token", why="issued the token tok_0", record=make_record(9))
    return wire.Trace(request_id="req_1", steps=[step, other], causes=[cause], **more)


def test_a_trace_is_a_tree(api: FakeApi, run: Run) -> None:
    api.answers["audit.trace"] = make_trace(complete=False, notes=["More there is."])
    result = run("audit", "trace", "req_1", "--since", "60d")
    lines = result.stdout.splitlines()
    assert lines[0] == "request req_1"
    assert lines[1].startswith("├─ 2027-06-30 11:59:59 identity.quarantined")
    assert lines[2].startswith("│  └─ ")
    assert lines[2].endswith("[ended the token tok_1]")
    assert lines[3].startswith("└─ ")
    assert "may not" in lines[3]
    assert lines[4] == "came from"
    assert "[issued the token tok_0]" in lines[5]
    assert "More there is." in result.stderr
    assert len(json.loads(run("audit", "trace", "req_1", "--json").stdout)["steps"]) == 2


def test_who_could(api: FakeApi, run: Run) -> None:
    could = wire.CouldDo(
        subject_type="identity",
        subject="till",
        spiffe_id="spiffe://example.org/till",
        actions=["read", "write"],
        level="conditional",
        condition="the request is mTLS",
        exact=False,
        note="roles are those of now",
    )
    outside = msgspec.structs.replace(
        could, subject_type="user", subject="alice", condition="", exact=True, note=""
    )
    view = wire.WhoCould(
        resource="ledger",
        at=AT,
        version=7,
        digest="ab",
        actions=["read", "write"],
        items=[could, outside],
        complete=False,
        notes=["Rules are those of then."],
    )
    api.answers["audit.who"] = view
    result = run("audit", "who", "ledger", "--at", "yesterday", "--action", "read")
    assert "read, write  if the request is mTLS" in result.stdout
    assert "uncertain: roles are those of now" in result.stdout
    assert "user:alice" in result.stdout
    assert "always" in result.stdout
    for word in ("version 7", "Rules are those of then.", "there may be others"):
        assert word in result.stderr
    api.answers["audit.who"] = msgspec.structs.replace(view, items=[])
    assert "Nobody could do that with ledger" in run("audit", "who", "ledger").stderr


def test_who_touched(api: FakeApi, run: Run) -> None:
    touch = wire.Touch(
        subject_type="identity",
        subject="till\u202e\x1b[31m",
        action="read",
        outcome="failure",
        times=12,
        first=AT,
        last=AT,
    )
    outside = msgspec.structs.replace(touch, subject_type="user", subject="alice")
    view = wire.Touched(
        resource="ledger",
        since=AT - timedelta(days=30),
        until=AT,
        items=[touch, outside],
        complete=False,
        notes=["A file is damaged."],
    )
    api.answers["audit.touched"] = view
    result = run("audit", "touched", "ledger", "--since", "30d", "--limit", "2")
    assert "user:alice" in result.stdout
    assert "12" in result.stdout
    assert "\u202e" not in result.stdout
    assert "\x1b[31m" not in result.stdout
    assert "There were more" in result.stderr
    assert "A file is damaged." in result.stderr
    api.answers["audit.touched"] = msgspec.structs.replace(view, items=[], complete=True)
    result = run("audit", "touched", "ledger")
    assert result.stdout == ""
    assert "Nobody touched ledger" in result.stderr
    assert "--since 30d" in result.stderr
    assert run("audit", "touched", "ledger", "--since", "whenever").exit_code == 2


# Exports


@pytest.fixture
def pages(api: FakeApi) -> list[wire.Record]:
    """Three pages, with texts that somebody would like to see run."""
    texts = [f"{mark}1+cmd|' /C calc'!A0" for mark in FORMULAS] + ['a "b"', "a,b", "a\r\nb", "ü"]
    records = [make_record(n + 1, reason=text) for n, text in enumerate(texts)] + [DECISION]

    def answer(request: wire.SearchAudit) -> wire.AuditPage:
        start = int(request.after or 0)
        end = start + 6
        following = str(end) if end < len(records) else None
        return make_page(*records[start:end], following=following)

    api.answers["audit.search"] = answer
    return records


def test_an_export_as_csv_defuses_formulas(
    pages: list[wire.Record], api: FakeApi, run: Run, tmp_path: Path
) -> None:
    target = tmp_path / "out.csv"
    result = run("audit", "export", "--format", "csv", "-o", str(target), "--since", "30d")
    assert result.exit_code == 0, result.output
    assert f"{len(pages)} records written" in result.stderr
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in tmp_path.iterdir()) == ["d", "out.csv"]
    data = target.read_bytes()
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert list(rows[0]) == list(COLUMNS)
    assert data.count(b"\r\n") >= len(pages) + 1
    assert len(rows) == len(pages)
    for row, record in zip(rows, pages, strict=True):
        assert not any(cell.startswith(FORMULAS) for cell in row.values())
        guarded = record.reason.startswith(FORMULAS)
        assert row["reason"] == (f"'{record.reason}" if guarded else record.reason)
        assert json.loads(row["detail"]) == record.detail
        assert datetime.fromisoformat(row["at"]) == record.at
    # Pages are of one period, whatever the clock does meanwhile.
    asked = api.named("audit.search")
    assert [(one.since, one.until) for one in asked[1:]] == [(SINCE, AT)] * (len(asked) - 1)


@pytest.mark.parametrize("mark", [*"=+-@＝", "\t"])
def test_a_cell_holds_no_formula_where_semicolons_separate(mark: str) -> None:
    for text in (f"x;{mark}1+1", f'x;""{mark}1', f"{mark}1;{mark}2;{mark}3", f";{mark}1"):
        cells = defuse_cell(text).split(";")
        assert not any(cell.strip('"').startswith(FORMULAS) for cell in cells), text
    for text in ("a; b", "a;b=1", "'; -- x", "x;", ""):
        assert defuse_cell(text) == text


def test_an_export_as_json_lines(
    pages: list[wire.Record], api: FakeApi, run: Run, tmp_path: Path
) -> None:
    result = run("audit", "export", "--format", "jsonl", "-o", "-")
    read = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["id"] for one in read] == [one.id for one in pages]
    assert read[0]["reason"] == pages[0].reason
    api.answers["status.show"] = make_status()
    target = tmp_path / "ocsf.jsonl"
    written = run("audit", "export", "--format", "jsonl", "--ocsf", "-o", str(target), "--json")
    assert json.loads(written.stdout)["records"] == len(pages)
    events = [json.loads(line) for line in target.read_text().splitlines()]
    assert [list_faults(one) for one in events] == [[]] * len(pages)


def test_an_export_as_parquet(pages: list[wire.Record], run: Run, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    result = run("audit", "export", "--format", "parquet", "-o", str(target))
    assert result.exit_code == 0, result.output
    with duckdb.connect() as engine:
        found = engine.read_parquet(str(target))
        assert dict(zip(found.columns, map(str, found.types), strict=True)) == {
            **COLUMNS,
            "at": "TIMESTAMP WITH TIME ZONE",
        }
        rows = found.project('id, reason, detail, epoch_us("at")').fetchall()
    expected = [
        (one.id, one.reason, one.detail, round(one.at.timestamp() * 1_000_000)) for one in pages
    ]
    assert [(i, reason, json.loads(detail), at) for i, reason, detail, at in rows] == expected


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_an_empty_export_is_a_whole_file(form: str, api: FakeApi, run: Run, tmp_path: Path) -> None:
    api.answers["audit.search"] = make_page()
    target = tmp_path / "out"
    result = run("audit", "export", "--format", form, "-o", str(target))
    assert result.exit_code == 0, result.output
    assert target.exists()
    assert "0 records" in result.stderr
    assert "--since 30d" in result.stderr


def test_an_export_that_fails_leaves_nothing(api: FakeApi, run: Run, tmp_path: Path) -> None:
    api.answers["audit.search"] = Invalid("No.")
    target = tmp_path / "out.csv"
    target.write_text("before")
    assert run("audit", "export", "--format", "csv", "-o", str(target)).exit_code == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["d", "out.csv"]
    assert target.read_text() == "before"


def test_an_export_takes_the_place_of_files_alone(api: FakeApi, run: Run, tmp_path: Path) -> None:
    api.answers["audit.search"] = make_page()
    pipe, link, folder = (tmp_path / name for name in ("pipe", "link", "folder"))
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    folder.mkdir()
    for target in (pipe, link, folder):
        result = run("audit", "export", "--format", "csv", "-o", str(target))
        assert result.exit_code == 1
        assert "no plain file" in result.stderr
    assert pipe.is_fifo()
    assert link.is_symlink()
    (tmp_path / f".out.csv.{os.getpid()}").write_text("of a process that was killed")
    assert run("audit", "export", "--format", "csv", "-o", str(tmp_path / "out.csv")).exit_code == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        *("d", "folder", "link", "out.csv", "pipe")
    ]
