from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from tests.fakes.messages import drop_repeats, make_messages
from tests.fakes.sinks import FakeReceiver, make_outlet
from troth.core.clock import VirtualClock
from troth.core.errors import Unavailable
from troth.drivers.sinks import Away, Rejected
from troth.operations.outlet import LONGEST_PAUSE, MOST_REFUSED, Outcome, Outlet

DAY = 86_400


def send(outlet: Outlet, count: int, start: int = 1) -> Outcome:
    return asyncio.run(outlet.send(make_messages(count, start)))


def make(**settings: Any) -> tuple[VirtualClock, FakeReceiver, Outlet]:
    clock, receiver = VirtualClock(), FakeReceiver(**settings)
    return clock, receiver, make_outlet(receiver, clock)


def test_a_batch_goes_out_whole_over_one_connection():
    _, receiver, outlet = make()
    assert send(outlet, 20) == Outcome(20)
    assert send(outlet, 5, 21) == Outcome(5)
    assert receiver.ids == [one.id for one in make_messages(25)]
    assert (receiver.opened, receiver.attempts) == (1, 2)


def test_who_is_away_for_a_day_is_asked_ever_less_often_and_gets_all():
    clock, receiver, outlet = make(away="503")
    asked = []
    for second in range(DAY):
        if outlet.is_due:
            asked.append(second)
            assert send(outlet, 10) == Outcome(0, {}, "503")
        clock.advance(timedelta(seconds=1))
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses[:3] == sorted(pauses[:3])
    assert max(pauses) <= LONGEST_PAUSE + 1
    assert min(pauses[10:]) >= LONGEST_PAUSE / 2
    assert len(set(pauses[10:])) > 10, "servers would come back all at once"
    assert DAY / LONGEST_PAUSE < len(asked) < 3 * DAY / LONGEST_PAUSE
    receiver.away = ""
    clock.advance(timedelta(seconds=LONGEST_PAUSE))
    assert send(outlet, 10) == Outcome(10)
    assert outlet.trouble == ""
    assert receiver.ids == [one.id for one in make_messages(10)]


def test_who_is_too_slow_for_a_batch_gets_smaller_ones_and_has_all_in_the_end():
    clock, receiver = VirtualClock(), FakeReceiver(slow_above=40)
    outlet = make_outlet(receiver, clock, patience=0.02)
    messages = make_messages(250)
    done, rounds = 0, 0
    while done < len(messages):
        done += asyncio.run(outlet.send(messages[done:])).done
        clock.advance(timedelta(seconds=LONGEST_PAUSE))
        rounds += 1
        assert rounds < 20, "the same is sent for ever"
    assert drop_repeats(receiver.ids) == [one.id for one in messages]
    receiver.slow_above = None
    before = receiver.attempts
    for _ in range(20):
        assert asyncio.run(outlet.send(messages)) == Outcome(250)
    assert receiver.attempts - before < 60, "batches are whole again"


def test_who_is_too_slow_for_a_batch_isn_t_asked_for_ever_less_often():
    clock, receiver = VirtualClock(), FakeReceiver(slow_above=40)
    outlet = make_outlet(receiver, clock, patience=0.02)
    done, seconds = 0, 0
    while done < 5000:
        if outlet.is_due:
            done += send(outlet, 250, done + 1).done
        clock.advance(timedelta(seconds=1))
        seconds += 1
    assert seconds < 120
    assert len(receiver.ids) < 1.5 * len(set(receiver.ids))


def test_before_its_time_nobody_is_asked():
    _, receiver, outlet = make(away="503")
    send(outlet, 1)
    assert not outlet.is_due
    assert send(outlet, 1) == Outcome(0, {}, "503")
    assert receiver.attempts == 1


def test_a_receiver_s_own_wish_is_followed_up_to_the_longest_pause():
    clock, receiver, outlet = make(away="429", retry_after=20.0)
    send(outlet, 1)
    due = []
    for pause in (9, 11):
        clock.advance(timedelta(seconds=pause))
        due.append(outlet.is_due)
    assert due == [False, True]
    receiver.retry_after = 86_400.0
    send(outlet, 1)
    clock.advance(timedelta(seconds=LONGEST_PAUSE))
    assert outlet.is_due


def test_who_hangs_is_given_up_and_the_connection_is_another_one():
    clock, receiver = VirtualClock(), FakeReceiver(hangs=True)
    outlet = make_outlet(receiver, clock, patience=0.02)
    outcome = send(outlet, 3)
    assert (outcome.done, outcome.refused) == (0, {})
    assert "longer than 0.02 seconds" in outcome.trouble
    assert receiver.closed == 1
    receiver.hangs = False
    clock.advance(timedelta(minutes=1))
    assert send(outlet, 3) == Outcome(3)
    assert receiver.opened == 2


