"""What several servers on one PostgreSQL promise each other, and what outlives its outages."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fakes.postgres import Cluster, find_programs, start_cluster
from tests.fakes.stores import (
    NOW,
    make_certificate,
    make_event,
    make_named,
    read,
    seal_all,
    transact,
)
from troth.core.clock import SystemClock, VirtualClock
from troth.core.errors import Conflict, Internal, Invalid, Unavailable
from troth.core.ids import IdentityId
from troth.live.snapshot import Snapshot
from troth.operations.feed import FollowJournal, read_seed
from troth.store.crew import ATTEMPTS
from troth.store.engine import open_store
from troth.store.sealer import LEASE, Sealer
from troth.store.session import name_holder

LIMIT_SECONDS = 0.25


@pytest.fixture
def own_cluster():
    """A server that a test may stop; not the one that others share."""
    programs = find_programs()
    if programs is None:
        pytest.skip("Debian's package postgresql is not installed")
    cluster = Cluster(programs)
    cluster.start()
    yield cluster
    cluster.remove()


def _note(number):
    return make_event(number, type="test.noted")


class Node:
    """A store with the server's feed: what a change on another node must reach."""

    def __init__(self, store):
        self.store = store
        self.snapshot = Snapshot(store.clock, timedelta(seconds=15))
        self.feed = FollowJournal(
            store, Sealer(store, clock=store.clock, holder=store.holder), self.snapshot
        )
        self.bell = asyncio.Event()
        self.moved = asyncio.Event()

    async def run(self):
        """The server's background task, without the period that hides lost words."""
        self.snapshot.load(await read_seed(self.store, datetime.now(UTC)))
        self.store.on_commit(self.bell.set)
        self.store.on_news(self.bell.set)
        while True:
            self.bell.clear()
            await self.feed()
            self.moved.set()
            await self.bell.wait()

    async def await_epoch(self, epoch):
        async with asyncio.timeout(20):
            while self.snapshot.epoch < epoch:
                self.moved.clear()
                await self.moved.wait()


async def _measure(nodes, rounds, writer_of):
    """Seconds from each acknowledged commit until every other node's snapshot holds it."""
    tasks = [asyncio.create_task(node.run()) for node in nodes]
    delays = []
    try:
        await nodes[0].store.transact(lambda tx: tx.journal.append(_note(0)))
        await asyncio.gather(*(node.await_epoch(1) for node in nodes))
        for number in range(rounds):
            writer = nodes[writer_of(number)]
            await writer.store.transact(lambda tx, n=number: tx.journal.append(_note(n)))
            begun = time.perf_counter()
            await asyncio.gather(*(node.await_epoch(number + 2) for node in nodes))
            delays.append(time.perf_counter() - begun)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return sorted(delays)


@pytest.mark.parametrize("writer", [0, 1, 2], ids=["sealer", "other", "third"])
def test_a_change_on_one_node_is_live_on_all_within_the_limit(open_node, writer):
    async def main():
        nodes = [Node(open_node()) for _ in range(3)]
        return await _measure(nodes, 20, lambda _: writer)

    delays = asyncio.run(main())
    assert delays[len(delays) // 2] < LIMIT_SECONDS


def test_a_change_whose_node_died_before_a_word_is_live_all_the_same(open_node, url):
    async def main():
        node = Node(open_node())
        task = asyncio.create_task(node.run())
        await node.store.transact(lambda tx: tx.journal.append(_note(1)))
        await node.await_epoch(1)
        # Committed by somebody who says nothing to anybody.
        script = (
            "import asyncio, os, sys\n"
            "from tests.fakes.stores import make_event\n"
            "from troth.core.clock import SystemClock\n"
            "from troth.store.engine import open_store\n"
            "store = open_store(sys.argv[1], clock=SystemClock())\n"
            "event = make_event(2, type='test.noted')\n"
            "asyncio.run(store.transact(lambda tx: tx.journal.append(event)))\n"
            "os.kill(os.getpid(), 9)\n"
        )
        await asyncio.to_thread(_run, script, url)
        await node.await_epoch(2)
        task.cancel()

    asyncio.run(main())


def _start(script: str, *arguments: str) -> Any:
    places = [str(Path(__file__).parents[2]), *sys.path]
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(place for place in places if place)},
    )


