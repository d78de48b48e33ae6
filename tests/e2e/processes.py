"""Processes of ours as a user starts them, and how a test follows and ends them.

Everything is waited for on a condition with a deadline; everything that was started is stopped by
its own pid, whatever became of the test.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from troth.server.localagent import find_agent
from troth.wire.api.client import ApiClient
from troth.wire.api.identities import MoveIdentity, RegisterIdentity
from troth.wire.api.journal import JournalEntry, ListJournal

CLOCKED = Path(__file__).parent / "programs" / "clocked.py"
TROTH = Path(sys.prefix) / "bin" / "troth"
START_SECONDS = 20.0
POLL = 0.01
NOBODY = 65_534

Value = TypeVar("Value")


def wait_for(look: Callable[[], Value | None], what: str, seconds: float = 15.0) -> Value:
    """The first thing other than None and False that `look` returns; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(POLL)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder with a short path, which sockets need, that other users may pass through."""
    with tempfile.TemporaryDirectory(prefix="troth-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


def make_environ(**more: str) -> dict[str, str]:
    """Our environment without anything that would tell troth where its server is."""
    names = ("TROTH_", "SPIFFE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return kept | more


def run_troth(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """One command to its end, with its exit code, output and messages."""
    return subprocess.run(
        [str(TROTH), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        env=make_environ(**environ),
    )


class Daemon:
    """A long-running command; its two outputs go to files that are read while it runs."""

    def __init__(self, folder: Path, name: str, command: list[str], **environ: str) -> None:
        self._paths = [folder / f"{name}.{kind}" for kind in ("out", "log")]
        with self._paths[0].open("wb") as out, self._paths[1].open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=make_environ(**environ),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self._paths[0].read_text()

    @property
    def log(self) -> str:
        return self._paths[1].read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of the log with that event, so far."""
        lines = (line for line in self.log.splitlines() if line.startswith("{"))
        return [found for line in lines if (found := json.loads(line))["event"] == name]

    def wait_for_event(self, name: str) -> dict[str, Any]:
        """The first line of the log with that event."""

        def look() -> dict[str, Any] | None:
            found = self.events(name)
            assert found or self.process.poll() is None, f"it has ended: {self.log}"
            return found[0] if found else None

        return wait_for(look, f"{name} in the log", START_SECONDS)

    def wait(self, seconds: float = START_SECONDS) -> int:
        """The exit code, once it has ended by itself."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """End it in order, or, if it won't, at once."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Server:
    """`troth up` on a data directory of its own; it keeps its ports when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.ready: dict[str, Any] = {}
        self.mutual = ""
        self.environ: dict[str, str] = {}
        self._runs: list[Daemon] = []

    @property
    def daemon(self) -> Daemon:
        return self._runs[-1]

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    @property
    def endpoint(self) -> str:
        """The address of the local agent's Workload API."""
        return str(self.ready["workload_api"])

    @property
    def agent_pid(self) -> int:
        lock = self.data / "agent" / "agent.lock"
        # Empty for a moment, between an agent's taking the lock and its writing who it is.
        words = wait_for(lambda: lock.read_text().split(), "the agent's name in its lock")
        return int(words[0])

    def write_settings(self, text: str) -> None:
        """Give it a configuration file, to be read when it starts."""
        self.data.mkdir(mode=0o711, exist_ok=True)
        (self.data / "troth.toml").write_text(text)

    def start(self, *options: str) -> Server:
        """Start it and wait until it says that it is ready."""
        command = [str(TROTH), "up", "--data", str(self.data), "--json", *options]
        environ = dict(self.environ)
        if self.ready:
            command += ["--listen", urlsplit(self.url).netloc]
            environ["TROTH_LISTEN_MUTUAL"] = urlsplit(self.mutual).netloc
        else:
            command += ["--listen", "localhost:0"]
        self._runs.append(Daemon(self.folder, f"up{len(self._runs)}", command, **environ))
        self.ready = wait_for(self._read_ready, "troth up says that it is ready", START_SECONDS)
        started = self.daemon.events("listener.started")
        (where,) = [event["where"] for event in started if event["listener"] == "mutual"]
        self.mutual = f"https://{where}"
        return self

    def _read_ready(self) -> dict[str, Any] | None:
        assert self.daemon.process.poll() is None, f"troth up has ended: {self.daemon.log}"
        try:
            found: dict[str, Any] = json.loads(self.daemon.output)
        except ValueError:  # not there yet, or not all of it
            return None
        return found

    def stop(self) -> None:
        """End the server and whatever agent it may have left behind."""
        try:
            for daemon in self._runs:
                daemon.stop()
        finally:
            found = find_agent(self.data / "agent" / "agent.lock")
            if found is not None:
                signal.pidfd_send_signal(found[0], signal.SIGKILL)
                os.close(found[0])
            for daemon in self._runs:
                print(daemon.log[-20_000:])

    @contextmanager
    def connect(self) -> Iterator[ApiClient]:
        """An administrator's client on the admin socket."""
        with ApiClient.over_socket(str(self.data / "admin.sock")) as client:
            yield client

    def call(self, name: str, request: Any) -> Any:
        """One operation as the administrator."""
        with self.connect() as client:
            return client.call(name, request)

    def register(self, name: str, *selectors: str, **fields: Any) -> Any:
        """An active identity for processes with those selectors."""
        request = RegisterIdentity(
            name=name,
            kind="service",
            owner="team-tests",
            purpose="shows what troth does",
            selectors=list(selectors),
            activate=True,
            **fields,
        )
        return self.call("identity.register", request)

    def move(self, name: str, verb: str) -> float:
        """Take an identity one step along; returns the time at which that was asked for."""
        asked = time.monotonic()
        self.call(f"identity.{verb}", MoveIdentity(name=name, reason=f"a test says {verb}"))
        return asked

    def read_journal(self, kind: str | None = None, after: int = 0) -> list[JournalEntry]:
        """All sealed events after a position whose type starts with `kind`."""
        found: list[JournalEntry] = []
        with self.connect() as client:
            while True:
                request = ListJournal(after=after, type=kind, limit=1000)
                page = client.call("journal.ls", request)
                found += page.items
                if len(page.items) < 1000:
                    return found
                after = page.items[-1].position

    def wait_for_journal(self, kind: str, subject: str | None = None) -> JournalEntry:
        """The first sealed event of that type, about `subject` if it is given."""

        def look() -> JournalEntry | None:
            entries = self.read_journal(kind)
            return next((e for e in entries if subject in (None, e.subject)), None)

        return wait_for(look, f"{kind} in the journal")


