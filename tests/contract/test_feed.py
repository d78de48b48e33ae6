"""The feed on both engines: who seals, what becomes live when, and what passes for healthy."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import delete, or_

from tests.fakes.stores import ENGINES, NOW, hold_writer, make_event, make_url, transact
from troth.core.clock import VirtualClock
from troth.live.snapshot import Snapshot
from troth.operations.feed import MOST_WAITING, FollowJournal, read_seed
from troth.store.engine import Store, open_store
from troth.store.sealer import BATCH, LEASE_TTL, Sealer
from troth.store.tables import journal

QUIET = timedelta(seconds=4)


@pytest.fixture
def clock():
    return VirtualClock(NOW)


@pytest.fixture(params=ENGINES)
def store(request, tmp_path, clock):
    store = open_store(make_url(request.param, tmp_path), clock=clock)
    yield store
    store.close()


SHARED = pytest.mark.parametrize("store", ["postgresql"], indirect=True)
"""A database file has one server, and nothing in it waits to be sealed."""


class Node:
    """One server's feed; several in a test share its store, as servers share a database."""

    def __init__(self, store, name):
        self.store = store
        self.snapshot = Snapshot(store.clock, timedelta(seconds=15))
        self.feed = FollowJournal(
            store, Sealer(store, clock=store.clock, holder=name), self.snapshot
        )
        self.snapshot.load(asyncio.run(read_seed(store, store.clock.now())))

    def follow(self):
        """Run the feed once; what it took in."""
        return asyncio.run(self.feed())


def append(store, count=1):
    events = [make_event(number, type="test.noted") for number in range(count)]
    transact(store, lambda tx: tx.journal.append_all(events))


def test_what_is_committed_is_live_after_one_run(store, clock):
    node = Node(store, "one")
    for epoch in (1, 2):
        append(store)
        clock.advance(QUIET)
        assert node.follow() == {"test.noted"}
        assert (node.snapshot.epoch, node.snapshot.age) == (epoch, 0)


@pytest.mark.parametrize("leads", [False, True], ids=["first run", "sealed before"])
def test_more_than_a_batch_is_live_after_one_run(store, leads):
    node = Node(store, "one")
    if leads:
        append(store)
        node.follow()
    append(store, BATCH + 5)
    node.follow()
    assert node.snapshot.epoch == BATCH + 5 + leads


def test_what_another_has_sealed_is_live_and_a_quiet_journal_is_heard(store, clock):
    one, two = Node(store, "one"), Node(store, "two")
    append(store, 3)
    one.follow()
    clock.advance(QUIET)
    assert two.follow() == {"test.noted"}
    assert (two.snapshot.epoch, two.snapshot.age) == (3, 0)
    clock.advance(QUIET)
    assert two.follow() == set()
    assert two.snapshot.age == 0


@SHARED
def test_a_sealer_that_is_stuck_does_not_pass_for_a_quiet_journal(store, clock):
    one, two = Node(store, "one"), Node(store, "two")
    append(store)
    one.follow()
    two.follow()
    append(store)  # and the first does nothing about it
    clock.advance(QUIET)
    two.follow()
    assert (two.snapshot.epoch, two.snapshot.age) == (1, QUIET.total_seconds())
    clock.advance(LEASE_TTL)
    two.follow()
    assert (two.snapshot.epoch, two.snapshot.age) == (2, 0), "its lease is over: another seals"


@SHARED
def test_who_loses_the_lease_hears_no_more_than_what_it_has_seen(store, clock):
    one, two = Node(store, "one"), Node(store, "two")
    append(store)
    one.follow()
    clock.advance(LEASE_TTL)
    append(store)
    two.follow()
    append(store)  # which the second holds back
    clock.advance(QUIET)
    one.follow()
    assert one.snapshot.epoch == 2, "what the second has sealed"
    assert one.snapshot.age == (LEASE_TTL + QUIET).total_seconds()
    two.follow()
    one.follow()
    assert (one.snapshot.epoch, one.snapshot.age) == (3, 0)


def test_who_gets_the_lease_back_misses_nothing_in_between(store, clock):
    one, two = Node(store, "one"), Node(store, "two")
    append(store)
    one.follow()
    clock.advance(LEASE_TTL)
    append(store, 3)
    two.follow()
    clock.advance(LEASE_TTL)
    append(store, 2)
    one.follow()  # it thinks that it has sealed all the time
    assert (one.snapshot.epoch, one.snapshot.age) == (6, 0)


def test_sealing_waits_behind_no_writer(tmp_path, clock):
    store = open_store(make_url("postgresql", tmp_path), clock=clock)
    node = Node(store, "one")

    async def main():
        await store.transact(lambda tx: tx.journal.append(make_event(type="test.noted")))
        async with hold_writer(store):
            async with asyncio.timeout(20):
                await node.feed()
            assert node.snapshot.epoch == 1

    asyncio.run(main())
    store.close()


