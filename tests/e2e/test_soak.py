"""The soak, a short one on each engine: `make soak` does hundreds of kills."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import make_environ
from tests.fakes.postgres import find_programs
from tests.soak.__main__ import ENGINES

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
KILLS = 6
SEED = 20_261_122
SECONDS = 230


@pytest.mark.timeout(240)
@pytest.mark.parametrize("engine", ENGINES)
def test_servers_killed_under_load_lose_nothing(engine, record_property):
    if engine == "postgresql" and find_programs() is None:
        pytest.skip("Debian's package postgresql is not installed")
    command = [sys.executable, "-m", "tests.soak", "--brief", "--database", engine]
    command += ["--kills", str(KILLS), "--seed", str(SEED)]
    done = subprocess.run(
        command, cwd=ROOT, env=make_environ(), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (report,) = json.loads(done.stdout.splitlines()[-1])["runs"]
    record_property("report", report)
    assert report["killed"] >= KILLS
    assert report["acknowledged"]["certificates"] > 0
