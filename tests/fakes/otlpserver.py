"""The OpenTelemetry collector's own OTLP receiver, built from its Go modules, and what it took."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.fakes.goprograms import build_receiver


class OtlpServer:
    """One receiver. It keeps its port and what it took over stops and kills."""

    def __init__(self, folder: Path) -> None:
        self._program = build_receiver("otlpreceiver")
        folder.mkdir()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Run it until it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, f"-port={self.port}", f"-file={self._folder}/taken"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 20
        while True:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < end, "the OTLP receiver doesn't listen"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; SIGKILL for a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None

    def list_records(self) -> list[dict[str, Any]]:
        """The log records that it took, in their order; whole lines alone."""
        path = self._folder / "taken"
        data = path.read_bytes() if path.exists() else b""
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
