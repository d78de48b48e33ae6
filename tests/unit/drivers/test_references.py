from __future__ import annotations

import os
from pathlib import Path

import pytest

from troth.core.errors import Invalid, TrothError, Unavailable
from troth.drivers.references import LARGEST, read_reference

WHAT = "secret of the sink siem"


def read(source: str, **environment: str) -> str:
    return read_reference(source, WHAT, environment={"PATH": os.defpath, **environment})


def make(folder: Path, content: bytes = b"hunter2\n", mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_each_kind_of_source_gives_its_text(tmp_path):
    assert read(f"file:{make(tmp_path)}") == "hunter2\n"
    assert read("env:SIEM_TOKEN", SIEM_TOKEN="hunter2") == "hunter2"
    assert read("command:printf 'hunter %s' 2") == "hunter 2"


def test_a_text_of_many_lines_comes_whole(tmp_path):
    text = "-----BEGIN NATS USER JWT-----\nö\n------END NATS USER JWT------\n"
    assert read(f"file:{make(tmp_path, text.encode())}") == text


def test_so_much_is_read_and_no_more(tmp_path):
    assert len(read(f"file:{make(tmp_path, b'x' * 10_000)}")) == LARGEST


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o700])
def test_a_file_that_others_may_see_is_refused(tmp_path, mode):
    with pytest.raises(Unavailable, match="chmod 600"):
        read(f"file:{make(tmp_path, mode=mode)}")


@pytest.mark.parametrize(
    "source",
    [
        "file:/nowhere/at/all",
        "env:SIEM_TOKEN",
        "command:/nowhere/at/all",
        "command:false",
        "command:sh -c 'echo hunter2; exit 3'",
    ],
)
def test_what_yields_nothing_says_what_it_was_for(source):
    with pytest.raises(Unavailable) as raised:
        read(source)
    assert WHAT in raised.value.detail
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("source", ["", "hunter2", "file:", "env: ", "vault:a", "command:'a"])
def test_another_form_is_refused_and_not_repeated(source):
    with pytest.raises(TrothError) as raised:
        read(source)
    assert isinstance(raised.value, Invalid)
    assert "hunter2" not in raised.value.detail
