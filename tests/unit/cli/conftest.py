"""What the tests of the command line share: a fake server, a runner, and sample values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.fakes.api import FakeApi, serve_unix
from troth.cli.main import app

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TROTH_URL", "TROTH_DATA", "TROTH_TOKEN", "SPIFFE_ENDPOINT_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "d"
    folder.mkdir(mode=0o711)
    return folder


@pytest.fixture
def api(data: Path) -> Iterator[FakeApi]:
    with serve_unix(FakeApi(), data / "admin.sock") as fake:
        (data / "admin.sock").chmod(0o600)
        yield fake


@pytest.fixture
def run(data: Path) -> Run:
    """Run `troth ARGUMENTS…` against the data directory of this test."""

    def call(*arguments: str, **settings: Any) -> Result:
        return CliRunner().invoke(app, ["--data", str(data), *arguments], **settings)

    return call
