"""Keys on the command line: a file is read whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from tests.fakes.witnesses import make_signer
from troth.cli.vkeys import LARGEST_KEYS, read_vkeys

KEYS = make_signer().public


def test_keys_are_read_from_files_and_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "w1.vkey"
    path.write_text(f"# a witness\n{KEYS[0].render()}\n\n{KEYS[1].render()}\n")
    assert read_vkeys([f"@{path}", KEYS[0].render()], "--witness") == KEYS


def test_a_file_that_is_too_long_isnt_cut_off(tmp_path: Path) -> None:
    """What was left out would be missed by nobody: a witness less, or a log that isn't known."""
    path = tmp_path / "w1.vkey"
    head = f"{KEYS[0].render()}\n"
    path.write_text(head + "#" * (LARGEST_KEYS - len(head) - 1) + f"\n{KEYS[1].render()}\n")
    with pytest.raises(typer.BadParameter, match="more than 64 KiB"):
        read_vkeys([f"@{path}"], "--witness")
