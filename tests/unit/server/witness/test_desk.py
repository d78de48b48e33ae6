"""The witness's desk: what it remembers outlasts everything, and it never contradicts itself."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import aics_tlog
import pytest
from structlog.testing import capture_logs

from tests.fakes.witnesses import OtherLog, make_desk, make_signer
from troth.archive.place import Folder
from troth.audit.checkpoint import Checkpoint, parse_checkpoint
from troth.audit.cosignature import read_timestamp
from troth.audit.note import Note, Signature, parse_note, render_note, verify_note
from troth.audit.witness import Reason, Refusal, Submission, render_submission, select_cosignatures
from troth.core.clock import VirtualClock
from troth.core.errors import Invalid, Unavailable
from troth.server.witness.desk import REPEAT_SECONDS, WitnessDesk
from troth.server.witness.records import MOST_EVIDENCE


@pytest.fixture
def log() -> OtherLog:
    found = OtherLog()
    found.grow(200)
    return found


@pytest.fixture
def fork(log: OtherLog) -> OtherLog:
    found = OtherLog(history="false")
    found.grow(200)
    return found


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def desk(tmp_path: Path, log: OtherLog, clock: VirtualClock) -> WitnessDesk:
    return make_desk(tmp_path, log.key, clock=clock)


def cosign(desk: WitnessDesk, body: bytes) -> tuple[Signature, ...]:
    found = desk.submit(body)
    assert not isinstance(found, Refusal), found
    return found


def refuse(desk: WitnessDesk, body: bytes) -> Refusal:
    found = desk.submit(body)
    assert isinstance(found, Refusal)
    return found


def name_record(log: OtherLog) -> str:
    return f"logs/{sha256(log.origin.encode()).hexdigest()}"


def list_evidence(folder: Path) -> list[Path]:
    return sorted((folder / "evidence").glob("*")) if (folder / "evidence").exists() else []


def test_it_cosigns_with_both_keys_as_of_now(
    desk: WitnessDesk, log: OtherLog, clock: VirtualClock
) -> None:
    made = cosign(desk, log.submit(0, 100))
    text = log.sign(100).text
    assert select_cosignatures(text, made, desk.signer.public) == made
    assert {read_timestamp(one) for one in made} == {int(clock.now().timestamp())}
    classic = desk.signer.public[0]
    tree = parse_checkpoint(text)
    assert aics_tlog.verify_cosignature(
        made[0].value, classic.name, classic.public, tree.origin, tree.size, tree.root
    )


def test_a_log_grows_under_its_eyes(desk: WitnessDesk, log: OtherLog) -> None:
    for old, new in ((0, 1), (1, 100), (100, 100), (100, 128), (128, 200)):
        cosign(desk, log.submit(old, new))
    assert refuse(desk, log.submit(100, 200)) == Refusal(
        Reason.STALE, "The last checkpoint here is of 200 entries.", 200
    )


def test_what_it_cosigned_it_remembers_in_a_file(
    desk: WitnessDesk, log: OtherLog, tmp_path: Path
) -> None:
    made = cosign(desk, log.submit(0, 100))
    path = tmp_path / name_record(log)
    assert path.stat().st_mode & 0o777 == 0o600
    note = parse_note(path.read_bytes())
    assert note.signatures == (*log.sign(100).signatures, *made)
    assert verify_note(note, (log.key, *desk.signer.public)) == (log.key, *desk.signer.public)
    again = make_desk(tmp_path, log.key)
    assert refuse(again, log.submit(0, 150)).size == 100
    cosign(again, log.submit(100, 150))


def test_another_history_is_refused_and_kept_as_evidence(
    desk: WitnessDesk, log: OtherLog, fork: OtherLog, tmp_path: Path
) -> None:
    cosign(desk, log.submit(0, 100))
    body = fork.submit(100, 150)
    with capture_logs() as lines:
        assert refuse(desk, body).reason is Reason.INCONSISTENT
        assert refuse(desk, fork.submit(100, 100)).reason is Reason.FORKED
    assert [(one["event"], one["why"], one["log_level"]) for one in lines] == [
        ("witness.disputed", "inconsistent", "error"),
        ("witness.disputed", "forked", "error"),
    ]
    assert lines[1]["cosigned_root"] == log.tree.root(100).hex()
    assert lines[1]["root"] == fork.tree.root(100).hex()
    forked, inconsistent = list_evidence(tmp_path)
    found = json.loads(inconsistent.read_bytes())
    assert found["origin"] == log.origin
    assert found["reason"] == "inconsistent"
    assert found["submitted"].encode() == body
    kept = parse_note(found["cosigned"].encode())
    assert verify_note(kept, [log.key]) == (log.key,)
    # Both sides of a fork are signed by the log: this convinces anybody.
    found = json.loads(forked.read_bytes())
    sides = [found["cosigned"].encode(), found["submitted"].encode().partition(b"\n\n")[2]]
    trees = []
    for side in sides:
        assert verify_note(parse_note(side), [log.key]) == (log.key,)
        trees.append(parse_checkpoint(parse_note(side).text))
    assert trees[0].size == trees[1].size
    assert trees[0].root != trees[1].root
    cosign(desk, log.submit(100, 200))


def test_the_same_evidence_is_told_once(
    desk: WitnessDesk, log: OtherLog, fork: OtherLog, tmp_path: Path
) -> None:
    cosign(desk, log.submit(0, 100))
    with capture_logs() as lines:
        for _ in range(5):
            refuse(desk, fork.submit(100, 150))
    assert len(lines) == len(list_evidence(tmp_path)) == 1


def test_wrong_proofs_from_anybody_dont_fill_the_disk(
    desk: WitnessDesk, log: OtherLog, tmp_path: Path
) -> None:
    log.grow(100)
    cosign(desk, log.submit(0, 100))
    with capture_logs() as lines:
        for size in range(101, 101 + MOST_EVIDENCE + 20):
            body = render_submission(Submission(100, (bytes(32),), log.sign(size)))
            assert refuse(desk, body).reason is Reason.INCONSISTENT
    assert len(lines) == len(list_evidence(tmp_path)) == MOST_EVIDENCE


def test_what_is_no_evidence_isnt_kept(desk: WitnessDesk, log: OtherLog, tmp_path: Path) -> None:
    other = OtherLog("log.example/two")
    other.grow(5)
    refuse(desk, other.submit(0))
    refuse(desk, render_submission(Submission(0, (bytes(32),), log.sign(100))))
    cosign(desk, log.submit(0, 100))
    refuse(desk, log.submit(0, 100))
    refuse(desk, log.submit(50, 60))
    too_much = render_submission(Submission(100, (bytes(32),), log.sign(100)))
    assert refuse(desk, too_much).reason is Reason.INCONSISTENT
    with pytest.raises(Invalid):
        desk.submit(b"junk")
    assert list_evidence(tmp_path) == []


def test_the_same_checkpoint_gets_the_same_cosignature_for_a_moment(
    desk: WitnessDesk, log: OtherLog, clock: VirtualClock, tmp_path: Path
) -> None:
    first = cosign(desk, log.submit(0, 100))
    written = (tmp_path / name_record(log)).stat().st_mtime_ns
    assert cosign(desk, log.submit(100, 100)) == first
    assert (tmp_path / name_record(log)).stat().st_mtime_ns == written
    clock.advance(timedelta(seconds=REPEAT_SECONDS))
    later = cosign(desk, log.submit(100, 100))
    assert read_timestamp(later[0]) == read_timestamp(first[0]) + REPEAT_SECONDS


def test_a_clock_that_was_set_back_doesnt_turn_time_around(
    desk: WitnessDesk, log: OtherLog, clock: VirtualClock
) -> None:
    first = cosign(desk, log.submit(0, 100))
    clock.jump(clock.now() - timedelta(days=1))
    assert read_timestamp(cosign(desk, log.submit(100, 150))[0]) == read_timestamp(first[0])


def test_extension_lines_are_signed_by_the_key_that_covers_them(
    desk: WitnessDesk, log: OtherLog, tmp_path: Path
) -> None:
    note = log.sign(100, "more")
    made = cosign(desk, render_submission(Submission(0, (), note)))
    assert [one.key_id for one in made] == [desk.signer.public[0].key_id]
    assert select_cosignatures(note.text, made, desk.signer.public) == made
    cosign(make_desk(tmp_path, log.key), log.submit(100, 150))


def test_logs_dont_know_of_each_other(tmp_path: Path, log: OtherLog) -> None:
    other = OtherLog("log.example/two")
    other.grow(9)
    desk = make_desk(tmp_path, log.key, other.key)
    cosign(desk, log.submit(0, 100))
    cosign(desk, other.submit(0))
    cosign(desk, log.submit(100, 200))
    assert len(list((tmp_path / "logs").iterdir())) == 2


# What a disk does


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:-10],
        lambda data: data.replace(b"\n100\n", b"\n90\n"),
        lambda data: b"\n".join(data.split(b"\n")[:5]) + b"\n",
        lambda data: bytes(len(data)),
    ],
)
def test_a_spoilt_record_is_never_begun_anew(
    desk: WitnessDesk, log: OtherLog, tmp_path: Path, spoil: object
) -> None:
    cosign(desk, log.submit(0, 100))
    path = tmp_path / name_record(log)
    assert callable(spoil)
    path.write_bytes(spoil(path.read_bytes()))
    again = make_desk(tmp_path, log.key)
    for body in (log.submit(0, 150), log.submit(100, 150)):
        with pytest.raises(Unavailable, match="isn't what this witness wrote"):
            again.submit(body)


def test_another_logs_record_in_its_place_is_refused(tmp_path: Path, log: OtherLog) -> None:
    other = OtherLog("log.example/two")
    other.grow(9)
    desk = make_desk(tmp_path, log.key, other.key)
    cosign(desk, other.submit(0))
    (tmp_path / name_record(other)).rename(tmp_path / name_record(log))
    with pytest.raises(Unavailable, match="another log"):
        desk.submit(log.submit(0, 100))


def test_a_spoilt_record_is_named_and_other_logs_are_served(tmp_path: Path, log: OtherLog) -> None:
    other = OtherLog("log.example/two")
    other.grow(9)
    cosign(make_desk(tmp_path, log.key), log.submit(0, 100))
    path = tmp_path / name_record(log)
    path.write_bytes(b"junk")
    desk = make_desk(tmp_path, log.key, other.key)
    with capture_logs() as lines:
        desk.tell_damage()
    (told,) = lines
    assert (told["event"], told["log_level"]) == ("witness.damaged", "error")
    assert told["origin"] == log.origin
    assert str(path) in told["detail"]
    cosign(desk, other.submit(0))
    with pytest.raises(Unavailable):
        desk.show(path.name)


def test_a_record_that_other_keys_signed_is_refused(tmp_path: Path, log: OtherLog) -> None:
    cosign(make_desk(tmp_path, log.key), log.submit(0, 100))
    other = make_desk(tmp_path, log.key, signer=make_signer(seed=8))
    with pytest.raises(Unavailable):
        other.submit(log.submit(0, 150))


class BadDisk(Exception):
    """Power is gone at this very moment."""


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Writes and syncs fail when `calls` reaches `at`: a process killed at any step."""
    state = {"calls": 0, "at": -1}
    for name in ("write", "settle"):
        real = getattr(Folder, name)

        def broken(self: Folder, *arguments: object, real: object = real) -> object:
            state["calls"] += 1
            if state["calls"] == state["at"]:
                raise BadDisk
            assert callable(real)
            return real(self, *arguments)

        monkeypatch.setattr(Folder, name, broken)
    return state


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("restart", [True, False])
def test_nothing_leaves_before_it_is_on_the_disk(
    breaking: dict[str, int], at: int, restart: bool, tmp_path: Path, log: OtherLog, fork: OtherLog
) -> None:
    """Whatever step fails, both histories are never cosigned, and the log can go on."""
    desk = make_desk(tmp_path, log.key)
    cosign(desk, log.submit(0, 100))
    breaking.update(calls=0, at=at)
    with pytest.raises(BadDisk):
        desk.submit(log.submit(100, 150))
    breaking.update(at=-1)
    if restart:
        desk = make_desk(tmp_path, log.key)
    kept = refuse(desk, log.submit(0, 150)).size
    assert kept == (100 if at == 1 else 150)
    for size in (100, 150):
        found = desk.submit(fork.submit(size, 200))
        assert isinstance(found, Refusal)
    cosign(desk, log.submit(kept, 200))


