"""The data directory: made for this server, or taken only if nobody else can meddle with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from troth.core.errors import Refused
from troth.server.config import load_config
from troth.server.installation import prepare_directories


def prepare(data: Path) -> None:
    prepare_directories(load_config(data=data, environ={}))


def test_a_new_directory_lets_others_through_to_the_sockets_alone(tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"
    prepare(data)
    assert data.stat().st_mode & 0o777 == 0o711
    assert (data / "keys").stat().st_mode & 0o777 == 0o700
    prepare(data)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_directory_that_others_may_write_is_refused_and_left_alone(
    tmp_path: Path, mode: int
) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(Refused, match="chmod 711"):
        prepare(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == mode
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 1001, 1001)
    with pytest.raises(Refused, match="belong to the server's user"):
        prepare(tmp_path)


def test_a_closed_directory_is_kept_closed_and_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with capture_logs() as logs:
        prepare(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert [entry["event"] for entry in logs] == ["data.closed"]
