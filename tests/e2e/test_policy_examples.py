"""The worked examples of policies, in force on a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Server, run_troth

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def call(troth: Server, *words: str) -> Any:
    done = run_troth("--data", troth.data, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def evaluate(troth: Server, who: str, action: str, what: str, **context: str) -> Any:
    words = ("decision", "evaluate", who, action, what, "--context", json.dumps(context))
    return call(troth, *words)


def test_robot_arm(troth: Server) -> None:
    call(troth, "apply", "--yes", str(EXAMPLES / "robot-arm"))
    own, other = "robot-arm:arm-7", "robot-arm:arm-8"
    assert evaluate(troth, "cell-7-controller", "stop", own)["decision"]
    assert not evaluate(troth, "cell-7-controller", "stop", other)["decision"]
    # Nothing is said of the speed and the fence.
    moved = evaluate(troth, "cell-7-controller", "move", own, transport="mtls")
    assert not moved["decision"]
    assert "policy/fast-behind-a-closed-fence" in json.dumps(moved["context"])


def test_database_user(troth: Server) -> None:
    call(troth, "apply", "--yes", str(EXAMPLES / "database-user"))
    rules = call(
        troth, "postgres", "rules", "warehouse", "--database", "warehouse", "--part", "ident"
    )
    roles = rules["roles"]
    assert len(roles["warehouse_read_reporting"]) == 1
    assert "monthly-reports" in roles["warehouse_read_reporting"][0]
    assert roles["warehouse_change_reporting"] == []  # nothing is granted
    assert "payroll-run" in roles["warehouse_read_payroll"][0]


def test_retail_till_waits_for_a_second_person(troth: Server) -> None:
    """It has resources that are critical."""
    words = ("apply", "--yes", str(EXAMPLES / "retail-till"))
    done = run_troth("--data", troth.data, *words)
    assert done.returncode == 1
    assert "critical" in done.stdout + done.stderr
    (held,) = call(troth, "policy", "pending")["items"]
    assert "Resource card-vault is critical." in held["reasons"]
