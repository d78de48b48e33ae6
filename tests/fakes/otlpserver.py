"""The OpenTelemetry collector's own OTLP receiver, built from its Go modules, and what it took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fakes.goprograms import build_receiver
from tests.fakes.receiver import Receiver


class OtlpServer(Receiver):
    """One receiver. It keeps its port and what it took over stops and kills."""

    def __init__(self, folder: Path) -> None:
        self._program = build_receiver("otlpreceiver")
        super().__init__(folder)

    @property
    def command(self) -> Sequence[str | Path]:
        return [
            self._program,
            f"-port={self.port}",
            f"-file={self._folder}/taken",
        ]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def list_records(self) -> list[dict[str, Any]]:
        """The log records that it took, in their order; whole lines alone."""
        path = self._folder / "taken"
        data = path.read_bytes() if path.exists() else b""
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
