"""Receivers that are written in Go, built from their modules by a script."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NO_GO = 3


def build_receiver(name: str) -> Path:
    """The program ``tests/programs/NAME``; skips the test where it can't be built."""
    command = [str(ROOT / "scripts" / "build_receiver.sh"), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == NO_GO:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return ROOT / ".cache" / "bin" / name