def test_a_connection_that_is_cut_in_the_middle_of_a_batch_has_it_sent_again():
    clock, receiver, outlet = make(cut_after=3)
    assert send(outlet, 10).done == 0
    receiver.cut_after = None
    clock.advance(timedelta(minutes=1))
    assert send(outlet, 10).done == 10
    wanted = [one.id for one in make_messages(10)]
    assert receiver.ids == wanted[:3] + wanted


@pytest.mark.parametrize("names", [True, False])
def test_what_is_refused_is_found_and_the_rest_goes_on(names):
    _, receiver, outlet = make(names=names)
    messages = make_messages(40)
    receiver.refused = {messages[place].id for place in (0, 17, 18, 39)}
    outcome = send(outlet, 40)
    assert outcome.done == 40
    assert outcome.refused.keys() == {0, 17, 18, 39}
    wanted = [one.id for one in messages if one.id not in receiver.refused]
    assert receiver.ids == wanted


def test_what_was_refused_before_the_receiver_went_away_is_told_with_what_is_done():
    _, receiver, outlet = make()
    messages = make_messages(8)
    receiver.refused = {messages[1].id}

    def go_away() -> None:
        if len(receiver.taken) == 3:
            receiver.away = "gone"

    receiver.before = go_away
    outcome = send(outlet, 8)
    assert outcome.trouble == "gone"
    assert outcome.done == 4
    assert outcome.refused == {1: "something is wrong with it"}


@pytest.mark.parametrize("names", [True, False])
def test_a_receiver_that_refuses_everything_is_taken_for_a_wrong_configuration(names):
    clock, receiver, outlet = make(refuses_all=True, names=names)
    refused = done = 0
    for _ in range(50):
        outcome = send(outlet, 25, done + 1)
        refused += len(outcome.refused)
        done += outcome.done
        clock.advance(timedelta(minutes=2))
    assert refused == done == MOST_REFUSED
    assert "configured wrongly" in outlet.trouble
    receiver.refuses_all = False
    clock.advance(timedelta(minutes=2))
    assert send(outlet, 25, done + 1) == Outcome(25)
    receiver.refuses_all = True
    assert len(send(outlet, 25, done + 26).refused) == 25, "it counts anew"


def test_a_driver_that_breaks_waits_as_for_one_that_is_away():
    clock, receiver, outlet = make(broken=ZeroDivisionError("with a secret in it"))
    outcome = send(outlet, 2)
    assert outcome.done == 0
    assert "ZeroDivisionError" in outcome.trouble
    assert "secret" not in outcome.trouble
    receiver.broken = None
    clock.advance(timedelta(minutes=1))
    assert send(outlet, 2) == Outcome(2)


def test_the_secret_is_read_for_each_connection():
    clock, receiver = VirtualClock(), FakeReceiver()
    texts = iter(["first", "second"])
    outlet = make_outlet(receiver, clock, secret=lambda: next(texts))
    send(outlet, 1)
    send(outlet, 1)
    receiver.away = "401"
    send(outlet, 1)
    receiver.away = ""
    clock.advance(timedelta(minutes=1))
    send(outlet, 1)
    assert receiver.secrets == ["first", "second"]


def test_a_secret_that_can_t_be_read_is_a_reason_to_wait():
    def fail() -> str:
        raise Unavailable("Can't read the secret of the sink siem /run/token: chmod 600.")

    outlet = make_outlet(FakeReceiver(), VirtualClock(), secret=fail)
    assert send(outlet, 1) == Outcome(
        0, {}, "Can't read the secret of the sink siem /run/token: chmod 600."
    )


def test_when_it_is_stopped_the_connection_is_closed():
    _, receiver, outlet = make(hangs=True)

    async def main() -> None:
        task = asyncio.create_task(outlet.send(make_messages(1)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (receiver.opened, receiver.closed) == (1, 1)


def test_one_message_can_be_sent_whatever_was_before():
    _, receiver, outlet = make(away="503")
    send(outlet, 1)

    async def main() -> None:
        with pytest.raises(Away):
            await outlet.send_again(make_messages(1)[0])
        receiver.away, receiver.refuses_all = "", True
        with pytest.raises(Rejected):
            await outlet.send_again(make_messages(1)[0])
        receiver.refuses_all = False
        await outlet.send_again(make_messages(1)[0])

    asyncio.run(main())
    assert len(receiver.taken) == 1
