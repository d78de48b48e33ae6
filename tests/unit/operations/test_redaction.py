"""Redaction: persons go, for good and everywhere; that it happened stays, with its proofs."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from tests.fakes.house import LEASE, FakeHouse, in_house
from tests.unit.operations.test_log import Works, note
from troth.audit.verification import verify_log
from troth.core.errors import Denied, NotFound, Refused, Unavailable
from troth.core.ids import RequestId
from troth.live.snapshot import Snapshot
from troth.operations.call import Caller
from troth.operations.feed import FollowJournal, read_seed
from troth.operations.log import CompareRows
from troth.operations.redaction import FollowRedactions
from troth.store.sealer import Sealer
from troth.store.transaction import Transaction
from troth.wire.api.holds import PlaceHold
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.journal import ListJournal
from troth.wire.api.redactions import RedactEvent
from troth.wire.api.revocations import FollowRevocations, RevocationSnapshot

WORKLOAD = Caller("spiffe://example.org/ledger", frozenset({"workload"}))
AUDITOR = Caller("uid:7", frozenset({"auditor"}), source="test")


class FakeArchive:
    """Remembers what was taken out of it."""

    def __init__(self) -> None:
        self.redacted: list[int] = []
        self.failure: Exception | None = None

    def redact_event(self, position: int) -> bool:
        if self.failure is not None:
            raise self.failure
        self.redacted.append(position)
        return True


async def find(house: FakeHouse, subject: str) -> int:
    page = await house.call("journal.ls", ListJournal(subject=subject))
    return int(page.items[-1].position)


@in_house
async def test_persons_go_from_rows_and_files_and_every_proof_stays(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    await note(house, 300)
    await works.run()
    before = (p.log.size, p.log.root)
    position = await find(house, "x7")
    done = await house.call("journal.redact", RedactEvent(position=position, reason="asked to"))
    assert (done.position, done.type) == (position, "test.noted")
    await works.run()

    (row,) = await p.store.read(lambda tx: tx.journal.list_stored(position - 1, 1))
    assert (row.subject, row.actor, row.body, row.salt) == ("", "", "{}", None)
    assert p.log.find_entry(position)[1] == b""
    assert b'"x7"' not in b"".join(
        path.read_bytes() for path in (house.directory / "log" / "detail").rglob("*/*")
    ) + b"".join(
        path.read_bytes()
        for path in (house.directory / "log" / "detail").glob("*")
        if path.is_file()
    )
    findings = verify_log(p.log.read, p.log.size, p.log.root)
    assert findings.intact
    assert findings.redacted == 1
    assert p.log.compute_root(before[0]) == before[1]
    (event,) = await house.events("journal.redacted")
    assert event.body["position"] == position
    assert event.body["reason"] == "asked to"

    compare = CompareRows(p.store, p.clock, p.log)
    await compare()
    assert await house.events("journal.altered") == []
    await house.call("journal.redact", RedactEvent(position=position, reason="again"))


@in_house
async def test_the_archive_follows_also_after_a_crash(house: FakeHouse) -> None:
    works, p, archive = Works(house), house.parts, FakeArchive()
    follow = FollowRedactions(p.store, archive)
    await note(house, 3)
    await works.run()
    positions = [await find(house, f"x{number}") for number in range(3)]
    for position in positions:
        await house.call("journal.redact", RedactEvent(position=position, reason="asked to"))
    await works.run()
    archive.failure = Unavailable("the disk is full")
    with pytest.raises(Unavailable):
        await follow()
    archive.failure = None
    await follow()
    await follow()
    assert archive.redacted == positions


@in_house
async def test_what_others_are_proved_by_stays(house: FakeHouse) -> None:
    works = Works(house)
    await note(house, 1)
    await works.run()
    page = await house.call("journal.ls", ListJournal(type="authority."))
    needed = page.items[0].position
    with pytest.raises(Refused, match="authority"):
        await house.call("journal.redact", RedactEvent(position=needed, reason="no"))
    with pytest.raises(Unavailable, match="entries so far"):
        await house.call("journal.redact", RedactEvent(position=10**6, reason="no"))
    with pytest.raises(Denied):
        await house.call("journal.redact", RedactEvent(position=1, reason="no"), AUDITOR)
    with pytest.raises(NotFound):
        house.parts.log.find_entry(10**6)


@in_house
async def test_a_legal_hold_keeps_it(house: FakeHouse) -> None:
    works = Works(house)
    await note(house, 1)
    await works.run()
    position = await find(house, "x0")
    hold = PlaceHold(name="case-13", since=house.clock.now(), reason="a case")
    await house.call("hold.place", hold)
    with pytest.raises(Refused, match="case-13"):
        await house.call("journal.redact", RedactEvent(position=position, reason="asked to"))


@in_house
async def test_events_that_come_with_a_redaction_keep_their_details(house: FakeHouse) -> None:
    """The bundle of what is redacted fills in the same batch."""
    works, p = Works(house), house.parts
    await note(house, 300)
    await works.run()
    position = await find(house, "x297")
    await house.call("journal.redact", RedactEvent(position=position, reason="asked to"))
    await note(house, 270)
    await works.run()
    gone = [one for one in range(1, p.log.size + 1) if not p.log.find_entry(one)[1]]
    assert gone == [position]
    assert verify_log(p.log.read, p.log.size, p.log.root).intact
    files = [path for path in (house.directory / "log").rglob("*") if path.is_file()]
    assert not [path for path in files if b'"x297"' in path.read_bytes()]


@in_house
async def test_a_restored_database_redacts_again(house: FakeHouse) -> None:
    """The backup has the row whole; that it was redacted since is in the log."""
    works, p = Works(house), house.parts
    await note(house, 300)
    await works.run()
    position = await find(house, "x7")
    (row,) = await p.store.read(lambda tx: tx.journal.list_stored(position - 1, 1))
    head = await p.store.read(lambda tx: tx.journal.head())
    await house.call("journal.redact", RedactEvent(position=position, reason="asked to"))
    await works.run()

    def restore(tx: Transaction) -> None:
        statement = text("DELETE FROM journal WHERE position >= :first")
        tx._session.execute(statement, {"first": position})
        tx.journal.put_back([row])
        rest = list(p.log.list_events(position, head))
        tx.journal.put_back(rest)

    await p.store.transact(restore)
    assert await p.store.read(lambda tx: tx.journal.find_stored(position)) == row
    await works.sealer.put_back_lost()
    found = await p.store.read(lambda tx: tx.journal.find_stored(position))
    assert found is not None
    assert (found.subject, found.actor, found.body, found.salt) == ("", "", "{}", None)
    await works.run()
    await CompareRows(p.store, p.clock, p.log)()
    assert await house.events("journal.altered") == []
    assert works.meter.forks == 0


async def redact_rows(house: FakeHouse, type_: str) -> None:
    """Take out of all rows of a type what the operation takes out."""

    def redact(tx: Transaction) -> None:
        for row in tx.journal.list_stored(0, 10_000):
            if row.type == type_:
                tx.journal.redact(row.position, bytes(32))

    await house.parts.store.transact(redact)


@in_house
async def test_who_comes_back_over_a_redacted_event_starts_again(house: FakeHouse) -> None:
    """What it told is in the state, and can't be told as a change any more."""
    await house.register()
    await house.settle()
    request = RequestId("r")
    follow: Any = partial(house.dispatcher.open, "revocation.follow", WORKLOAD, request)
    async with aclosing(follow(FollowRevocations())) as values:
        seen = await anext(values)
    await house.call("identity.quarantine", MoveIdentity(name="payments", reason="a test"))
    await house.settle()
    await redact_rows(house, "identity.quarantined")
    body = FollowRevocations(after=seen.epoch, mark=seen.mark)
    async with aclosing(follow(body)) as values:
        again = await anext(values)
    assert isinstance(again, RevocationSnapshot)
    assert again.cut_off == {"spiffe://example.org/payments": "quarantined"}


@in_house
async def test_a_server_that_reads_a_redacted_event_late_reads_the_state(house: FakeHouse) -> None:
    p = house.parts
    await house.register()
    await house.settle()
    late = Snapshot(house.clock, LEASE)
    late.reload(await read_seed(p.store, house.clock.now()))
    other = FollowJournal(p.store, Sealer(p.store, clock=p.clock, holder="other"), late)
    await house.call("identity.quarantine", MoveIdentity(name="payments", reason="a test"))
    await house.settle()
    await redact_rows(house, "identity.quarantined")
    assert "identity.quarantined" in await other()
    assert late.list_refused().cut_off == {"spiffe://example.org/payments": "quarantined"}
    assert late.epoch == p.snapshot.epoch