class ClockedServer(Server):
    """A server without an agent, whose clock a test sets: before it starts, or while it runs."""

    def set_clock(self, difference: timedelta) -> None:
        fresh = self.folder / "clock.new"
        fresh.write_text(str(difference.total_seconds()))
        fresh.replace(self.folder / "clock")

    def start(self, *options: str) -> ClockedServer:
        self.data.mkdir(mode=0o711, exist_ok=True)
        if not (self.folder / "clock").exists():
            self.set_clock(timedelta(0))
        command = [sys.executable, str(CLOCKED), str(self.data), str(self.folder / "clock")]
        name = f"clocked{len(self._runs)}"
        self._runs.append(Daemon(self.folder, name, command, **self.environ))
        self.ready = wait_for(self._read_ready, "a server that is ready", 40)
        return self


def find_authority(troth: Server) -> str:
    """The id of the authority that signs certificates, which its list is named after."""
    made = troth.read_journal("authority.activated")
    (authority,) = (entry.subject for entry in made if entry.body["use"] == "x509-svid")
    return authority


class Programs:
    """Copies of this Python under names of their own, so that each is a program of its own.

    `unix:path` tells them apart whoever runs the tests; a folder with a `pyvenv.cfg` above them
    gives them the same packages as the tests have.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o755)
        home = Path(sys.base_prefix) / "bin"
        (folder / "pyvenv.cfg").write_text(f"home = {home}\n")
        (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
        (folder / "bin").mkdir(mode=0o755)

    def find(self, name: str) -> Path:
        """The program of that name; made when it is first asked for."""
        path = self._folder / "bin" / name
        if not path.exists():
            shutil.copyfile(Path(sys.executable).resolve(), path)
            path.chmod(0o755)
        return path

    def selectors(self, name: str, uid: int | None = None) -> tuple[str, str]:
        """What the agent proves about a process that runs it."""
        return f"unix:uid:{os.getuid() if uid is None else uid}", f"unix:path:{self.find(name)}"


class Program:
    """A running workload: commands go in as JSON Lines, what it tells comes out as JSON Lines."""

    def __init__(self, python: Path, script: str, *arguments: str, **environ: str) -> None:
        self.told: list[dict[str, Any]] = []
        self._taken = 0
        self._news = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            [str(python), str(Path(__file__).parent / "programs" / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=make_environ(**environ),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def say(self, do: str, **details: Any) -> None:
        """Give it a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **details}) + "\n")
        self.process.stdin.flush()

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Give it a command and wait for the answer, which bears the command's name."""
        self.say(do, **details)
        return self.expect(lambda told: told["event"] == do, f"the answer to {do}")

    def expect(
        self, fits: Callable[[dict[str, Any]], bool], what: str, seconds: float = 15.0
    ) -> dict[str, Any]:
        """The next thing told that fits; what comes before it is passed over."""
        deadline = time.monotonic() + seconds
        with self._news:
            while True:
                while self._taken < len(self.told):
                    told = self.told[self._taken]
                    self._taken += 1
                    if fits(told):
                        return told
                assert not self._ended, f"it has ended instead of telling {what}"
                left = deadline - time.monotonic()
                assert left > 0, f"not within {seconds:.0f} s: {what}; told: {self.told[-5:]}"
                self._news.wait(left)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.told.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def stop(self) -> None:
        """End it at once; it has nothing to put in order."""
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:  # a command that it never read
                pass
