from __future__ import annotations

import queue
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from troth.cli.demonstration.programs.life import Voice
from troth.cli.demonstration.programs.series import Series, describe_refusal
from troth.core.clock import VirtualClock


class Callee:
    """Answers each call of a series with what the test puts in, and waits for the next one."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self._answers: queue.Queue[str | Exception] = queue.Queue()
        self._asked: queue.Queue[None] = queue.Queue()
        self.series = Series(self._answer, Voice(self.clock))
        self._asked.get(timeout=10)

    def answer(self, *answers: str | Exception) -> None:
        """Give these, a second apart; returns when they are noted."""
        for one in answers:
            self._answers.put(one)
            self._asked.get(timeout=10)

    def end(self, answer: str) -> None:
        """Give the answer after which there is no other call; returns when the series is over."""
        self._answers.put(answer)
        self.series.join(10)

    @property
    def asked(self) -> bool:
        """Whether a call waits for its answer."""
        return not self._asked.empty()

    def _answer(self) -> str:
        self.clock.advance(timedelta(seconds=1))
        self._asked.put(None)
        found = self._answers.get()
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def callee() -> Iterator[Callee]:
    made = Callee()
    yield made
    made._answers.put("")


def test_it_tells_the_last_answer_and_the_first_refusal_after_it(callee):
    callee.answer("", "")
    before = callee.series.report()
    callee.answer("no", OSError("gone"))
    after = callee.series.report()
    assert (before["answered"], before["refused"], before["reason"]) == (2, 0, "")
    assert (after["answered"], after["refused"]) == (2, 2)
    assert after["last_answered"] == before["last_answered"]
    assert after["first_refused"] == after["last_answered"] + 1
    assert (after["reason"], after["latest"]) == ("no", "gone")


def test_a_refusal_that_passed_is_not_the_one_that_is_told(callee):
    callee.answer("", "a moment please", "", "no")
    report = callee.series.report()
    assert report["reason"] == "no"
    assert report["first_refused"] > report["last_answered"]


def test_it_tells_the_last_refusal_and_the_first_answer_after_it(callee):
    callee.answer("", "no", "not yet")
    before = callee.series.report()
    callee.answer("", "")
    after = callee.series.report()
    assert before["first_answered"] < before["last_refused"] == after["last_refused"]
    assert after["first_answered"] == after["last_refused"] + 1
    assert after["last_answered"] == after["first_answered"] + 1


def test_it_stops_when_it_is_told(callee):
    callee.answer("")
    callee.series.stop()
    callee.end("no")
    assert callee.series.report()["refused"] == 1
    assert not callee.asked


def test_a_refusal_in_words():
    header = (
        'Bearer resource_metadata="https://a.example/x", error="invalid_token", '
        'error_description="It has ended, sorry."'
    )
    refused = httpx.Response(401, headers={"www-authenticate": header})
    assert describe_refusal(refused) == "401 invalid_token It has ended, sorry."
    assert describe_refusal(httpx.Response(503)) == "503"
