"""kill -9 while decisions are appended: what was acknowledged is there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from tests.fakes.decisions import EVER, verify_proof
from troth.archive.log import DecisionLog
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy

ROUNDS = 25
ROOT = Path(__file__).resolve().parents[3]


def test_nothing_acknowledged_is_lost_by_kills(tmp_path):
    folder = tmp_path / "decisions"
    command = [sys.executable, "-m", "tests.unit.archive.appender", str(folder), str(ROUNDS)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # structlog's lines about recovered segments go to the same place.
    acknowledged = [line for line in done.stdout.splitlines() if line.startswith("dec_")]
    assert len(acknowledged) > 100 * ROUNDS
    log = DecisionLog(folder, SystemClock(), SystemEntropy(), "a1b2")
    try:
        found = [record.id for record in log.scan(*EVER)]
        assert set(acknowledged) - set(found) == set()
        assert len(found) == len(set(found))
        segments = log.list_closed()
        numbers = [one.number for one in segments]
        assert numbers == sorted(set(numbers))
        assert sum(one.footer.count for one in segments) == len(found)
        assert [one.footer.damaged for one in segments] == [0] * len(segments)
        assert len(segments) > ROUNDS // 2
        roots = {one.number: one.footer.root for one in segments}
        for name in acknowledged[:: len(acknowledged) // 10]:
            proof = log.find_proof(name)
            assert verify_proof(proof, roots[proof.segment]).id == name
        assert asyncio.run(log.close_segment()) is None
    finally:
        log.close()
