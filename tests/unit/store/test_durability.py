"""What is acknowledged stays, what can't be written is refused, and the writer recovers."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from sqlalchemy import text

from tests.fakes.stores import NOW, hold_writer, make_event, read, transact
from troth.core.clock import VirtualClock
from troth.core.errors import Unavailable
from troth.store.engine import open_store
from troth.store.sqlite import SqliteFile
from troth.store.writer import GROUP, Writer


@pytest.fixture
def store(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'troth.db'}", clock=VirtualClock(NOW))
    yield store
    store.close()


def _raw(tx, sql):
    return tx._session.execute(text(sql))


def _start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    url = f"sqlite:///{tmp_path / 'troth.db'}"
    process = _start(
        """
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
        """,
        url,
    )
    acknowledged = [int(process.stdout.readline()) for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().splitlines(keepends=True)
    acknowledged += [int(line) for line in rest if line.endswith("\n")]
    process.stdout.close()
    assert process.wait(30) == -signal.SIGKILL
    store = open_store(url, clock=VirtualClock(NOW))
    lost = read(store, lambda tx: [n for n in acknowledged if tx.settings.get(f"k{n}") is None])
    store.close()
    assert not lost


def test_a_full_database_is_unavailable_until_there_is_room(store):
    def fill(tx):
        tx.settings.set("big", "x" * 5_000_000)

    def limit(pages):
        return lambda tx: _raw(tx, f"PRAGMA max_page_count = {pages}").scalar()

    transact(store, limit(200))

    async def main():
        async with hold_writer(store):
            waiting = asyncio.gather(
                store.transact(fill),
                store.transact(lambda tx: tx.settings.set("small", "1")),
                return_exceptions=True,
            )
        return await waiting

    failed, _ = asyncio.run(main())
    assert isinstance(failed, Unavailable)
    assert "full" in failed.detail
    transact(store, limit(1_000_000))
    transact(store, fill)
    assert len(read(store, lambda tx: tx.settings.get("big"))) == 5_000_000


def test_a_disk_that_is_full_at_commit_fails_the_group_and_the_writer_recovers(tmp_path):
    process = _start(
        """
        import asyncio, resource, sys
        from troth.core.clock import SystemClock
        from troth.core.errors import Unavailable
        from troth.store.engine import open_store

        store = open_store(sys.argv[1], clock=SystemClock())
        no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)

        async def main():
            await store.transact(lambda tx: tx.settings.set("before", "1"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, no_limit[1]))
            failed = await asyncio.gather(
                *(store.transact(lambda tx, n=n: tx.settings.set(f"k{n}", "v")) for n in range(5)),
                return_exceptions=True,
            )
            assert all(isinstance(error, Unavailable) for error in failed), failed
            resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
            await store.transact(lambda tx: tx.settings.set("after", "1"))
            keys = ["before", "after", "k0", "k4"]
            print(await store.read(lambda tx: [tx.settings.get(k) for k in keys]))

        asyncio.run(main())
        store.close()
        """,
        f"sqlite:///{tmp_path / 'troth.db'}",
    )
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert output.splitlines()[-1] == "['1', '1', None, None]"


def test_a_commit_that_fails_fails_the_whole_group(store):
    def break_commit(tx):
        _raw(tx, "PRAGMA defer_foreign_keys = ON")
        _raw(tx, "INSERT INTO identity_nodes (node, identity_id) VALUES ('n', 'nobody')")

    async def main():
        rang = []
        store.on_commit(lambda: rang.append(1))
        async with hold_writer(store):
            waiting = asyncio.gather(
                store.transact(lambda tx: tx.journal.append(make_event())),
                store.transact(break_commit),
                store.transact(lambda tx: tx.settings.set("a", "1")),
                return_exceptions=True,
            )
        outcomes = await waiting
        await asyncio.sleep(0)
        return outcomes, rang

    outcomes, rang = asyncio.run(main())
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    assert rang == []
    assert read(store, lambda tx: tx.settings.get("a")) is None
    transact(store, lambda tx: tx.settings.set("a", "2"))
    assert read(store, lambda tx: tx.settings.get("a")) == "2"


def test_a_function_that_hides_a_lost_transaction_is_caught(store):
    def lose(tx):
        _raw(tx, "ROLLBACK")
        tx.settings.set("lost", "1")

    async def main():
        async with hold_writer(store):
            waiting = asyncio.gather(
                store.transact(lambda tx: tx.settings.set("a", "1")),
                store.transact(lose),
                return_exceptions=True,
            )
        return await waiting

    assert [type(outcome) for outcome in asyncio.run(main())] == [Unavailable] * 2
    assert read(store, lambda tx: tx.settings.get("a")) is None
    transact(store, lambda tx: tx.settings.set("a", "2"))


def test_a_database_that_another_process_holds_is_unavailable(store, tmp_path, monkeypatch):
    monkeypatch.setattr("troth.store.sqlite.BUSY_SECONDS", 0.05)
    holder = SqliteFile(tmp_path / "troth.db").open_link()
    waiting = open_store(f"sqlite:///{tmp_path / 'troth.db'}", clock=VirtualClock(NOW))
    holder.begin_write()
    with pytest.raises(Unavailable, match="another process holds it"):
        transact(waiting, lambda tx: tx.settings.set("a", "1"))
    assert read(waiting, lambda tx: tx.settings.get("a")) is None
    holder.close()
    transact(waiting, lambda tx: tx.settings.set("a", "1"))
    waiting.close()


def test_the_writer_outlives_what_a_function_raises(store):
    for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):

        async def main(error=error):
            def fail(tx):
                raise error

            future = store._writer.submit(fail)
            await asyncio.wait([future])
            return future.exception()

        assert asyncio.run(main()) is error
    transact(store, lambda tx: tx.settings.set("a", "1"))


def test_a_result_for_a_loop_that_is_gone_harms_nobody(store):
    loop = asyncio.new_event_loop()

    async def submit():
        async with hold_writer(store):
            return store._writer.submit(lambda tx: tx.settings.set("a", "1"))

    future = loop.run_until_complete(submit())
    loop.close()
    transact(store, lambda tx: tx.settings.set("b", "1"))
    assert read(store, lambda tx: tx.settings.get("a")) == "1"
    assert not future.cancelled()


def test_the_queue_is_bounded(tmp_path):
    open_store(f"sqlite:///{tmp_path / 'troth.db'}", clock=VirtualClock(NOW)).close()
    writer = Writer(SqliteFile(tmp_path / "troth.db"), lambda _: None, queue=2)

    class Narrow:
        async def transact(self, function):
            return await writer.submit(function)

    async def main():
        async with hold_writer(Narrow()):
            waiting = [writer.submit(lambda tx: tx.settings.set("a", "1")) for _ in range(2)]
            with pytest.raises(Unavailable, match="Too many changes wait"):
                writer.submit(lambda tx: None)
        await asyncio.gather(*waiting)
        await writer.submit(lambda tx: None)

    asyncio.run(main())
    writer.close()


def test_more_than_a_group_is_written_all_the_same(store):
    async def main():
        async with hold_writer(store):
            waiting = asyncio.gather(
                *(
                    store.transact(lambda tx, n=n: tx.settings.set(f"k{n}", "v") or n)
                    for n in range(2 * GROUP + 3)
                )
            )
        return await waiting

    assert asyncio.run(main()) == list(range(2 * GROUP + 3))
