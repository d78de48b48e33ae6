"""Every fuzz target for a moment, with the same inputs on each run; and that none is missing."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import CodeType, FrameType
from typing import Any

import pytest

from tests.fuzz.ledger import FUZZED
from tests.fuzz.parsers import SOURCE, find_parsers
from tests.fuzz.reasons import ELSEWHERE
from tests.fuzz.targets import TARGETS

LISTED = [name for names in (*FUZZED.values(), *ELSEWHERE.values()) for name in names.split()]


@pytest.mark.parametrize("name", TARGETS)
def test_only_refusals_come_out(name: str) -> None:
    """And the parsers that the target is there for are reached by what it makes up."""
    target = TARGETS[name]
    called: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            called.add(frame.f_code)

    def check(*arguments: Any) -> None:
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            target.check(*arguments)
        finally:
            sys.setprofile(before)

    replace(target, check=check).run_briefly()
    reached = {_name(code) for code in called}
    assert set(FUZZED.get(name, "").split()) - reached == set()


def _name(code: CodeType) -> str:
    _, _, place = code.co_filename.partition(f"{SOURCE}/")
    module = place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return f"{module}.{code.co_qualname.replace('.<locals>', '')}"


def test_every_parser_has_a_target() -> None:
    parsers = find_parsers()
    assert len(parsers) > 200
    assert parsers - set(LISTED) == set(), (
        "give it a target in tests/fuzz, and list it in tests/fuzz/ledger.py; or its reason in "
        "tests/fuzz/reasons.py"
    )
    assert set(LISTED) - parsers == set(), "it is gone, or has another name now"
    assert len(LISTED) == len(set(LISTED)), "one place for each"
    assert FUZZED.keys() <= TARGETS.keys()


def test_a_new_parser_is_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new.py").write_text(
        "import json\n\n_decoder = msgspec.json.Decoder(int)\n\n\n"
        "def take(body):\n    return _decoder.decode(body)\n\n\n"
        "class Thing:\n    def open(self, text):\n        return json.loads(text)['a']\n\n"
        "    @classmethod\n    def parse(cls, text):\n"
        "        def read_part():\n            pass\n\n\n"
        "def render_thing(value):\n    return json.dumps(value)\n"
    )
    monkeypatch.setattr("tests.fuzz.parsers.SOURCE", tmp_path)
    assert find_parsers() == {
        "new.<module>",
        "new.take",
        "new.Thing.open",
        "new.Thing.parse",
        "new.Thing.parse.read_part",
    }
