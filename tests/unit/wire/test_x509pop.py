"""The evidence of a proof of possession: written and read, and nothing else read."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from troth.core.errors import Invalid
from troth.wire.x509pop import MAX_EVIDENCE, Evidence, parse_evidence, render_evidence

AT = datetime(2026, 1, 1, 12, 0, 0, 123_000, tzinfo=UTC)


def test_what_is_written_is_read() -> None:
    text = render_evidence([b"leaf", b"issuer"], AT + timedelta(microseconds=999), b"signed")
    assert parse_evidence(text) == Evidence((b"leaf", b"issuer"), AT, b"signed")


GOOD: dict[str, Any] = {"chain": ["AAAA"], "time": 0, "signature": "AAAA"}


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        {},
        {**GOOD, "more": 1},
        {**GOOD, "time": True},
        {**GOOD, "time": -1},
        {**GOOD, "time": 10**15},
        {**GOOD, "time": 1.5},
        {**GOOD, "time": "1"},
        {**GOOD, "chain": "AAAA"},
        {**GOOD, "chain": [1]},
        {**GOOD, "chain": ["A"]},
        {**GOOD, "chain": ["AA A"]},
        {**GOOD, "chain": ["ü"]},
        {**GOOD, "signature": None},
    ],
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(Invalid, match="not an x509pop proof"):
        parse_evidence(json.dumps(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 20_000,
        json.dumps(GOOD) + " " * MAX_EVIDENCE,
        '{"chain": [], "time": 0, "time": 1, "signature": ""}',
        '{"chain": [], "time": ' + "1" * 5000 + ', "signature": ""}',
        '{"chain": [], "time": NaN, "signature": ""}',
    ],
)
def test_what_is_no_json_of_ours_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="not an x509pop proof"):
        parse_evidence(text)


def test_a_machine_needs_cryptography_and_the_standard_library_alone() -> None:
    script = (
        "import sys\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        "before |= {*sys.stdlib_module_names, 'troth'}\n"
        "import troth.identity.x509pop, troth.wire.x509pop\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "import json\n"
        "print(json.dumps(sorted(names - before)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env={"PYTHONPATH": ":".join(p for p in sys.path if p)},
    )
    assert set(json.loads(done.stdout)) <= {"cryptography", "_cffi_backend", "_openssl"}
