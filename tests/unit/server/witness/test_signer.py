"""The witness's keys: made once, sealed, private, and under one name for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from troth.core.entropy import SystemEntropy
from troth.core.errors import Invalid, NotFound, Refused, Unavailable
from troth.server.witness.signer import WitnessSigner, open_signer

NAME = "witness.example/w1"


def open_in(folder: Path, name: str = NAME, source: str = "") -> WitnessSigner:
    folder.mkdir(mode=0o700, exist_ok=True)
    return open_signer(folder, name, source, SystemEntropy())


def test_the_keys_outlast_the_process(tmp_path: Path) -> None:
    first = open_in(tmp_path / "w")
    again = open_in(tmp_path / "w")
    assert first.public == again.public
    assert [key.kind for key in first.public] == [4, 6]
    assert {key.name for key in first.public} == {NAME}


def test_nobody_else_can_read_them(tmp_path: Path) -> None:
    open_in(tmp_path / "w")
    files = [path for path in (tmp_path / "w").rglob("*") if path.is_file()]
    assert len(files) == 5
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    keys = [path.read_bytes() for path in files if path.suffix == ".key"]
    assert len(keys) == 2
    assert all(one.startswith(b"troth-key/1\n") for one in keys)


def test_a_key_has_one_name(tmp_path: Path) -> None:
    open_in(tmp_path / "w")
    with pytest.raises(Refused, match=r"called 'witness\.example/w1'"):
        open_in(tmp_path / "w", "witness.example/w2")
    (tmp_path / "w" / "name").unlink()
    with pytest.raises(NotFound, match="restore it"):
        open_in(tmp_path / "w", "witness.example/w2")


def test_a_name_that_no_key_may_have_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        open_in(tmp_path / "w", "a witness")
    assert not list((tmp_path / "w" / "keys").glob("*.key"))


def test_what_seals_them_may_lie_elsewhere(tmp_path: Path) -> None:
    kek = tmp_path / "kek"
    first = open_in(tmp_path / "w", source=f"file:{kek}")
    assert not (tmp_path / "w" / "keys" / "kek").exists()
    assert open_in(tmp_path / "w", source=f"command:cat {kek}").public == first.public
    with pytest.raises(Unavailable):
        open_in(tmp_path / "w")


def test_a_folder_that_others_may_look_into_is_refused(tmp_path: Path) -> None:
    open_in(tmp_path / "w")
    (tmp_path / "w" / "keys").chmod(0o755)
    with pytest.raises(Unavailable, match="chmod 700"):
        open_in(tmp_path / "w")
