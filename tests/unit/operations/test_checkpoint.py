"""Checkpoints for clients, and what they hold against the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from tests.fakes.house import FakeHouse, in_house
from tests.unit.operations.test_log import Works, alter, note
from troth.archive.place import Folder
from troth.archive.tiles import LogFolder
from troth.audit.pin import begin_pin, renew_pin
from troth.core.errors import Denied, Invalid, Refused, Unavailable
from troth.core.ids import RequestId
from troth.live.logwatch import LogWatch
from troth.operations.call import ANONYMOUS, SELF, Call, Caller
from troth.operations.checkpoint import DisputeCheckpoint as Dispute
from troth.operations.log import WriteLog
from troth.wire.api.checkpoints import AbandonCheckpoint, DisputeCheckpoint, ShowCheckpoint


@in_house
async def test_anybody_sees_that_the_log_goes_on(house: FakeHouse) -> None:
    with pytest.raises(Unavailable):
        await house.call("checkpoint.show", ShowCheckpoint(), ANONYMOUS)
    works = Works(house)
    await works.run()
    first = await house.call("checkpoint.show", ShowCheckpoint(), ANONYMOUS)
    pin = begin_pin(first.keys, first.note)
    await note(house, 300)
    await works.run()
    later = await house.call("checkpoint.show", ShowCheckpoint(since=pin.size), ANONYMOUS)
    assert renew_pin(pin, later.note, later.proof).size > 300
    beyond = await house.call("checkpoint.show", ShowCheckpoint(since=10**6), ANONYMOUS)
    assert beyond.proof == []


@in_house
async def test_a_dispute_is_recorded_if_the_log_signed_what_it_doesnt_continue(
    house: FakeHouse,
) -> None:
    works, p = Works(house), house.parts
    await note(house, 5)
    await works.run()
    shown = await house.call("checkpoint.show", ShowCheckpoint())
    answer = await house.call("checkpoint.dispute", DisputeCheckpoint(note=shown.note))
    assert answer.continued
    assert await house.events("log.disputed") == []

    size = p.log.size
    for entries, root in ((size, b"\1" * 32), (size + 1000, b"\2" * 32)):
        forged = p.signer.sign(entries, root, p.clock.now())  # with the log's own keys
        answer = await house.call("checkpoint.dispute", DisputeCheckpoint(note=forged))
        assert not answer.continued
        again = await house.call("checkpoint.dispute", DisputeCheckpoint(note=forged))
        assert again == answer
    await works.run()
    found = await house.events("log.disputed")
    assert [event.body["size"] for event in found] == [size, size + 1000], "each once"
    with pytest.raises(Invalid):
        await house.call("checkpoint.dispute", DisputeCheckpoint(note=shown.note.replace("A", "B")))


@in_house
async def test_a_server_that_is_behind_says_so_and_writes_nothing(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    await note(house, 5)
    await works.run()
    before = {path: path.read_bytes() for path in _list_files(house)}
    second = LogFolder(Folder(house.directory / "second"))
    behind = Dispute(p.store, p.clock, second, p.signer)
    shown = await house.call("checkpoint.show", ShowCheckpoint())
    asked = Call(SELF, RequestId("r"), DisputeCheckpoint(note=shown.note))
    with pytest.raises(Unavailable):
        await behind(asked)
    assert await house.events("log.disputed") == []
    await WriteLog(p.store, p.clock, second, p.signer, works.sealer)()
    assert (await behind(asked)).continued
    assert {path: path.read_bytes() for path in _list_files(house)} == before


def _list_files(house: FakeHouse) -> list[Path]:
    return [path for path in (house.directory / "log").rglob("*") if path.is_file()]


@in_house
async def test_services_may_look_and_dispute(house: FakeHouse) -> None:
    """Whoever watches the log does it with the role that its certificate gives."""
    await Works(house).run()
    for role in ("workload", "node", "auditor", "operator", "admin"):
        caller = Caller("spiffe://example.org/payments", frozenset({role}), source="test")
        watch = LogWatch(_fail)

        async def ask(name: str, body: Struct, caller: Caller = caller) -> Any:
            return await house.call(name, body, caller)

        await watch.look(ask)
        assert watch.size > 0
        shown = await house.call("checkpoint.show", ShowCheckpoint(), caller)
        await house.call("checkpoint.dispute", DisputeCheckpoint(note=shown.note), caller)


def _fail(detail: str, seen: str, found: str) -> None:
    raise AssertionError(detail)


@in_house
async def test_after_a_fork_somebody_says_that_the_log_goes_on(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    request = AbandonCheckpoint(reason="INC-44")
    with pytest.raises(Refused, match="No checkpoint is signed"):
        await house.call("checkpoint.abandon", request)
    await note(house, 20)
    await works.run()
    with pytest.raises(Refused, match="nothing to abandon"):
        await house.call("checkpoint.abandon", request)
    size, root = p.log.size, p.log.root
    await alter(house, size, subject="somebody else")
    for _ in range(3):
        await works.run()
    shown = await p.store.read(lambda tx: tx.checkpoints.newest())
    assert shown is not None
    assert (shown.size, shown.root) == (size, root)
    auditor = Caller("uid:7", frozenset({"auditor"}), source="test")
    with pytest.raises(Denied):
        await house.call("checkpoint.abandon", request, auditor)
    done = await house.call("checkpoint.abandon", request)
    assert (done.size, done.root) == (size, root.hex())
    await works.run()
    signed = await p.store.read(lambda tx: tx.checkpoints.newest())
    assert signed is not None
    assert signed.size == p.log.size == await p.store.read(lambda tx: tx.journal.head())
    assert signed.root == p.log.root
    (event,) = await house.events("checkpoint.abandoned")
    assert event.actor == "uid:0"
    assert (event.body["size"], event.body["note"]) == (size, shown.note)
    assert event.body["reason"] == "INC-44"
    with pytest.raises(Refused):
        await house.call("checkpoint.abandon", request)
