"""Real processes: started with little, spoken to in lines, stopped by the pid that was started."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from troth.core.errors import Unavailable

PATIENCE = 20.0
"""Seconds that a process may take to start or to answer on a busy machine."""

GRACE = 5.0
"""Seconds between asking a process to stop and stopping it."""

TAIL = 12
"""Lines of a log that are shown when something went wrong."""


@dataclass(slots=True)
class Process:
    """One process of ours, its log, and the events that it tells."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    _events: queue.Queue[dict[str, Any] | None] = field(default_factory=queue.Queue)
    _listener: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """Its number."""
        return self.popen.pid

    @property
    def running(self) -> bool:
        """Whether it hasn't ended."""
        return self.popen.poll() is None

    def listen(self) -> None:
        """Collect its events from now on."""
        self._listener = threading.Thread(target=self._collect, daemon=True)
        self._listener.start()

    def expect(self, event: str, patience: float = PATIENCE) -> dict[str, Any]:
        """The next event of that name; raises `Unavailable` if it doesn't come."""
        while True:
            try:
                found = self._events.get(timeout=patience)
            except queue.Empty:
                raise Unavailable(f"{self.name} didn't tell {event!r} in {patience:g} s.") from None
            if found is None:
                raise Unavailable(f"{self.name} ended before it told {event!r}.")
            if found["event"] == event:
                return found

    def ask(self, word: str, patience: float = PATIENCE) -> dict[str, Any]:
        """Give a command, what it is about after a space, and wait for the event of its name."""
        self.command(word)
        return self.expect(word.partition(" ")[0], patience)

    def command(self, word: str) -> None:
        """Give a command without waiting."""
        assert self.popen.stdin is not None, "this process takes no commands"
        try:
            self.popen.stdin.write(word.encode() + b"\n")
            self.popen.stdin.flush()
        except (BrokenPipeError, ValueError) as error:  # it has ended, or was stopped by us
            raise Unavailable(f"{self.name} takes no commands any more.") from error

    def stop(self, grace: float = GRACE) -> None:
        """Ask it to end, and end it after `grace` seconds without that."""
        if self.popen.stdin is not None:
            try:
                self.popen.stdin.close()
            except OSError:
                pass  # it ended with a command unread
        self.popen.terminate()
        try:
            self.popen.wait(grace)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        if self._listener is not None:
            self._listener.join(grace)  # its output has ended with it

    def read_tail(self, lines: int = TAIL) -> list[str]:
        """The end of its log."""
        try:
            text = self.log.read_bytes()[-64 * 1024 :].decode(errors="replace")
        except OSError:
            return []
        return text.splitlines()[-lines:]

    def _collect(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            try:
                self._events.put(json.loads(line))
            except ValueError:
                with self.log.open("ab") as log:  # no event of ours: a library prints
                    log.write(line)
        self.popen.stdout.close()
        self._events.put(None)


class Company:
    """All processes that were started and not left running on purpose."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = dict(environment)
        self._running: list[Process] = []

    def start(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program that runs until it is stopped, its output in its log."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self._environment, **(environment or {})},
                cwd="/",
                start_new_session=True,  # Ctrl-C reaches the demo alone, which stops all in order
            )
        return self._add(Process(name, popen, log))

    def start_program(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program that takes commands and tells events, and wait until it is ready."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**self._environment, **(environment or {})},
                cwd="/",
                start_new_session=True,
            )
        process = self._add(Process(name, popen, log))
        process.listen()
        return process

    def run(
        self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return what it printed."""
        return subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**self._environment, **(environment or {})},
            cwd="/",
            timeout=PATIENCE,
            check=False,
        )

    def find_ended(self) -> list[Process]:
        """Processes that ended by themselves."""
        return [process for process in self._running if not process.running]

    def stop(self, process: Process) -> None:
        """Stop one process."""
        process.stop()
        if process in self._running:
            self._running.remove(process)

    def stop_all(self, *, but: Sequence[Process] = ()) -> None:
        """Stop everything except `but`, the last started first."""
        for process in reversed(self._running):
            if process not in but:
                process.stop()
        self._running = [process for process in self._running if process in but]

    def __iter__(self) -> Any:
        return iter(tuple(self._running))

    def _add(self, process: Process) -> Process:
        self._running.append(process)
        return process


def make_environment(agent_socket: Path) -> dict[str, str]:
    """What a process of the demo is told: nothing of the caller's own settings or secrets."""
    kept = ("PATH", "LANG", "LC_ALL", "TERM", "SSL_CERT_FILE")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment["SPIFFE_ENDPOINT_SOCKET"] = f"unix://{agent_socket}"
    return environment
