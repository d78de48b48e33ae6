"""The two engines of a soak: how a database is made, looked into, killed and reconciled."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import psycopg

from tests.fakes.postgres import Cluster, start_cluster
from tests.fakes.stores import seal_all
from tests.soak.records import PostgresRecords, Records, SqliteRecords
from troth.core.clock import SystemClock, VirtualClock
from troth.operations.leaf import STRANDED_AFTER, ReconcileIssuance
from troth.store.engine import open_store
from troth.store.sealer import Sealer


class Database(Protocol):
    """One engine."""

    name: str
    kill_weight: int
    """How often, beside a hundred kills of servers, the database itself is killed."""

    def create(self, file: Path) -> str:
        """The URL of an empty database; `file` is where it lies if it is one."""
        ...

    def open_records(self, url: str) -> Records:
        """What is in it."""
        ...

    def kill(self, chance: random.Random) -> str:
        """End the database as a crash does, and start it again; what was killed."""
        ...

    def reconcile(self, file: Path) -> None:
        """What the reconciler does minutes later, now; no server may be running."""
        ...

    def drop(self, url: str, folder: Path) -> None:
        """Forget a database and what its server left in `folder`."""
        ...


class Sqlite:
    """A file, that lives and dies with its one server."""

    name = "sqlite"
    kill_weight = 0

    def create(self, file: Path) -> str:
        return f"sqlite:///{file}"

    def open_records(self, url: str) -> Records:
        return SqliteRecords(Path(url.removeprefix("sqlite:///")))

    def kill(self, chance: random.Random) -> str:
        raise NotImplementedError

    def reconcile(self, file: Path) -> None:
        reconcile(f"sqlite:///{file}")

    def drop(self, url: str, folder: Path) -> None:
        shutil.rmtree(folder)


class Postgres:
    """A cluster of its own, which is crashed as well."""

    name = "postgresql"
    kill_weight = 5

    def __init__(self) -> None:
        cluster = start_cluster(autovacuum="on")
        if cluster is None:
            raise SystemExit("PostgreSQL isn't installed: apt-get install postgresql")
        self._cluster: Cluster = cluster
        self._url = ""

    def create(self, file: Path) -> str:
        url = self._cluster.create_database()
        self._url = self._url or url
        return url

    def open_records(self, url: str) -> Records:
        return PostgresRecords(url)

    def kill(self, chance: random.Random) -> str:
        """The postmaster, or one backend, which makes it drop all others and recover."""
        if chance.random() < 0.5:
            self._cluster.crash()
            self._cluster.start()
            return "database"
        with psycopg.connect(self._url, autocommit=True) as connection:
            rows = connection.execute(
                "select pid from pg_stat_activity where application_name = 'troth' "
                "and datname = current_database()"
            ).fetchall()
        if rows:
            os.kill(chance.choice(rows)[0], signal.SIGKILL)
        self._await()
        return "database backend"

    def reconcile(self, file: Path) -> None:
        reconcile(self._url)

    def drop(self, url: str, folder: Path) -> None:
        shutil.rmtree(folder)
        name = urlsplit(url).path.removeprefix("/")
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _await(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self._url).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "PostgreSQL doesn't recover"
                time.sleep(0.05)


def reconcile(url: str) -> None:
    """Close what was interrupted, as the servers do once it is old enough."""

    async def close() -> None:
        store = await asyncio.to_thread(open_store, url, clock=SystemClock())
        try:
            later = SystemClock().now() + STRANDED_AFTER + timedelta(seconds=1)
            await ReconcileIssuance(store, VirtualClock(later), store.holder)()
            await seal_all(Sealer(store, clock=SystemClock(), holder=store.holder))
        finally:
            store.close()

    asyncio.run(close())
