"""A receiver of somebody else's: a process that is started, stopped, killed and made to hang."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path


class Receiver:
    """One process. It keeps its port and what it has taken over stops and kills.

    It works in `folder`, which it makes, and writes what it says to `log` there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @property
    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """What starts it."""

    def start(self) -> None:
        """Run it until it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + 20
        while True:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < end, f"{self.command[0]} doesn't listen"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; SIGKILL for a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None

    def pause(self) -> None:
        """Let it hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it work again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
