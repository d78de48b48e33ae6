from __future__ import annotations

import json

from troth.cli.demonstration.narration import Narrator
from troth.cli.options import Options
from troth.cli.terminal import Terminal
from troth.core.clock import VirtualClock


def make_narrator(*, as_json: bool = False) -> Narrator:
    return Narrator(Terminal(Options(json=as_json), VirtualClock()))


def be_surprised() -> None:
    raise ValueError("a surprise")


def test_the_last_line_counts_steps_and_failures(capsys):
    narrator = make_narrator()
    with narrator.step(1, "first", "One thing holds", str):
        narrator.check("it holds", True, "seen")
    narrator.end(planned=1)
    assert capsys.readouterr().out.splitlines()[-1] == "demo: 1 steps, 0 failed"


def test_a_check_that_does_not_hold_fails_its_step(capsys):
    narrator = make_narrator()
    with narrator.step(1, "first", "One of two holds", str):
        assert narrator.check("this holds", True)
        assert not narrator.check("that doesn't", False, "something else")
    narrator.end(planned=1)
    out = capsys.readouterr().out
    assert "✗ that doesn't: something else" in out
    assert out.splitlines()[-1] == "demo: 1 steps, 1 failed"


def test_an_error_fails_its_step_and_the_story_goes_on(capsys):
    narrator = make_narrator()
    with narrator.step(1, "first", "This breaks", lambda error: f"because of {error}"):
        narrator.check("it began", True)
        be_surprised()
    with narrator.step(2, "second", "This holds", str):
        narrator.check("it holds", True)
    narrator.end(planned=2)
    out = capsys.readouterr().out
    assert "because of a surprise" in out
    assert out.splitlines()[-1] == "demo: 2 steps, 1 failed"


def test_a_step_that_checks_nothing_has_not_held():
    narrator = make_narrator()
    with narrator.step(1, "first", "Nothing is looked at", str):
        pass
    assert narrator.failed == 1


def test_steps_that_were_not_reached_have_failed(capsys):
    narrator = make_narrator()
    with narrator.step(1, "first", "It ends here", str):
        narrator.check("it holds", True)
    narrator.end(planned=3)
    assert capsys.readouterr().out.splitlines()[-1] == "demo: 3 steps, 2 failed"


def test_json_has_a_line_for_each_step_and_nothing_else(capsys):
    narrator = make_narrator(as_json=True)
    with narrator.step(1, "first", "One thing holds", str) as step:
        narrator.say("words for people")
        narrator.check("it holds", True, "seen")
        step.facts["serial"] = "ab"
    narrator.end(planned=1)
    step_line, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert step_line["ok"] is True
    assert step_line["checks"] == [{"claim": "it holds", "held": True, "seen": "seen"}]
    assert step_line["facts"] == {"serial": "ab"}
    assert end == {"steps": 1, "failed": 0, "seconds": 0.0}


def test_words_of_others_cannot_steer_the_terminal(capsys):
    narrator = make_narrator()
    narrator.quote("\x1b[2Jgone")
    assert "\x1b" not in capsys.readouterr().out
