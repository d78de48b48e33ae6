"""`troth audit dead-letters retry`: all of them, in as many calls as that takes."""

from __future__ import annotations

from tests.fakes.api import FakeApi
from tests.unit.cli.conftest import Run
from troth.wire.api import sinks as wire


def test_all_are_sent_again_call_after_call(api: FakeApi, run: Run) -> None:
    answers = {
        "": wire.DeadLettersDone(done=98, refused=2, left=4, next="journal/100"),
        "journal/100": wire.DeadLettersDone(done=1, refused=1, left=3),
    }
    api.answers["dead_letter.retry"] = lambda request: answers[request.after]
    result = run("audit", "dead-letters", "retry", "siem", "--all")
    assert result.exit_code == 1, "some were refused"
    assert "99 delivered, 3 refused again, 3 left." in result.output
    assert [one.after for one in api.named("dead_letter.retry")] == ["", "journal/100"]


def test_a_receiver_that_goes_away_ends_it(api: FakeApi, run: Run) -> None:
    api.answers["dead_letter.retry"] = wire.DeadLettersDone(
        done=1, refused=0, left=9, trouble="503", next="journal/1"
    )
    result = run("audit", "dead-letters", "retry", "siem", "--all")
    assert result.exit_code == 1
    assert len(api.named("dead_letter.retry")) == 1
    assert "The receiver is away: 503" in result.output
