"""The soak, a short one on each engine: `make soak` does hundreds of kills."""

from __future__ import annotations

import pytest

from tests.fakes.postgres import find_programs
from tests.soak.__main__ import ENGINES, soak

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KILLS = 6
SEED = 20_261_122


@pytest.mark.timeout(240)
@pytest.mark.parametrize("engine", ENGINES)
def test_servers_killed_under_load_lose_nothing(engine, record_property):
    if engine == "postgresql" and find_programs() is None:
        pytest.skip("Debian's package postgresql is not installed")
    make, servers = ENGINES[engine]
    report = soak(make(), servers, KILLS, SEED, patient=False)
    record_property("report", report)
    assert report["killed"] >= KILLS
    assert report["acknowledged"]["certificates"] > 0