def _run(script, *arguments):
    with _start(script, *arguments) as process:
        process.wait(30)


def test_the_sealer_s_death_is_noticed_at_once_and_another_seals(open_node, url):
    script = textwrap.dedent("""
        import asyncio, os, sys, time
        from troth.core.clock import SystemClock
        from troth.store.engine import open_store
        from troth.store.sealer import Sealer
        store = open_store(sys.argv[1], clock=SystemClock())
        sealer = Sealer(store, clock=store.clock, holder=store.holder)
        asyncio.run(sealer.seal_batch())
        print("ready", flush=True)
        time.sleep(60)
    """)
    other = _start(script, url)
    assert other.stdout.readline() == "ready\n"
    store = open_node()
    transact(store, lambda tx: tx.journal.append(make_event()))
    sealer = Sealer(store, clock=store.clock, holder=store.holder)
    assert asyncio.run(seal_all(sealer)) == 0  # the other one lives and holds the lease
    other.kill()
    other.wait(30)
    other.stdout.close()
    begun = time.monotonic()
    while not asyncio.run(seal_all(sealer)):
        assert time.monotonic() - begun < 5  # the lease itself would last for ten seconds
    assert read(store, lambda tx: tx.leases.find_holder(LEASE)) == store.holder


def test_holders_differ_and_one_that_never_showed_itself_is_gone(open_node):
    one, two = open_node(VirtualClock(NOW)), open_node(VirtualClock(NOW))
    assert one.holder != two.holder
    ttl = NOW.replace(hour=13) - NOW
    assert transact(one, lambda tx: tx.leases.take("l", name_holder(7), NOW, ttl))
    assert transact(two, lambda tx: tx.leases.take("l", two.holder, NOW, ttl))
    assert transact(two, lambda tx: tx.leases.take("m", "somebody", NOW, ttl))
    assert not transact(one, lambda tx: tx.leases.take("m", one.holder, NOW, ttl))


def test_a_certificate_never_slips_past_a_quarantine(open_node):
    """Each reads what the other writes: without watching, both would commit."""
    store, other = open_node(VirtualClock(NOW)), open_node(VirtualClock(NOW))
    transact(store, lambda tx: tx.identities.add(make_named("api")))
    api = IdentityId("idn_api")
    runs = []

    async def main():
        loop = asyncio.get_running_loop()
        looked, cut = asyncio.Event(), asyncio.Event()

        def issue(tx):
            runs.append(tx.settings.get("quarantined"))
            if runs[-1] is not None:
                raise Conflict("quarantined")
            loop.call_soon_threadsafe(looked.set)
            if len(runs) == 1:
                asyncio.run_coroutine_threadsafe(cut.wait(), loop).result(30)
            tx.certificates.add_intended(make_certificate())

        def quarantine(tx):
            tx.settings.set("quarantined", "yes")
            return tx.certificates.revoke_for_identity(api, NOW, "keyCompromise")

        issuing = asyncio.create_task(store.transact(issue))
        await looked.wait()
        revoked = await other.transact(quarantine)
        cut.set()
        with pytest.raises(Conflict, match="quarantined"):
            await issuing
        assert revoked == []

    asyncio.run(main())
    assert runs == [None, "yes"]


def test_functions_that_collide_all_succeed_in_some_order(open_node):
    stores = [open_node(), open_node()]
    transact(stores[0], lambda tx: tx.settings.set("n", "0"))

    def count(tx):
        tx.settings.set("n", str(int(tx.settings.get("n")) + 1))

    async def main():
        await asyncio.gather(*(stores[n % 2].transact(count) for n in range(60)))

    asyncio.run(main())
    assert read(stores[0], lambda tx: tx.settings.get("n")) == "60"


def test_collisions_without_end_are_unavailable(open_node):
    store = open_node()
    tries = []

    def collide(tx):
        tries.append(1)
        raise psycopg.errors.SerializationFailure

    with pytest.raises(Unavailable, match="collide"):
        transact(store, collide)
    assert len(tries) == ATTEMPTS


