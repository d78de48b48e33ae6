"""Every fuzz target for a moment, with the same inputs on each run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]

ELSEWHERE = {
    "parse_url": "a setting of the server's own operator, checked by load_config before",
}
"""Public ``parse_…`` functions without a target, and why they need none."""


@pytest.mark.parametrize("name", TARGETS)
def test_only_refusals_come_out(name: str) -> None:
    TARGETS[name].run_briefly()


def test_every_parser_has_a_target() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    parsers = {
        node.name
        for path in (ROOT / "src/troth").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and re.match("parse_[a-z]", node.name)
    }
    assert len(parsers) > 15
    forgotten = {name for name in parsers if not re.search(rf"\b{name}\b", text)}
    assert forgotten == set(), "give it a target in tests/fuzz, or its reason in ELSEWHERE"
