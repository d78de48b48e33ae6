"""A real PostgreSQL for tests: one server a test process, one database a test.

It is started when a test first asks for it, and stopped by its pid at exit.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import signal
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from troth.cli.demonstration import postgres
from troth.cli.demonstration.postgres import find_programs
from troth.core.clock import SystemClock
from troth.store.engine import open_store

__all__ = ["Cluster", "find_programs", "start_cluster"]

_numbers = itertools.count()


class Cluster(postgres.Cluster):
    """A PostgreSQL server that belongs to the tests."""

    def __init__(self, programs: Path, **settings: str) -> None:
        super().__init__(programs, Path(tempfile.mkdtemp(prefix="troth-pg-")), **settings)

    def crash(self) -> None:
        """Kill the server; its other processes notice and end, and their memory is given back."""
        children = _list_children(self.pid)
        self.stop(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline, "PostgreSQL's processes outlive it"
            time.sleep(0.01)

    def conninfo(self, database: str) -> str:
        """libpq's parameters for `database`."""
        return f"host={self.directory} dbname={database} user=troth"

    def create_database(self, template: str = "template1") -> str:
        """The URL of a new database: empty, or like `template`."""
        name = f"t{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"postgresql://troth@/{name}?host={self.directory}"

    @functools.cached_property
    def migrated(self) -> str:
        """A database that holds the newest schema and nothing else, to make others like it."""
        url = self.create_database()
        open_store(url, clock=SystemClock()).close()
        return urlsplit(url).path.removeprefix("/")

    def create_role(self, name: str, password: str, database: str) -> None:
        """A role that owns `database` and must show its password."""
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
            connection.execute(f"ALTER DATABASE {database} OWNER TO {name}")


def _list_children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()]


@functools.cache
def start_cluster(**settings: str) -> Cluster | None:
    """This process's server with those settings; None where PostgreSQL isn't installed."""
    programs = find_programs()
    if programs is None:
        return None
    cluster = Cluster(programs, **settings)
    atexit.register(cluster.remove)
    cluster.start()
    return cluster