def set_back(store, position):
    """Take away what a standby had not got yet when it took over."""
    transact(store, lambda tx: tx._session.execute(delete(journal).where(_gone(position))))


def _gone(position):
    return or_(journal.c.position > position, journal.c.position.is_(None))


def cut_off(store, name="web"):
    body = {"id": f"idn_{name}", "spiffe_id": f"spiffe://example.org/{name}", "state": "suspended"}
    event = make_event(type="identity.suspended", body=body)
    transact(store, lambda tx: tx.journal.append(event))


@pytest.mark.parametrize("leads", [True, False], ids=["sealer", "other"])
@pytest.mark.parametrize("more", [0, 3, 5, 9], ids=["behind", "less", "as far", "ahead"])
def test_a_journal_that_was_set_back_is_read_anew(store, clock, leads, more):
    one, two = Node(store, "one"), Node(store, "two")
    node = one if leads else two
    append(store, 10)
    one.follow()
    two.follow()
    assert node.snapshot.epoch == 10
    set_back(store, 5)
    clock.advance(QUIET)
    if more:
        cut_off(store)
        append(store, more - 1)
        Node(store, "one").follow()  # as another process under the same lease would
    loads = node.snapshot.loads
    node.follow()
    assert (node.snapshot.epoch, node.snapshot.age) == (5 + more, 0)
    assert node.snapshot.loads == loads + 1
    cut_off(store, "later")
    one.follow()
    two.follow()
    assert node.snapshot.epoch == 6 + more
    assert node.snapshot.list_cut_off()[:1] == ["spiffe://example.org/later"]


class SlowStore(Store):
    """The store, whose every answer takes its time."""

    def __init__(self, store, clock):
        self._slow, self.clock, self._hands = store, clock, clock

    async def read(self, work):
        found = await self._slow.read(work)
        self._hands.advance(QUIET)
        return found


def test_the_lease_counts_from_the_question(store, clock):
    one, two = Node(store, "one"), Node(store, "two")
    append(store)
    one.follow()
    two.feed = FollowJournal(
        SlowStore(store, clock), Sealer(store, clock=clock, holder="two"), two.snapshot
    )
    two.follow()
    assert (two.snapshot.epoch, two.snapshot.age) == (1, QUIET.total_seconds())


@pytest.mark.parametrize("backlog", [3, MOST_WAITING + 5])
def test_under_a_steady_stream_of_commits_the_lease_is_as_old_as_the_sealer_is_behind(
    store, clock, backlog
):
    one, two = Node(store, "one"), Node(store, "two")
    append(store)
    one.follow()
    append(store, backlog)
    second = timedelta(seconds=1)
    for _ in range(20 if backlog < BATCH else 4):
        two.follow()
        seal_some(store, "one", backlog)  # never all of it
        append(store, backlog)
        clock.advance(second)
        assert two.snapshot.age <= 3 * second.total_seconds()


def seal_some(store, holder, count):
    def seal(tx):
        assert tx.leases.take("sealer", holder, store.clock.now(), LEASE_TTL)
        tx.journal.seal(count)

    transact(store, seal)


class FullSealer(Sealer):
    """Always finds a full batch, since so much is committed while it seals one."""

    def __init__(self, node, batches, seize=None):
        super().__init__(node.store, clock=node.store.clock, holder="one")
        self.node, self.left, self.seize, self.ages = node, batches, seize, []

    async def seal_batch(self):
        sealed = await super().seal_batch()
        self.node.store.clock.advance(timedelta(seconds=2))
        self.ages.append(self.node.snapshot.age)
        self.left -= 1
        if self.left > 0:
            events = [make_event(number, type="test.noted") for number in range(BATCH)]
            await self.node.store.transact(lambda tx: tx.journal.append_all(events))
        if self.left == self.seize:
            self.node.store.clock.advance(LEASE_TTL)
            await self.node.store.transact(lambda tx: take(tx, "two", self.node.store.clock))
        return sealed


def take(tx, holder, clock):
    return tx.leases.take("sealer", holder, clock.now(), LEASE_TTL)


@SHARED
def test_who_seals_full_batches_for_long_keeps_both_leases(store, clock):
    node = Node(store, "one")
    append(store, 2 * BATCH)
    sealer = FullSealer(node, batches=12)
    node.feed = FollowJournal(store, sealer, node.snapshot)
    node.follow()
    assert node.snapshot.epoch == 12 * BATCH + BATCH
    assert max(sealer.ages) <= 10, "all but the newest is live, and known to be"
    assert not transact(store, lambda tx: take(tx, "two", clock))


@SHARED
def test_who_lost_the_lease_between_full_batches_seals_no_more(store, clock):
    node = Node(store, "one")
    append(store, 2 * BATCH)
    sealer = FullSealer(node, batches=12, seize=8)
    node.feed = FollowJournal(store, sealer, node.snapshot)
    node.follow()
    assert node.snapshot.epoch == 4 * BATCH