def test_after_a_failed_sync_the_same_checkpoint_is_written_again(
    breaking: dict[str, int], tmp_path: Path, log: OtherLog
) -> None:
    desk = make_desk(tmp_path, log.key)
    breaking.update(calls=0, at=2)
    with pytest.raises(BadDisk):
        desk.submit(log.submit(0, 150))
    breaking.update(calls=0, at=-1)
    cosign(desk, log.submit(150, 150))
    assert breaking["calls"] == 2


def test_nothing_is_shown_before_it_is_on_the_disk(
    breaking: dict[str, int], tmp_path: Path, log: OtherLog
) -> None:
    desk = make_desk(tmp_path, log.key)
    digest = name_record(log).rpartition("/")[2]
    breaking.update(calls=0, at=2)  # the file is in its place, and may be gone with the power
    with pytest.raises(BadDisk):
        desk.submit(log.submit(0, 150))
    for found in (desk, make_desk(tmp_path, log.key)):
        breaking.update(calls=0, at=2)
        with pytest.raises(BadDisk):
            found.show(digest)
        breaking.update(calls=0, at=-1)
        for _ in range(2):
            assert parse_note(found.show(digest)).text == log.sign(150).text
        assert breaking["calls"] == 2  # once is enough


def test_who_looks_waits_until_it_is_on_the_disk(
    monkeypatch: pytest.MonkeyPatch, desk: WitnessDesk, log: OtherLog
) -> None:
    cosign(desk, log.submit(0, 100))
    digest = name_record(log).rpartition("/")[2]
    syncing, go_on = threading.Event(), threading.Event()
    real = Folder.settle

    def wait(self: Folder) -> None:
        syncing.set()
        assert go_on.wait(30)
        real(self)

    monkeypatch.setattr(Folder, "settle", wait)
    with ThreadPoolExecutor(2) as pool:
        submitted = pool.submit(desk.submit, log.submit(100, 150))
        assert syncing.wait(30)
        shown = pool.submit(desk.show, digest)
        with pytest.raises(TimeoutError):
            shown.result(0.1)
        go_on.set()
        assert parse_note(shown.result(30)).text == log.sign(150).text
        assert not isinstance(submitted.result(30), Refusal)


