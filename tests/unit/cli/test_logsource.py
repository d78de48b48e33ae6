"""Where a log is read from: what lies there in place of a file is named, and never waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.logs import show_log
from troth.archive.place import Folder
from troth.audit.flaw import Fault
from troth.audit.tile import DamagedTile
from troth.audit.verification import verify_log
from troth.cli.logsource import LARGEST_FILE, FolderSource
from troth.core.errors import NotFound

NAMES = ["tile/0/001", "tile/entries/001", "detail/001"]


def enlarge(path: Path) -> None:
    os.truncate(path, LARGEST_FILE + 1)


def make_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spoil", [enlarge, make_loop, make_pipe])
@pytest.mark.parametrize("source", [FolderSource, Folder])
def test_what_no_log_has_is_named(
    tmp_path: Path,
    source: Callable[[Path], FolderSource | Folder],
    spoil: Callable[[Path], None],
    name: str,
) -> None:
    log = show_log(600)
    log.write_to(tmp_path)
    spoil(tmp_path / name)
    found = verify_log(source(tmp_path).read, log.size, log.root)
    assert [(flaw.fault, flaw.name) for flaw in found.flaws] == [(Fault.CUT, name)]


def test_what_is_missing_is_told_apart_from_what_cant_be_read(tmp_path: Path) -> None:
    (tmp_path / "tile").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to("loop")
    source = FolderSource(tmp_path)
    assert source.read("empty") == b""
    for name in ("tile", "nothing", "empty/below"):
        with pytest.raises(NotFound):
            source.read(name)
    with pytest.raises(DamagedTile, match="Too many levels"):
        source.read("loop")
