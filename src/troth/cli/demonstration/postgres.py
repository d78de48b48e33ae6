"""A throw-away PostgreSQL: its own data directory, a Unix socket, an unprivileged uid.

For the demo and for the tests. Whoever gets at the socket's directory, which is private, is the
superuser; nothing listens on the network. It is stopped by the process that was started.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from troth.core.errors import Refused, Unavailable

SPARE_USERS = ("postgres", "nobody")
START_TRIES = 1500
TRY_SECONDS = 0.02


def find_programs() -> Path | None:
    """The directory of the newest PostgreSQL's programs; None if there is none."""
    places = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    places += Path("/usr/lib/postgresql").glob("*/bin")
    usable = [place for place in places if (place / "initdb").exists()]
    return max(usable, key=lambda place: place.parent.name.zfill(4), default=None)


class Cluster:
    """A PostgreSQL server of our own in `directory`, which is empty and whose path is short."""

    def __init__(self, programs: Path, directory: Path, **settings: str) -> None:
        self.directory = directory
        self._settings = settings
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _find_spare()
        directory.chmod(0o700)
        if self._user is not None:
            os.chown(directory, *self._user)
        password = directory / "password"
        password.write_text("not used")
        if self._user is not None:
            os.chown(password, *self._user)
        options = [
            "--auth=scram-sha-256",
            f"--pwfile={password}",
            "--username=troth",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]
        self.run("initdb", "--no-sync", *options, f"--pgdata={directory}/data")
        # The superuser comes in by the socket's directory alone; any other role by its password.
        rules = "local all troth trust\nlocal all all scram-sha-256\n"
        (directory / "data" / "pg_hba.conf").write_text(rules)

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers; `Unavailable` with its log if it doesn't."""
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
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._programs / "postgres"),
                    f"-D{self.directory}/data",
                    *(f"-c{name}={value}" for name, value in settings.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C is for whoever started it, and then stops it
                **self._as_user(),
            )
        for _ in range(START_TRIES):
            if self._process.poll() is not None:
                break
            asked = self.run("pg_isready", f"--host={self.directory}", "--quiet", check=False)
            if asked.returncode == 0:
                return
            time.sleep(TRY_SECONDS)
        raise Unavailable(f"PostgreSQL didn't start: {(self.directory / 'log').read_text()[-500:]}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT cuts connections and shuts down cleanly, SIGQUIT crashes."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        """Stop it and forget its data."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def make_database(self, name: str, *options: str) -> str:
        """Create a database; returns its URL."""
        self.run("createdb", f"--host={self.directory}", "--username=troth", *options, name)
        return f"postgresql://troth@/{name}?host={self.directory}"

    def run(
        self, program: str, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one of its programs to the end, as its user."""
        return subprocess.run(
            [str(self._programs / program), *arguments],
            stdin=subprocess.DEVNULL,
            check=check,
            cwd=self.directory,
            capture_output=True,
            timeout=60,
            **self._as_user(),
        )

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        uid, gid = self._user
        return {"user": uid, "group": gid, "extra_groups": []}


def start_cluster(directory: Path) -> Cluster:
    """A running cluster in `directory`; `Refused` where PostgreSQL isn't installed."""
    programs = find_programs()
    if programs is None:
        raise Refused("PostgreSQL isn't installed: apt-get install postgresql, or use SQLite.")
    cluster = Cluster(programs, directory)
    cluster.start()
    return cluster


def _find_spare() -> tuple[int, int] | None:
    """uid and gid that aren't root's, since PostgreSQL refuses those; None if we aren't root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = next(known[name] for name in SPARE_USERS if name in known)
    return entry.pw_uid, entry.pw_gid