def test_going_on_after_a_broken_constraint_commits_nothing(open_node):
    store = open_node()

    def swallow(tx):
        tx.identities.add(make_named("api"))
        try:
            tx.identities.add(make_named("api"))
        except Conflict:
            pass

    with pytest.raises(Internal, match="went on"):
        transact(store, swallow)
    assert read(store, lambda tx: tx.identities.page()) == []


def test_what_can_t_be_stored_is_invalid(open_node):
    store = open_node()
    with pytest.raises(Invalid, match="zero byte"):
        transact(store, lambda tx: tx.settings.set("a", "\0"))
    with pytest.raises(Invalid, match="zero byte"):
        read(store, lambda tx: tx.identities.find(IdentityId("a\0")))
    with pytest.raises(Invalid, match="too long"):
        transact(store, lambda tx: tx.identities.add(make_named("api", id="x" * 65)))


def test_a_cut_connection_is_replaced_without_a_word(open_node, url):
    store = open_node()
    transact(store, lambda tx: tx.settings.set("a", "1"))
    read(store, lambda tx: tx.settings.get("a"))
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    transact(store, lambda tx: tx.settings.set("a", "2"))
    assert read(store, lambda tx: tx.settings.get("a")) == "2"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_nothing_acknowledged_is_lost_when_postgres_goes_and_comes_back(own_cluster, how):
    url = own_cluster.create_database()
    store = open_store(url, clock=SystemClock())
    acknowledged, refused = [], []
    progress = asyncio.Event()

    async def note(key):
        await store.transact(lambda tx: tx.settings.set(key, "v"))

    async def write(writer, done):
        number = 0
        while not done.is_set():
            key = f"{writer}.{number}"
            number += 1
            try:
                await note(key)
                acknowledged.append(key)
            except Unavailable:
                refused.append(key)
                await asyncio.sleep(0.02)
            progress.set()

    async def await_more(what, count):
        wanted = len(what) + count
        async with asyncio.timeout(30):
            while len(what) < wanted:
                progress.clear()
                await progress.wait()

    async def main():
        done = asyncio.Event()
        writing = [asyncio.create_task(write(w, done)) for w in range(12)]
        for _ in range(2):
            await await_more(acknowledged, 100)
            await asyncio.to_thread(own_cluster.stop, how)
            await await_more(refused, 5)
            with pytest.raises(Unavailable, match="away"):
                await store.read(lambda tx: tx.settings.get("0.0"))
            await asyncio.to_thread(own_cluster.start)
            await await_more(acknowledged, 100)
            assert await store.read(lambda tx: tx.settings.get(acknowledged[0])) == "v"
        done.set()
        await asyncio.gather(*writing)

    asyncio.run(main())
    lost = read(store, lambda tx: [key for key in acknowledged if tx.settings.get(key) is None])
    store.close()
    assert not lost


def test_what_was_acknowledged_survives_kill_9_of_the_client(url, open_node):
    script = textwrap.dedent("""
        import asyncio, itertools, sys
        from troth.core.clock import SystemClock
        from troth.store.engine import open_store

        store = open_store(sys.argv[1], clock=SystemClock())
        numbers = itertools.count()

        async def write():
            while True:
                number = next(numbers)
                await store.transact(lambda tx: tx.settings.set(f"k{number}", "v"))
                print(number, flush=True)

        async def main():
            await asyncio.gather(*(write() for _ in range(20)))

        asyncio.run(main())
    """)
    process = _start(script, url)
    acknowledged = [int(process.stdout.readline()) for _ in range(100)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().splitlines(keepends=True)
    acknowledged += [int(line) for line in rest if line.endswith("\n")]
    process.stdout.close()
    assert process.wait(30) == -signal.SIGKILL
    store = open_node()
    assert not read(store, lambda tx: [n for n in acknowledged if tx.settings.get(f"k{n}") is None])


def test_a_server_that_nobody_answers_is_unavailable(tmp_path):
    if start_cluster() is None:
        pytest.skip("Debian's package postgresql is not installed")
    with pytest.raises(Unavailable, match="can't be reached"):
        open_store(f"postgresql://u:hunter2@/d?host={tmp_path}", clock=SystemClock())
