"""A node remembers the log: rewritten history is seen, kept as evidence and told, work goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.logs import FakeLog, make_event, make_events, make_log, make_signer
from troth.agent.pin import NAME, PinFile, Pinning
from troth.audit.continuity import Unproved
from troth.audit.pin import begin_pin, read_pin, renew_pin
from troth.core.clock import VirtualClock
from troth.core.errors import Invalid, TrothError, Unavailable
from troth.core.ids import RequestId
from troth.live.logwatch import PATIENCE
from troth.operations.call import SELF, Call
from troth.operations.checkpoint import ShowCheckpoint
from troth.sdk.logwatch import open_watch
from troth.wire.api.checkpoints import DisputeAnswer, DisputeCheckpoint


class Server:
    """Answers about whatever log it has now."""

    def __init__(self, log: FakeLog) -> None:
        self.log = log
        self.disputes: list[str] = []
        self.failure: TrothError | None = None
        self.answer: DisputeAnswer | TrothError = DisputeAnswer(continued=False, detail="")

    async def call(self, name: str, request: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        if isinstance(request, DisputeCheckpoint):
            self.disputes.append(request.note)
            if isinstance(self.answer, TrothError):
                raise self.answer
            return self.answer
        return await ShowCheckpoint(self.log.folder, self.log.signer)(
            Call(SELF, RequestId("r"), request)
        )

    def stream(self, name: str, request: Any) -> Any:
        raise AssertionError(name)


class Node:
    """An agent's watch in a folder; `look` as often as wanted, also after a new start."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.alarms = 0
        self.folder = folder
        self.watch = Pinning(
            server, PinFile(folder), VirtualClock(), asyncio.sleep, disputed=self._count
        )

    def _count(self) -> None:
        self.alarms += 1

    def look(self) -> None:
        asyncio.run(self.watch.look())

    @property
    def size(self) -> int:
        return read_pin((self.folder / NAME).read_bytes()).size


EVENTS = make_events(700)
OTHERS = [*EVENTS[:299], make_event(300, actor="uid:31337"), *EVENTS[300:]]


def test_the_newest_checkpoint_is_remembered_also_by_the_next_process(tmp_path):
    log = make_log(EVENTS[:3])
    server = Server(log)
    Node(server, tmp_path).look()
    assert Node(server, tmp_path).size == 3
    for until in (300, 300, 700):
        log.grow(EVENTS[log.size : until])
        node = Node(server, tmp_path)
        node.look()
        assert (node.size, node.alarms) == (until, 0)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert server.disputes == []


@pytest.mark.parametrize("size", [300, 301, 700])
def test_history_that_was_rewritten_with_the_logs_own_keys_is_caught(tmp_path, size):
    log = make_log(EVENTS[:300])
    server = Server(log)
    node = Node(server, tmp_path)
    node.look()
    before = (tmp_path / NAME).read_bytes()
    server.log = make_log(OTHERS[:size])
    node.look()
    node.look()
    assert node.alarms == 1
    assert server.disputes == [log.checkpoint.decode()], "told once"
    assert (tmp_path / NAME).read_bytes() == before, "and not forgotten"
    (evidence,) = tmp_path.glob("log.disputed-*")
    kept = evidence.read_text()
    assert log.checkpoint.decode() in kept
    assert server.log.checkpoint.decode() in kept
    server.log = make_log(EVENTS[:400])
    node.look()
    assert node.size == 400, "the true one is followed again"


def test_a_shorter_log_is_caught(tmp_path):
    server = Server(make_log(EVENTS[:300]))
    node = Node(server, tmp_path)
    node.look()
    server.log = make_log(EVENTS[:299])
    node.look()
    assert node.alarms == 1
    assert len(server.disputes) == 1


def test_a_fork_that_grows_is_told_of_once(tmp_path):
    """Each look finds another size, and the same crime."""
    server = Server(make_log(EVENTS[:300]))
    node = Node(server, tmp_path)
    node.look()
    for size in range(301, 310):
        server.log = make_log(OTHERS[:size])
        node.look()
    assert node.alarms == 1
    assert len(server.disputes) == 1
    assert len([*tmp_path.glob("log.disputed-*")]) == 1


def test_a_server_that_is_behind_the_others_is_no_dispute(tmp_path):
    log = make_log(EVENTS[:300])
    server = Server(log)
    node = Node(server, tmp_path)
    node.look()
    for answer in (DisputeAnswer(continued=True, detail=""), Unavailable("behind")):
        server.log, server.answer = make_log(EVENTS[:299]), answer
        for _ in range(PATIENCE - 1):
            try:
                node.look()
            except Unavailable:
                assert answer is server.answer
        server.log = log
        node.look()
        assert node.alarms == 0


