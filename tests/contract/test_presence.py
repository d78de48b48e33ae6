"""How servers on one PostgreSQL tell that they live, and what they say to each other."""

import asyncio
import threading
import time
from datetime import timedelta
from typing import Any

import psycopg

from tests.fakes.stores import NOW, make_event, seal_all, transact
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.store.engine import open_store
from troth.store.journal import CHANNEL
from troth.store.sealer import Sealer
from troth.store.session import name_holder

_WHO_SHOWS = """
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
AND (classid::bigint << 32) + objid::bigint = ('x0' || %s)::bit(64)::bigint
"""
"""The backend of the server whose name ends with those fifteen digits."""


def _find_presence(seed):
    """The lock by which a server with this entropy shows that it lives."""
    presence = int.from_bytes(SeededEntropy(seed).token(8), "big") >> 4
    return presence, name_holder(presence)


def _wait_for(condition, what):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_living_server_whose_lock_was_held_for_a_moment_shows_itself_later(url, open_node):
    """What a cut connection of its own still holds, or somebody who looks whether it lives."""
    presence, holder = _find_presence(7)
    other = open_node(VirtualClock(NOW))
    hour = timedelta(hours=1)
    opened = []
    with psycopg.connect(url, autocommit=True) as cut:
        cut.execute("SELECT pg_advisory_lock(%s)", (presence,))
        start = threading.Thread(
            target=lambda: opened.append(
                open_store(url, clock=VirtualClock(NOW), entropy=SeededEntropy(7))
            )
        )
        start.start()
        count = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND query LIKE '%position IS NULL%'"
        )
        _wait_for(lambda: cut.execute(count).fetchone() == (2,), "it has tried and goes on")
        cut.execute("SELECT pg_advisory_unlock(%s)", (presence,))
        start.join(20)
    store = opened[0]
    try:
        assert store.holder == holder
        assert transact(store, lambda tx: tx.leases.take("l", holder, NOW, hour))
        assert not transact(other, lambda tx: tx.leases.take("l", other.holder, NOW, hour))
    finally:
        store.close()


def test_who_looks_whether_a_server_lives_is_in_nobody_s_way(url, open_node):
    presence, holder = _find_presence(7)
    store, hour = open_node(VirtualClock(NOW)), timedelta(hours=1)
    seen: list[Any] = []
    transact(store, lambda tx: tx.leases.take("l", holder, NOW, hour))

    def look(tx):
        assert not tx.leases.is_taken("l", store.holder, NOW)  # it has never shown itself
        with psycopg.connect(url, autocommit=True) as risen:
            seen.append(risen.execute("SELECT pg_try_advisory_lock(%s)", (presence,)).fetchone())
            assert tx.leases.is_taken("l", store.holder, NOW)

    transact(store, look)
    assert seen == [(True,)]


def _hear(url, listener):
    """What was said on the channel until now, with the backend that said it: notices come in the
    order of commits, so all of it comes before a word of our own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_notify(%s, 'until now')", (CHANNEL,))
    heard: list[tuple[str, int]] = []
    for notice in listener.notifies(timeout=20):
        if notice.payload == "until now":
            return heard
        heard.append((notice.payload, notice.pid))
    raise AssertionError("our own word never came")


def test_the_sealer_notifies_and_writers_don_t(url, open_node):
    """NOTIFY makes all commits of a database wait for each other, so that writers' would queue."""
    one = open_node()
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        transact(one, lambda tx: tx.journal.append(make_event()))
        assert _hear(url, listener) == []
        sealer = Sealer(one, clock=one.clock, holder=one.holder)
        assert asyncio.run(seal_all(sealer)) == 1
        assert [word for word, _ in _hear(url, listener)] == [f"sealed {one.holder}"]
        assert asyncio.run(seal_all(sealer)) == 0
        assert _hear(url, listener) == []  # nothing was sealed, so there is nothing to say


def test_who_may_not_seal_says_so_after_its_commits_on_the_line_where_it_listens(url, open_node):
    one, two = open_node(), open_node()
    sealer = Sealer(one, clock=one.clock, holder=one.holder)
    transact(one, lambda tx: tx.journal.append(make_event()))
    assert asyncio.run(seal_all(sealer)) == 1
    assert not asyncio.run(seal_all(Sealer(two, clock=two.clock, holder=two.holder)))
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        _hear(url, listener)
        transact(two, lambda tx: tx.journal.append(make_event()))
        heard: set[Any] = set()

        def hear() -> bool:
            heard.update(_hear(url, listener))
            return bool(heard)

        _wait_for(hear, "its word")
        found = listener.execute(_WHO_SHOWS, (two.holder.partition("@")[2],)).fetchall()
    assert heard == {(f"waiting {one.holder}", pid) for (pid,) in found}
