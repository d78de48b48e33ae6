"""`troth audit verify`: what is right is shown, what is wrong is named, and by which exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.logs import (
    SIGNED_AT,
    FakeLog,
    make_event,
    make_events,
    make_log,
    make_signer,
    show_log,
)
from tests.fakes.weblog import serve_log
from tests.unit.audit.test_proof import cosign
from tests.unit.cli.conftest import Run
from troth.audit.bundle import render_bundle
from troth.audit.entry import join_details, join_entries, split_details, split_entries
from troth.audit.proof import render_log_proof
from troth.audit.proving import prove_entry

KEYS = make_signer().render_keys()


@pytest.fixture
def vkey(tmp_path: Path) -> str:
    path = tmp_path / "example.org.vkey"
    path.write_text(f"# the log of example.org\n{KEYS}", encoding="utf-8")
    return f"@{path}"


def write(log: FakeLog, tmp_path: Path) -> str:
    return str(log.write_to(tmp_path / "log"))


def report(result: Any) -> dict[str, Any]:
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def list_outcomes(found: dict[str, Any]) -> list[str]:
    return [step["outcome"] for step in found["steps"]]


# A log


def test_a_log_holds(run: Run, tmp_path: Path, vkey: str) -> None:
    result = run("audit", "verify", write(show_log(1000), tmp_path), "--key", vkey)
    assert result.exit_code == 0, result.output
    assert " 1. shown  The log 'example.org/log' signed that it has 1000 entries" in result.stdout
    assert " 2. shown  The files for all 1000 entries are those of that checkpoint" in result.stdout
    assert result.stderr == "Everything holds.\n"
    found = report(run("audit", "verify", str(tmp_path / "log"), "--key", vkey, "--json"))
    assert found["holds"] is True
    assert (found["what"], found["origin"], found["size"]) == ("log", "example.org/log", 1000)
    assert (found["entries"], found["details"], found["tiles"]) == (1000, 1000, 5)
    assert found["root"] == show_log(1000).root.hex()
    assert list_outcomes(found) == ["shown", "shown"]


def test_the_log_of_the_data_directory_is_the_default(run: Run, data: Path, vkey: str) -> None:
    show_log(3).write_to(data / "log")
    assert run("audit", "verify", "--key", vkey).exit_code == 0


def test_a_key_may_stand_on_the_command_line(run: Run, tmp_path: Path) -> None:
    where = write(show_log(3), tmp_path)
    first, second = KEYS.splitlines()
    assert run("audit", "verify", where, "--key", first).exit_code == 0
    assert run("audit", "verify", where, "--key", first, "--key", second).exit_code == 0


def test_without_a_key_it_says_what_it_could_not_show(run: Run, tmp_path: Path) -> None:
    where = write(show_log(300), tmp_path)
    result = run("audit", "verify", where, "--json")
    assert result.exit_code == 1
    assert list_outcomes(report(result)) == ["open", "shown"]
    assert report(result)["holds"] is False
    assert "give it with --key" in result.stderr
    assert "Not everything could be shown." in result.stderr


def test_the_key_is_not_taken_from_what_is_verified(run: Run, tmp_path: Path) -> None:
    where = write(show_log(3), tmp_path)
    result = run("audit", "verify", where, "--key", f"@{where}/vkey")
    assert result.exit_code == 2
    assert "--trust-on-first-use" in result.stderr
    result = run("audit", "verify", where, "--trust-on-first-use")
    assert result.exit_code == 0
    assert "names itself: on trust" in result.stderr


def test_a_key_of_another_log_vouches_for_nothing(run: Run, tmp_path: Path) -> None:
    other = make_signer("other.org").keys[0].render()
    result = run("audit", "verify", write(show_log(3), tmp_path), "--key", other, "--json")
    assert result.exit_code == 1
    assert list_outcomes(report(result)) == ["wrong", "open"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--key", "nonsense"],
        ["--key", "@/nowhere"],
        ["--quorum", "1"],
        ["--witness", KEYS.splitlines()[1]],
        ["--key", KEYS.splitlines()[0], "--witness", KEYS.splitlines()[0]],
        ["--entry", "1", "--from", "1"],
        ["--entry", "0"],
        ["--decisions", "/nowhere"],
    ],
)
def test_wrong_usage(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    result = run("audit", "verify", write(show_log(3), tmp_path), *arguments)
    assert result.exit_code == 2, result.output


def test_what_is_no_log_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    result = run("audit", "verify", str(tmp_path))
    assert result.exit_code == 2
    assert "no log" in result.stderr


# What is damaged


def spoil_entry(log: FakeLog) -> None:
    entries = split_entries(log.files["tile/entries/002"])
    entries[17] = entries[17].replace(b"success", b"failure")
    log.files["tile/entries/002"] = join_entries(entries)


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (spoil_entry, "tile/entries/002"),
        (lambda log: log.flip("tile/0/001", 77), "tile/0/001"),
        (lambda log: log.flip("tile/1/000.p/3", 77), "tile/1/000.p/3"),
        (lambda log: log.flip("detail/001", 3000), "detail/001"),
        (lambda log: log.files.pop("tile/entries/000"), "tile/entries/000"),
        (
            lambda log: log.files.update({"tile/0/002": log.files["tile/0/002"][:-9]}),
            "tile/0/002",
        ),
    ],
)
def test_a_damaged_file_is_named(
    run: Run, tmp_path: Path, vkey: str, spoil: Callable[[FakeLog], None], name: str
) -> None:
    log = show_log(1000).copy()
    spoil(log)
    result = run("audit", "verify", write(log, tmp_path), "--key", vkey, "--json")
    assert result.exit_code == 1
    found = report(result)
    assert [flaw["name"] for flaw in found["flaws"]] == [name]
    assert list_outcomes(found) == ["shown", "wrong"]
    assert name in run("audit", "verify", str(tmp_path / "log"), "--key", vkey).stdout


def empty_details(log: FakeLog, name: str) -> None:
    log.files[name] = join_details([b""] * len(split_details(log.files[name])))


def test_emptied_details_are_named(run: Run, tmp_path: Path, vkey: str) -> None:
    log = show_log(1000).copy()
    for name in [name for name in log.files if name.startswith("detail/")]:
        empty_details(log, name)
    where = write(log, tmp_path)
    result = run("audit", "verify", where, "--key", vkey, "--json")
    assert result.exit_code == 1
    found = report(result)
    assert [(one["fault"], one["name"], one["first"], one["last"]) for one in found["flaws"]] == [
        ("emptied", "detail/000", 0, 255),
        ("emptied", "detail/001", 256, 511),
        ("emptied", "detail/002", 512, 767),
        ("emptied", "detail/003.p/232", 768, 999),
    ]
    assert (found["details"], found["redacted"]) == (0, 0)
    assert "Everything holds" not in result.stderr
    part = report(run("audit", "verify", where, "--key", vkey, "--to", "100", "--json"))
    assert list_outcomes(part) == ["shown", "shown", "open"]
    assert "256 more are gone" in part["steps"][2]["words"]
    one = report(run("audit", "verify", where, "--key", vkey, "--entry", "3", "--json"))
    assert list_outcomes(one) == ["shown", "shown", "shown", "absent", "open"]


def test_a_detail_that_is_never_redacted_is_missed(run: Run, tmp_path: Path, vkey: str) -> None:
    log = make_log([make_event(1, type="decisions.closed"), make_event(2)])
    empty_details(log, "detail/000.p/2")
    where = write(log, tmp_path)
    one = report(run("audit", "verify", where, "--key", vkey, "--entry", "1", "--json"))
    assert list_outcomes(one)[-1] == "wrong"
    assert "'decisions.closed' is never redacted" in one["steps"][-1]["words"]
    part = report(run("audit", "verify", where, "--key", vkey, "--to", "2", "--json"))
    assert [flaw["first"] for flaw in part["flaws"]] == [0, 1]


def test_without_details_it_isnt_everything_that_holds(run: Run, tmp_path: Path, vkey: str) -> None:
    where = write(show_log(3), tmp_path)
    result = run("audit", "verify", where, "--key", vkey, "--no-details")
    assert result.exit_code == 0
    assert result.stderr == "Everything that is here holds.\n"


def test_any_byte_of_the_checkpoint_matters(run: Run, tmp_path: Path, vkey: str) -> None:
    where = write(show_log(1000), tmp_path)
    note = show_log(1000).checkpoint
    for at in range(0, len(note), 97):
        (tmp_path / "log" / "checkpoint").write_bytes(
            note[:at] + bytes([note[at] ^ 1]) + note[at + 1 :]
        )
        result = run("audit", "verify", where, "--key", vkey, "--json")
        assert result.exit_code == 1, at
        assert list_outcomes(report(result))[0] == "wrong"


def test_files_are_held_against_a_checkpoint_that_nobody_signed_only_without_a_key(
    run: Run, tmp_path: Path
) -> None:
    log = show_log(1000).copy()
    log.flip("tile/0/001", 77)
    where, other = write(log, tmp_path), make_signer("other.org").keys[0].render()
    found = report(run("audit", "verify", where, "--key", other, "--json"))
    assert list_outcomes(found) == ["wrong", "open"]
    assert (found["tiles"], found["flaws"]) == (0, [])
    found = report(run("audit", "verify", where, "--json"))
    assert list_outcomes(found) == ["open", "wrong"]
    assert [flaw["name"] for flaw in found["flaws"]] == ["tile/0/001"]


def test_a_checkpoint_of_more_than_ever_was(run: Run, tmp_path: Path, vkey: str) -> None:
    log = show_log(1000).copy()
    log.files["checkpoint"] = log.signer.sign(1 << 40, log.root, SIGNED_AT).encode()
    found = report(run("audit", "verify", write(log, tmp_path), "--key", vkey, "--json"))
    assert list_outcomes(found) == ["shown", "wrong"]
    assert (found["entries"], found["size"]) == (0, 1 << 40)


def test_a_range_and_a_single_event(run: Run, tmp_path: Path, vkey: str) -> None:
    log = show_log(1000).copy()
    spoil_entry(log)  # event 530
    where = write(log, tmp_path)
    part = ["audit", "verify", where, "--key", vkey, "--json"]
    assert run(*part, "--from", "1", "--to", "500").exit_code == 0
    assert run(*part, "--from", "769").exit_code == 0
    assert run(*part, "--from", "500", "--to", "600").exit_code == 1
    assert run(*part, "--to", "1001").exit_code == 1
    assert run(*part, "--entry", "1000").exit_code == 0
    assert run(*part, "--entry", "1001").exit_code == 1
    found = report(run(*part, "--entry", "529"))
    assert found["what"] == "entry"
    assert found["event"]["position"] == 529
    assert found["event"]["body"]["note"] == "529"
    assert run(*part, "--entry", "530").exit_code == 1


def test_without_details_that_is_said(run: Run, tmp_path: Path, vkey: str) -> None:
    where = write(show_log(300), tmp_path)
    found = report(run("audit", "verify", where, "--key", vkey, "--no-details", "--json"))
    assert list_outcomes(found) == ["shown", "shown", "absent"]
    assert found["holds"] is True
    assert found["details"] == 0


def test_a_clock_set_back_is_a_note(run: Run, tmp_path: Path, vkey: str) -> None:
    events = make_events(5)
    events[3] = make_event(4, at=events[0].at - 60_000_000)
    result = run("audit", "verify", write(make_log(events), tmp_path), "--key", vkey)
    assert result.exit_code == 0
    assert "note: The clock went back" in result.stdout


def test_a_log_of_somebody_else(run: Run, tmp_path: Path) -> None:
    import aics_tlog

    entries = [b"module v%d" % number for number in range(300)]
    files = aics_tlog.TileWriter(entries).materialise()
    root = aics_tlog.tree_root_from_tiles(aics_tlog.MemoryTileReader(files), 300)
    files["checkpoint"] = make_signer().sign(300, root, SIGNED_AT).encode()
    where = write(FakeLog(files, show_log(3).folder), tmp_path)
    options = ["--key", KEYS.splitlines()[0], "--json"]
    assert run("audit", "verify", where, *options, "--foreign").exit_code == 0
    assert run("audit", "verify", where, *options, "--foreign", "--entry", "7").exit_code == 0
    found = report(run("audit", "verify", where, *options))
    assert found["flaws"][0]["fault"] == "misplaced"


# Witnesses


def test_witnesses_must_have_cosigned(run: Run, tmp_path: Path, vkey: str) -> None:
    log = show_log(5).copy()
    log.files["checkpoint"], first = cosign(log.checkpoint, "w1.example")
    _, absent = cosign(log.checkpoint, "w2.example")
    where = write(log, tmp_path)
    known = ["--witness", first.render(), "--witness", absent.render()]
    result = run("audit", "verify", where, "--key", vkey, *known)
    assert result.exit_code == 1
    assert "1 of the witnesses cosigned the checkpoint, and 2 must have" in result.stdout
    result = run("audit", "verify", where, "--key", vkey, *known, "--quorum", "1")
    assert result.exit_code == 0
    assert "1 witnesses saw that checkpoint, and 1 must have: w1.example." in result.stdout


# Pins


def test_a_pinned_log_may_grow_and_nothing_else(run: Run, tmp_path: Path, vkey: str) -> None:
    log = make_log(100)
    pin = str(tmp_path / "example.pin")
    verify = ["audit", "verify", str(tmp_path / "log"), "--pin", pin, "--json"]
    write(log, tmp_path)
    assert run(*verify, "--key", vkey).exit_code == 0
    log.grow(make_events(500, 101))
    write(log, tmp_path)
    found = report(run(*verify))  # the key is remembered too
    assert list_outcomes(found) == ["shown", "shown", "shown"]
    assert "continues the checkpoint of 100 entries" in found["steps"][1]["words"]
    assert "that was seen before" in report(run(*verify))["steps"][1]["words"]

    write(show_log(100), tmp_path)
    back = report(run(*verify))
    assert list_outcomes(back) == ["shown", "wrong", "shown"]
    assert "rolled back: it had 600 entries" in back["steps"][1]["words"]

    events = make_events(700)
    events[250] = make_event(251, actor="uid:0")
    write(make_log(events), tmp_path)
    forked = report(run(*verify))
    assert list_outcomes(forked) == ["shown", "wrong", "shown"]
    assert "was forked" in forked["steps"][1]["words"]
    assert run(*verify).exit_code == 1


def test_a_pin_that_is_none_is_refused(run: Run, tmp_path: Path, vkey: str) -> None:
    where, pin = write(show_log(3), tmp_path), tmp_path / "other.json"
    pin.write_text("{}", encoding="utf-8")
    result = run("audit", "verify", where, "--key", vkey, "--pin", str(pin))
    assert result.exit_code == 1
    assert "remembers no log" in result.stderr
    assert pin.read_text(encoding="utf-8") == "{}"


def test_what_is_wrong_is_not_remembered(run: Run, tmp_path: Path, vkey: str) -> None:
    log = show_log(300).copy()
    log.flip("tile/0/000", 5)
    where, pin = write(log, tmp_path), tmp_path / "pin"
    assert run("audit", "verify", where, "--key", vkey, "--pin", str(pin)).exit_code == 1
    assert not pin.exists()


# Over HTTP


def test_a_log_behind_a_url(run: Run, tmp_path: Path, vkey: str) -> None:
    with serve_log(show_log(1000).copy().files) as web:
        found = report(run("audit", "verify", web.url, "--key", vkey, "--json"))
        assert list_outcomes(found) == ["shown", "shown", "absent"]
        assert not [name for name in web.asked if name.startswith("detail/")]
        assert run("audit", "verify", f"{web.url}/", "--trust-on-first-use").exit_code == 0
        web.statuses["tile/0/001"] = 500
        result = run("audit", "verify", web.url, "--key", vkey)
        assert result.exit_code == 1
        assert "answered with 500" in result.stderr
        web.statuses["tile/0/001"] = 503
        assert "at the moment" in run("audit", "verify", web.url, "--key", vkey).stderr
        del web.statuses["tile/0/001"], web.files["tile/0/001"]
        found = report(run("audit", "verify", web.url, "--key", vkey, "--json"))
        assert [flaw["fault"] for flaw in found["flaws"]] == ["missing"]
        url = web.url
    assert run("audit", "verify", url, "--key", vkey).exit_code == 3


# Files of evidence


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    log = show_log(1000)
    path = tmp_path / "event.json"
    path.write_bytes(render_bundle(prove_entry(log.read, log.checkpoint, 300)))
    return path


def test_a_bundle(run: Run, bundle: Path, vkey: str) -> None:
    result = run("audit", "verify", str(bundle), "--key", vkey)
    assert result.exit_code == 0, result.output
    assert " 4. shown  The detail is the one that the entry commits to: uid:1006" in result.stdout
    found = report(run("audit", "verify", str(bundle), "--key", vkey, "--json"))
    assert found["what"] == "bundle"
    assert found["event"]["actor"] == "uid:1006"
    result = run("audit", "verify", str(bundle))
    assert result.exit_code == 1
    assert "give it with --key" in result.stderr
    assert run("audit", "verify", str(bundle), "--key", vkey, "--entry", "3").exit_code == 2


def test_a_bundle_that_was_changed(run: Run, bundle: Path, vkey: str) -> None:
    text = bundle.read_text(encoding="utf-8")
    bundle.write_text(text.replace("token.issued", "token.denied"), encoding="utf-8")
    result = run("audit", "verify", str(bundle), "--key", vkey)
    assert result.exit_code == 1
    assert "2. wrong" in result.stdout
    bundle.write_text("no bundle", encoding="utf-8")
    result = run("audit", "verify", str(bundle), "--key", vkey)
    assert result.exit_code == 1
    assert "no bundle" in result.stderr


def test_a_proof_with_its_entry(run: Run, tmp_path: Path, vkey: str) -> None:
    log = show_log(1000)
    found = prove_entry(log.read, log.checkpoint, 300)
    path = tmp_path / "event.tlog-proof"
    path.write_bytes(render_log_proof(replace(found.proof, extra=found.entry)))
    result = run("audit", "verify", str(path), "--key", vkey)
    assert result.exit_code == 0, result.output
    assert "4. absent" in result.stdout
    path.write_bytes(render_log_proof(found.proof))
    result = run("audit", "verify", str(path), "--key", vkey)
    assert result.exit_code == 1
    assert "has no entry with it" in result.stderr
