"""The servers of a soak: `troth up` processes on one database, killed as often as asked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.processes import TROTH, Daemon
from troth.wire.api.client import ApiClient

READY_SECONDS = 90.0
SETTINGS = """
[ttl]
x509_default = 900
"""


class Server:
    """One `troth up` with a directory and ports of its own, which it keeps for ever."""

    def __init__(self, folder: Path, name: str, database: str, *, agent: bool) -> None:
        self.name = name
        self.data = folder / name
        self.data.mkdir(mode=0o711)
        (self.data / "troth.toml").write_text(SETTINGS)
        self._folder = folder
        self._agent = agent
        self._database = database
        self._ports = pick_ports(2)
        self._runs = 0
        self._run: Daemon | None = None
        self.events: Counter[str] = Counter()
        self.broken: list[str] = []

    @property
    def public(self) -> str:
        return f"https://localhost:{self._ports[0]}"

    @property
    def mutual(self) -> str:
        return f"https://localhost:{self._ports[1]}"

    @property
    def ca(self) -> str:
        return str(self.data / "ca.pem")

    @property
    def pid(self) -> int:
        assert self._run is not None
        return self._run.pid

    @property
    def alive(self) -> bool:
        return self._run is not None and self._run.process.poll() is None

    def launch(self) -> None:
        """Start the process and return at once."""
        command = [str(TROTH), "up", "--data", str(self.data), "--json"]
        command += ["--listen", f"localhost:{self._ports[0]}", "--database", self._database]
        command += ["--agent" if self._agent else "--no-agent"]
        self._runs += 1
        environ = {"TROTH_LISTEN_MUTUAL": f"localhost:{self._ports[1]}"}
        if not self._database.startswith("sqlite:"):
            # Servers that share a database share the key that seals their keys in it.
            environ["TROTH_KEYSTORE_KEY_ENCRYPTION_KEY"] = f"file:{self._folder}/kek"
        self._run = Daemon(self._folder, f"{self.name}-{self._runs}", command, **environ)

    def wait(self) -> float:
        """Wait until it is ready; how many seconds that took."""
        began = time.monotonic()
        assert self._run is not None
        while True:
            with contextlib.suppress(ValueError):
                if "url" in json.loads(self._run.output):  # and not an error
                    return time.monotonic() - began
            if self._run.process.poll() is not None:
                raise AssertionError(f"{self.name} has ended: {self._run.log[-4000:]}")
            if time.monotonic() - began > READY_SECONDS:
                raise AssertionError(f"{self.name} isn't ready: {self._run.log[-4000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash does, and read what it had logged."""
        if self._run is None:
            return
        self._run.kill()
        self._close()

    def tell(self, say: Callable[[str], None]) -> None:
        """The end of its log, if it runs or has ended by itself."""
        if self._run is not None:
            code = self._run.process.poll()
            say(f"{self.name}: exit code {code}, log: {self._run.log[-3000:]}")

    def stop(self) -> None:
        """End it in order."""
        if self._run is not None:
            self._run.stop()
            self._close()

    def _close(self) -> None:
        assert self._run is not None
        for line in self._run.log.splitlines():
            self._read(line)
        for kind in ("out", "log"):
            (self._folder / f"{self.name}-{self._runs}.{kind}").unlink()
        self._run = None

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            # The last line may be cut; anything else that isn't JSON is a traceback.
            if "Traceback" in line:
                self.broken.append(line)
            return
        self.events[entry["event"]] += 1
        if "exception" in entry and entry["event"] != "store.commit_failed":
            self.broken.append(f"{entry['event']}: {entry['exception'][-1500:]}")

    def open_admin(self) -> ApiClient:
        """The API on the admin socket."""
        return ApiClient.over_socket(str(self.data / "admin.sock"))

    def measure(self) -> dict[str, int]:
        """Its memory and open files now, and those of its agent."""
        found = {f"server_{key}": value for key, value in _measure(self.pid).items()}
        if self._agent and (agent := self.find_agent()):
            found |= {f"agent_{key}": value for key, value in _measure(agent).items()}
        skipped = {"troth.db", "troth.db-wal", "troth.db-shm"}
        growing = {self.data / name for name in ("log", "archive", "decisions")}
        files = [
            p
            for p in self.data.rglob("*")
            if p.is_file() and p.name not in skipped and growing.isdisjoint(p.parents)
        ]
        found["files"] = len(files)
        found["keys"] = len(list(self.data.glob("keys/*")))
        return found

    def find_agent(self) -> int | None:
        """The local agent's process, if there is one."""
        try:
            pid = int((self.data / "agent" / "agent.lock").read_text().split()[0])
            os.kill(pid, 0)
        except (OSError, ValueError, IndexError):
            return None
        return pid

    def end_agent(self) -> None:
        """Kill the agent that a killed server has left."""
        agent = self.find_agent() if self._agent else None
        if agent is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(agent, signal.SIGKILL)


def _measure(pid: int) -> dict[str, int]:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return {"kb": int(line.split()[1]), "files": len(os.listdir(f"/proc/{pid}/fd"))}


def pick_ports(count: int) -> list[int]:
    """Ports that are free now; all are held while they are picked."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for _ in range(count):
            probe: Any = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
        return ports
