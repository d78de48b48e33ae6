"""What every engine promises about transactions, reads, the journal and the sealer."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.stores import (
    DAY,
    ENGINES,
    NOW,
    hold_writer,
    make_event,
    make_named,
    make_token,
    make_url,
    read,
    seal_all,
    transact,
)
from troth.core.clock import VirtualClock
from troth.core.errors import Internal, NotFound, Unavailable
from troth.store.engine import open_store
from troth.store.sealer import BATCH, LEASE_TTL, Sealer


@pytest.fixture(params=ENGINES)
def url(request, tmp_path):
    return make_url(request.param, tmp_path)


@pytest.fixture
def clock():
    return VirtualClock(NOW)


@pytest.fixture
def store(url, clock):
    store = open_store(url, clock=clock)
    yield store
    store.close()


SHARED = pytest.mark.parametrize("url", ["postgresql"], indirect=True)
"""In a database file an event is sealed as it is committed."""


def _journal_length(store):
    asyncio.run(_seal(store))
    return read(store, lambda tx: tx.journal.head())


async def _seal(store):
    return await seal_all(Sealer(store, clock=store.clock, holder="test"))


def test_what_a_transaction_returned_is_there_for_reads(store):
    assert transact(store, lambda tx: [tx.settings.set("a", "1"), 7]) == [None, 7]
    assert read(store, lambda tx: tx.settings.get("a")) == "1"


def test_a_failing_function_takes_back_its_own_changes_and_no_others(store):
    def good(key):
        def run(tx):
            tx.settings.set(key, "here")
            tx.journal.append(make_event())
            return key

        return run

    def bad(tx):
        good("bad")(tx)
        raise NotFound("no such thing")

    async def main():
        async with hold_writer(store):
            waiting = asyncio.gather(
                *(store.transact(f) for f in (good("x"), bad, good("y"))), return_exceptions=True
            )
        return await waiting

    first, failed, second = asyncio.run(main())
    assert (first, second) == ("x", "y")
    assert isinstance(failed, NotFound)
    kept = read(store, lambda tx: [tx.settings.get(k) for k in ("x", "bad", "y")])
    assert kept == ["here", None, "here"]
    assert _journal_length(store) == 2


def test_a_broken_constraint_spoils_only_its_own_function(store):
    async def main():
        async with hold_writer(store):
            waiting = asyncio.gather(
                store.transact(lambda tx: tx.identities.add(make_named("api"))),
                store.transact(lambda tx: tx.identities.add(make_named("api", id="idn_2"))),
                store.transact(lambda tx: tx.identities.add(make_named("web"))),
                return_exceptions=True,
            )
        return await waiting

    first, second, third = asyncio.run(main())
    assert third is None
    # Which of the two comes first is a matter of luck where there are several writers.
    assert sorted([type(first).__name__, type(second).__name__]) == ["Conflict", "NoneType"]
    assert read(store, lambda tx: [i.name for i in tx.identities.page()]) == ["api", "web"]


def test_an_unknown_error_reaches_the_caller_as_it_is(store):
    class OwnError(Exception):
        pass

    def fail(tx):
        tx.settings.set("a", "1")
        raise OwnError("inside")

    with pytest.raises(OwnError, match="inside"):
        transact(store, fail)
    with pytest.raises(OwnError, match="inside"):
        read(store, lambda tx: (_ for _ in ()).throw(OwnError("inside")))
    assert read(store, lambda tx: tx.settings.get("a")) is None


def test_stop_iteration_is_an_error_like_any_other(store):
    with pytest.raises(Internal, match="StopIteration"):
        transact(store, lambda tx: next(iter([])))
    with pytest.raises(Internal, match="StopIteration"):
        read(store, lambda tx: next(iter([])))


def test_a_function_must_not_be_a_coroutine(store):
    async def change(tx):
        tx.settings.set("a", "1")

    wrong: Any = change
    for run in (transact, read):
        with pytest.raises(Internal, match="synchronous"):
            run(store, wrong)


def test_a_transaction_ends_with_its_function(store):
    for run in (transact, read):
        kept = run(store, lambda tx: tx)
        with pytest.raises(Internal, match="after its function"):
            kept.settings.get("a")


@pytest.mark.parametrize(
    "change",
    [lambda tx: tx.settings.set("a", "1"), lambda tx: tx.journal.append(make_event())],
    ids=["row", "journal"],
)
def test_a_read_changes_nothing(store, change):
    with pytest.raises(Internal, match="needs a transaction"):
        read(store, change)
    assert read(store, lambda tx: tx.settings.get("a")) is None
    transact(store, change)


def test_a_read_sees_one_moment_from_begin_to_end(store):
    looked, go_on = threading.Event(), threading.Event()

    def look(tx):
        first = tx.settings.get("a")
        looked.set()
        assert go_on.wait(30)
        return first, tx.settings.get("a")

    async def main():
        reading = asyncio.ensure_future(store.read(look))
        assert await asyncio.to_thread(looked.wait, 30)
        await store.transact(lambda tx: tx.settings.set("a", "2"))
        go_on.set()
        return await reading

    transact(store, lambda tx: tx.settings.set("a", "1"))
    assert asyncio.run(main()) == ("1", "1")
    assert read(store, lambda tx: tx.settings.get("a")) == "2"


def test_reads_dont_wait_for_a_slow_writer(store):
    async def main():
        async with hold_writer(store):
            return await asyncio.gather(
                *(store.read(lambda tx: tx.settings.get("a")) for _ in range(20))
            )

    assert asyncio.run(main()) == [None] * 20


def test_a_caller_that_went_away_before_its_turn_leaves_no_trace(store):
    async def main():
        async with hold_writer(store):
            gone = asyncio.ensure_future(store.transact(lambda tx: tx.settings.set("a", "1")))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            last = asyncio.ensure_future(store.transact(lambda tx: tx.settings.set("b", "1")))
            await asyncio.sleep(0)
        await last

    asyncio.run(main())
    assert read(store, lambda tx: (tx.settings.get("a"), tx.settings.get("b"))) == (None, "1")


def test_after_close_everything_is_unavailable(store):
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        transact(store, lambda tx: None)
    with pytest.raises(Unavailable, match="closed"):
        read(store, lambda tx: None)
    store.close()


def test_what_is_queued_when_closing_is_written(url, clock):
    store = open_store(url, clock=clock)

    async def main():
        async with hold_writer(store):
            queued = asyncio.ensure_future(store.transact(lambda tx: tx.settings.set("a", "1")))
            await asyncio.sleep(0)
            closing = asyncio.create_task(asyncio.to_thread(store.close))
            await asyncio.sleep(0)
        await queued
        await closing

    asyncio.run(main())
    again = open_store(url, clock=clock)
    assert read(again, lambda tx: tx.settings.get("a")) == "1"
    again.close()


def test_commits_that_journal_something_are_announced(store):
    rang = []

    async def main():
        loop = asyncio.get_running_loop()
        failed = []
        loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))
        store.on_commit(lambda: 1 / 0)
        store.on_commit(lambda: rang.append(asyncio.get_running_loop() is loop))
        await store.transact(lambda tx: tx.settings.set("a", "1"))
        await asyncio.sleep(0)
        assert rang == []
        async with hold_writer(store):
            waiting = asyncio.gather(
                *(store.transact(lambda tx: tx.journal.append(make_event())) for _ in range(9))
            )
        await waiting
        await asyncio.sleep(0)
        assert {type(error) for error in failed} == {ZeroDivisionError}

    asyncio.run(main())
    assert rang == [True] * len(rang)
    assert len(rang) == 1 if store.writers == 1 else 1 <= len(rang) <= 9  # once a group


def test_patient_events_are_announced_soon_or_with_others(store):
    def note(tx, patient):
        tx.journal.append_all([make_event()], patient=patient)

    async def main():
        rang = asyncio.Event()
        store.on_commit(rang.set)
        for _ in range(2):
            await store.transact(lambda tx: note(tx, True))
            await asyncio.wait_for(rang.wait(), 10)  # by itself
            rang.clear()
        await store.transact(lambda tx: note(tx, True))
        await store.transact(lambda tx: note(tx, False))
        await asyncio.sleep(0)
        assert rang.is_set()  # at once
        rang.clear()
        await store.transact(lambda tx: note(tx, True) or note(tx, False) or note(tx, True))
        await asyncio.sleep(0)
        assert rang.is_set()

    asyncio.run(main())


def test_a_function_that_failed_announces_nothing(store):
    def fail(tx):
        tx.journal.append(make_event())
        raise NotFound("no")

    async def main():
        rang = []
        store.on_commit(lambda: rang.append(1))
        with pytest.raises(NotFound):
            await store.transact(fail)
        await asyncio.sleep(0)
        return rang

    assert asyncio.run(main()) == []


def test_of_many_takers_of_one_join_token_exactly_one_wins(store, url, clock):
    other = open_store(url, clock=clock)  # another process on the same database
    transact(store, lambda tx: tx.join_tokens.add(make_token()))

    async def main():
        def take(who):
            return lambda tx: tx.join_tokens.take("jtk_1", NOW, f"key-{who}", NOW + DAY, who)

        return await asyncio.gather(
            *((store, other)[n % 2].transact(take(f"node-{n}")) for n in range(20))
        )

    outcomes = asyncio.run(main())
    other.close()
    (winner,) = [f"node-{n}" for n, won in enumerate(outcomes) if won]
    assert outcomes.count(False) == 19
    taken = read(store, lambda tx: tx.join_tokens.find("jtk_1"))
    assert (taken.used_by, taken.key_hash, taken.used_at) == (winner, f"key-{winner}", NOW)


def test_sealed_positions_are_dense_and_in_order_whoever_writes_and_seals(store, url, clock):
    other = open_store(url, clock=clock)
    writers, each = 20, 15

    async def write(which, writer):
        for number in range(each):
            event = make_event(number, subject=f"writer-{writer}", at=NOW)
            await which.transact(lambda tx, event=event: tx.journal.append(event))

    async def seal(which, holder, done):
        sealer = Sealer(which, clock=clock, holder=holder)
        while not done.is_set():
            await seal_all(sealer)
        await seal_all(sealer)

    async def main():
        done = asyncio.Event()
        sealing = [asyncio.create_task(seal(s, h, done)) for s, h in ((store, "a"), (other, "b"))]
        await asyncio.gather(*(write((store, other)[w % 2], w) for w in range(writers)))
        done.set()
        await asyncio.gather(*sealing)

    asyncio.run(main())
    other.close()
    clock.advance(LEASE_TTL)
    asyncio.run(_seal(store))
    events = read(store, lambda tx: tx.journal.after(0, 1000))
    assert [e.position for e in events] == list(range(1, writers * each + 1))
    for writer in range(writers):
        mine = [e.event.body["number"] for e in events if e.event.subject == f"writer-{writer}"]
        assert mine == list(range(each))


@SHARED
def test_sealing_goes_on_until_nothing_is_left(store, clock):
    def append_many(tx):
        for number in range(BATCH + 5):
            tx.journal.append(make_event(number))

    transact(store, append_many)
    assert read(store, lambda tx: (tx.journal.head(), tx.journal.after(0, 10))) == (0, [])
    assert asyncio.run(_seal(store)) == BATCH + 5
    assert asyncio.run(_seal(store)) == 0
    assert read(store, lambda tx: tx.journal.head()) == BATCH + 5


@SHARED
def test_only_the_holder_of_the_lease_seals(store, clock):
    first = Sealer(store, clock=clock, holder="first")
    second = Sealer(store, clock=clock, holder="second")

    async def main():
        await seal_all(first)
        await store.transact(lambda tx: tx.journal.append(make_event()))
        assert await seal_all(second) == 0
        clock.advance(LEASE_TTL)
        assert await seal_all(second) == 1
        assert await seal_all(first) == 0

    asyncio.run(main())


def test_events_come_back_as_they_were(store):
    event = make_event(5, at=NOW + timedelta(microseconds=1), version=3)
    transact(store, lambda tx: tx.journal.append(event))
    asyncio.run(_seal(store))
    assert [e.event for e in read(store, lambda tx: tx.journal.after(0, 10))] == [event]


def test_pages_of_the_journal(store):
    def fill(tx):
        for number in range(6):
            kind = "identity.registered" if number % 2 else "node.joined"
            tx.journal.append(make_event(number, type=kind, subject=f"s{number // 2}"))
        tx.journal.append(make_event(9, type="identityx.made", subject="s9"))

    transact(store, fill)
    asyncio.run(_seal(store))

    def numbers(**how):
        return [e.position for e in read(store, lambda tx: tx.journal.page(**how))]

    assert numbers() == [1, 2, 3, 4, 5, 6, 7]
    assert numbers(subject="s1") == [3, 4]
    assert numbers(type_prefix="identity.") == [2, 4, 6]
    assert numbers(type_prefix="identity") == [2, 4, 6, 7]
    assert numbers(type_prefix="%") == []
    assert read(store, lambda tx: tx.journal.last_of("identity.")) == 6
    assert read(store, lambda tx: tx.journal.last_of("certificate.")) == 0
    assert numbers(type_prefix="node.joined", subject="s0") == [1]
    assert numbers(after=2, limit=2) == [3, 4]
    assert [e.position for e in read(store, lambda tx: tx.journal.recent(3))] == [5, 6, 7]
    assert [e.position for e in read(store, lambda tx: tx.journal.after(5, 10))] == [6, 7]
