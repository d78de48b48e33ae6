"""A real PostgreSQL for tests: its own data directory, a Unix socket, an unprivileged uid.

One server a test process, started when a test first asks for it and stopped by its pid at exit;
one database a test.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from troth.core.clock import SystemClock
from troth.store.engine import open_store

SPARE_USERS = ("postgres", "nobody")
_numbers = itertools.count()


def find_programs() -> Path | None:
    """The directory of the newest PostgreSQL's programs; None if there is none."""
    places = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    places += Path("/usr/lib/postgresql").glob("*/bin")
    usable = [place for place in places if (place / "initdb").exists()]
    return max(usable, key=lambda place: place.parent.name.zfill(4), default=None)


class Cluster:
    """A PostgreSQL server that belongs to the tests."""

    def __init__(self, programs: Path, **settings: str) -> None:
        self._programs = programs
        self._settings = settings
        self.directory = Path(tempfile.mkdtemp(prefix="troth-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._identity = _find_spare()
        if self._identity is not None:
            os.chown(self.directory, *self._identity)
        options = [
            "--auth=scram-sha-256",
            f"--pwfile={self._write_password()}",
            "--username=troth",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]
        self._run("initdb", "--no-sync", *options, f"--pgdata={self.directory}/data")
        # Whoever gets at the socket's directory, which is the tests' alone, is the superuser; any
        # other role needs its password.
        rules = "local all troth trust\nlocal all all scram-sha-256\n"
        (self.directory / "data" / "pg_hba.conf").write_text(rules)

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "on",
            "max_connections": "200",
            "shared_buffers": "32MB",
            "autovacuum": "off",
            "log_min_messages": "fatal",
            **self._settings,
        }
        log = (self.directory / "log").open("ab")
        self._process = subprocess.Popen(
            [
                str(self._programs / "postgres"),
                f"-D{self.directory}/data",
                *(f"-c{name}={value}" for name, value in settings.items()),
            ],
            stdout=log,
            stderr=log,
            cwd=self.directory,
            **self._as_user(),
        )
        log.close()
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.conninfo("postgres")).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT cuts connections and shuts down cleanly, SIGQUIT crashes."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def crash(self) -> None:
        """Kill the server; its other processes notice and end, and their memory is given back."""
        children = _list_children(self.pid)
        self.stop(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline, "PostgreSQL's processes outlive it"
            time.sleep(0.01)

    def list_processes(self) -> list[int]:
        """The server and all that it has started."""
        return [self.pid, *_list_children(self.pid)]

    def remove(self) -> None:
        """Stop it and forget its data."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

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

    def _write_password(self) -> Path:
        path = self.directory / "password"
        path.write_text("not used")
        if self._identity is not None:
            os.chown(path, *self._identity)
        return path

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            check=True,
            cwd=self.directory,
            capture_output=True,
            timeout=60,
            **self._as_user(),
        )

    def _as_user(self) -> dict:
        if self._identity is None:
            return {}
        uid, gid = self._identity
        return {"user": uid, "group": gid, "extra_groups": []}


def _list_children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()]


def _find_spare() -> tuple[int, int] | None:
    """uid and gid that aren't root's, since PostgreSQL refuses those; None if we aren't root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = next(known[name] for name in SPARE_USERS if name in known)
    return entry.pw_uid, entry.pw_gid


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