def test_of_many_at_once_none_is_rolled_back(
    desk: WitnessDesk, log: OtherLog, fork: OtherLog, tmp_path: Path
) -> None:
    """The race of the specification: sizes only grow, and on one history."""
    cosign(desk, log.submit(0, 1))
    barrier = threading.Barrier(8)
    taken: list[int] = []

    def press(number: int) -> None:
        barrier.wait()
        shown = fork if number % 4 == 3 else log
        for size in range(2 + number, 200, 7):
            record = desk.records.find(log.origin)
            assert record is not None
            old = record.checkpoint.size
            if old > size:
                continue
            found = desk.submit(shown.submit(old, size))
            if not isinstance(found, Refusal):
                assert shown is log
                taken.append(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(press, range(8)))
    assert taken
    record = make_desk(tmp_path, log.key).records.find(log.origin)
    assert record is not None
    assert record.checkpoint == Checkpoint(log.origin, max(taken), log.tree.root(max(taken)))


def test_the_record_of_a_log_with_many_signatures_is_small(
    desk: WitnessDesk, log: OtherLog, tmp_path: Path
) -> None:
    note = log.sign(100)
    junk = tuple(Signature("other.example", bytes([n] * 4), bytes(1000)) for n in range(40))
    cosign(desk, render_submission(Submission(0, (), Note(note.text, (*note.signatures, *junk)))))
    data = (tmp_path / name_record(log)).read_bytes()
    assert len(data) < 5000
    assert render_note(parse_note(data)) == data
