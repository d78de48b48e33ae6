"""Names of files outlast a power cut once their folder is synced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from troth.drivers.durability import sync_directory


def test_the_folder_itself_is_synced_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fsync(handle: int) -> None:
        found = os.fstat(handle)
        assert stat.S_ISDIR(found.st_mode)
        synced.append(found.st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    before = os.listdir("/proc/self/fd")
    sync_directory(tmp_path)
    assert synced == [tmp_path.stat().st_ino]
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_what_is_no_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        with pytest.raises(OSError, match=name):
            sync_directory(tmp_path / name)