def test_a_server_that_says_for_long_that_it_isnt_rolled_back_isnt_believed(tmp_path):
    server = Server(make_log(EVENTS[:300]))
    server.answer = DisputeAnswer(continued=True, detail="")
    node = Node(server, tmp_path)
    node.look()
    server.log = make_log(EVENTS[:299])
    for _ in range(PATIENCE + 3):
        node.look()
    assert node.alarms == 1
    assert len(server.disputes) == PATIENCE, "then it was told"


def test_whoever_couldnt_tell_the_server_tells_it_later(tmp_path):
    server = Server(make_log(EVENTS[:300]))
    node = Node(server, tmp_path)
    node.look()
    server.log, server.answer = make_log(OTHERS[:300]), Unavailable("away")
    for _ in range(2):
        with pytest.raises(Unavailable):
            node.look()
    assert node.alarms == 1, "that waits for nobody"
    server.answer = DisputeAnswer(continued=False, detail="")
    node.look()
    node.look()
    assert node.alarms == 1
    assert len(server.disputes) == 3


def test_a_bad_proof_shows_nothing():
    log = make_log(EVENTS[:300])
    pin = begin_pin([key.render() for key in log.keys], log.checkpoint.decode())
    log.grow(EVENTS[300:310])
    for proof in ([], ["zz"], ["00"], ["00" * 32]):
        with pytest.raises(Unproved):
            renew_pin(pin, log.checkpoint.decode(), proof)


def test_a_log_with_other_keys_is_another_one(tmp_path):
    server = Server(make_log(EVENTS[:300]))
    node = Node(server, tmp_path)
    node.look()
    server.log = make_log(EVENTS[:400], make_signer("other.example"))
    node.look()
    assert node.alarms == 1
    assert node.size == 300


def test_a_server_that_is_away_is_no_dispute(tmp_path):
    server = Server(make_log(EVENTS[:3]))
    server.failure = Unavailable("away")
    node = Node(server, tmp_path)
    with pytest.raises(Unavailable):
        node.look()
    assert not (tmp_path / NAME).exists()


def test_a_damaged_pin_begins_anew_and_says_so(tmp_path, capsys):
    server = Server(make_log(EVENTS[:3]))
    (tmp_path / NAME).write_bytes(b"{}")
    node = Node(server, tmp_path)
    node.look()
    assert "log.pin_damaged" in capsys.readouterr().out
    assert node.size == 3
    assert node.alarms == 1
    assert (tmp_path / f"{NAME}.damaged").read_bytes() == b"{}"


def test_a_services_damaged_pin_is_kept_and_told_of(tmp_path, caplog):
    server = Server(make_log(EVENTS[:3]))
    (tmp_path / "pin").write_bytes(b"{}")
    watch = open_watch(tmp_path / "pin")
    asyncio.run(watch.look(server.call))
    assert (watch.size, watch.problem) == (3, "What was remembered of the log can't be read.")
    assert (tmp_path / "pin.damaged").read_bytes() == b"{}"
    assert watch.problem in caplog.text


def test_a_checkpoint_that_the_keys_didnt_sign_begins_nothing():
    log, other = make_log(EVENTS[:3]), make_log(EVENTS[:4])
    keys = [key.render() for key in log.keys]
    forged = other.checkpoint.decode().replace("\n4\n", "\n5\n")
    with pytest.raises(Invalid):
        begin_pin(keys, forged)
    with pytest.raises(Invalid):
        begin_pin([], log.checkpoint.decode())


def test_a_service_remembers_in_memory_and_in_a_file(tmp_path, caplog):
    log = make_log(EVENTS[:300])
    server = Server(log)
    one, two = open_watch(), open_watch(tmp_path / "pin")
    for watch in (one, two):
        asyncio.run(watch.look(server.call))
    log.grow(EVENTS[300:310])
    for watch in (one, two):
        asyncio.run(watch.look(server.call))
        assert (watch.size, watch.problem) == (310, "")
    server.log = make_log(OTHERS)
    again = open_watch(tmp_path / "pin")
    for watch in (one, again):
        asyncio.run(watch.look(server.call))
        asyncio.run(watch.look(server.call))
        assert "doesn't prove" in watch.problem
        assert watch.size == 310
    assert len(server.disputes) == 2
    assert "rewritten" in caplog.text
