"""Where the archive's files lie: a folder, or whatever fsspec reaches, with the same promises."""

from __future__ import annotations

import os
import shutil
from datetime import date
from pathlib import Path
from uuid import uuid4

import pytest

from troth.archive.depot import Depot, FolderDepot, ObjectDepot, open_depot
from troth.archive.layout import ArchiveFile, Table
from troth.core.errors import NotFound, Unavailable

DAY = date(2026, 1, 2)
FILE = ArchiveFile(Table.DECISIONS, DAY, "a1b2", 1, 1)
EVER = (date.min, date.max)


@pytest.fixture(params=["folder", "memory"])
def depot(request: pytest.FixtureRequest, tmp_path: Path) -> Depot:
    if request.param == "folder":
        return open_depot(str(tmp_path / "archive"))
    return open_depot(f"memory://{uuid4().hex}/archive")


def put(depot: Depot, folder: Path, file: ArchiveFile, data: bytes) -> None:
    local = folder / "local"
    local.write_bytes(data)
    depot.put(local, file)
    assert not local.exists()


def test_what_is_put_is_listed_read_and_removed(depot, tmp_path):
    assert depot.list_files(Table.DECISIONS, *EVER) == []
    put(depot, tmp_path, FILE, b"0123456789")
    later = ArchiveFile(Table.DECISIONS, date(2026, 1, 3), "a1b2", 2, 2)
    put(depot, tmp_path, later, b"x")
    put(depot, tmp_path, FILE.beside(Table.TOUCHED), b"yy")
    assert sorted(depot.list_files(Table.DECISIONS, *EVER)) == [(FILE, 10), (later, 1)]
    assert depot.list_files(Table.DECISIONS, DAY, DAY) == [(FILE, 10)]
    assert depot.list_files(Table.TOUCHED, *EVER) == [(FILE.beside(Table.TOUCHED), 2)]
    blob = depot.open(FILE)
    assert (blob.size, blob.read(3, 4), blob.read(8, 9)) == (10, b"3456", b"89")
    blob.close()
    depot.remove(FILE)
    depot.remove(FILE)
    assert depot.list_files(Table.DECISIONS, *EVER) == [(later, 1)]
    with pytest.raises(NotFound):
        depot.open(FILE)


def test_a_file_that_is_replaced_is_read_on_as_it_was_or_as_it_is(depot, tmp_path):
    put(depot, tmp_path, FILE, b"old")
    blob = depot.open(FILE)
    put(depot, tmp_path, FILE, b"new")
    assert blob.read(0, 3) in (b"old", b"new")
    assert depot.open(FILE).read(0, 3) == b"new"


def test_a_folder_is_private_and_other_names_in_it_are_left_out(tmp_path):
    depot = FolderDepot(tmp_path / "archive")
    put(depot, tmp_path, FILE, b"x")
    day = tmp_path / "archive" / "decisions" / "day=2026-01-02"
    assert day.stat().st_mode & 0o777 == 0o700
    (day / "notes.txt").write_text("mine")
    (day / "a1b2-1-2.parquet").write_text("mine")
    (tmp_path / "archive" / "decisions" / "day=soon").mkdir()
    assert depot.list_files(Table.DECISIONS, *EVER) == [(FILE, 1)]
    depot.remove(FILE)
    assert sorted(os.listdir(day)) == ["a1b2-1-2.parquet", "notes.txt"]


def test_the_folder_of_a_day_goes_with_its_last_file(tmp_path):
    depot = FolderDepot(tmp_path / "archive")
    put(depot, tmp_path, FILE, b"x")
    depot.remove(FILE)
    assert os.listdir(tmp_path / "archive" / "decisions") == []


def test_a_symbolic_link_isn_t_followed(tmp_path):
    depot = FolderDepot(tmp_path / "archive")
    put(depot, tmp_path, FILE, b"x")
    path = tmp_path / "archive" / FILE.name
    (tmp_path / "secret").write_text("secret")
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(Unavailable):
        depot.open(FILE)


def test_a_disk_that_fails_is_told_with_the_file(tmp_path):
    depot = FolderDepot(tmp_path / "archive")
    (tmp_path / "archive" / "decisions").write_text("a file where a folder should be")
    with pytest.raises(Unavailable, match=r"archive/decisions.*File exists"):
        put(depot, tmp_path, FILE, b"x")
    with pytest.raises(Unavailable, match="Not a directory"):
        depot.list_files(Table.DECISIONS, *EVER)


def test_a_file_url_is_a_folder(tmp_path):
    assert isinstance(open_depot(f"file://{tmp_path}/archive"), FolderDepot)


def test_protocols_that_nothing_speaks_are_told_without_secrets():
    with pytest.raises(Unavailable, match="nosuch://") as caught:
        open_depot("nosuch://user:secret@host/place")
    assert "secret" not in caught.value.detail


def test_a_store_s_own_words_are_never_told(monkeypatch):
    depot = ObjectDepot(f"memory://{uuid4().hex}")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("AWS_SECRET=hunter2")

    monkeypatch.setattr(depot._system, "find", fail)
    with pytest.raises(Unavailable, match="RuntimeError") as caught:
        depot.list_files(Table.EVENTS, *EVER)
    assert "hunter2" not in caught.value.detail


def test_a_day_that_is_removed_while_it_is_listed_is_left_out(tmp_path, monkeypatch):
    depot = FolderDepot(tmp_path)
    for day in (1, 2):
        put(depot, tmp_path, ArchiveFile(Table.EVENTS, date(2026, 1, day), "journal", 1, 1), b"x")
    listdir = os.listdir

    def list_and_remove(path: Path) -> list[str]:
        found = listdir(path)
        shutil.rmtree(tmp_path / "events" / "day=2026-01-01")
        return found

    monkeypatch.setattr("troth.archive.depot.os.listdir", list_and_remove)
    ((file, _),) = depot.list_files(Table.EVENTS, *EVER)
    assert file.day == date(2026, 1, 2)
