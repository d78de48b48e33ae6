"""What every sink driver promises, each with a receiver of its kind: rsyslogd, nats-server and a
Kafka-compatible broker are real; what speaks HTTP is read strictly by the receivers' own rules."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.messages import drop_repeats, make_message, make_messages
from tests.fakes.sinkharness import HARNESSES, FileHarness, Harness
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.drivers.sinks import BUILT_IN, Away, Rejected, Sink
from troth.operations.outlet import Outlet

PROMPT = 5.0
"""Seconds within which something must be over that waits for one second."""


def each(harnesses: Iterable[type[Harness]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "harness", list(harnesses), ids=lambda made: made.driver, indirect=True
    )


all_of_them = each(HARNESSES)
those_that_hang = each(made for made in HARNESSES if made is not FileHarness)
those_that_refuse = each(made for made in HARNESSES if made.refuses)
those_that_ask = each(made for made in HARNESSES if made.secret)


@pytest.fixture
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    made: Harness = request.param(tmp_path)
    made.start()
    yield made
    made.close()


def use(
    harness: Harness, test: Callable[[Sink], Coroutine[Any, Any, None]], **options: Any
) -> None:
    async def main() -> None:
        sink = harness.open(**options)
        try:
            await test(sink)
        finally:
            await sink.close()

    with harness.clean():
        asyncio.run(main())


def deliver(harness: Harness, *batches: list[Any]) -> None:
    async def test(sink: Sink) -> None:
        for batch in batches:
            await sink.deliver(batch)

    use(harness, test)


def stop(harness: Harness) -> None:
    harness.stop()


def start_again(harness: Harness) -> None:
    if isinstance(harness, FileHarness):
        harness.start_again()
    else:
        harness.start()


def test_every_built_in_driver_is_here():
    assert {made.driver for made in HARNESSES} == BUILT_IN.keys()


@all_of_them
def test_what_is_delivered_is_there_whole_and_in_order(harness: Harness):
    deliver(harness, make_messages(250), make_messages(1, 251), make_messages(99, 252))
    assert harness.list_numbers() == list(range(1, 351))


@all_of_them
def test_a_sink_that_was_closed_opens_again(harness: Harness):
    async def test(sink: Sink) -> None:
        await sink.deliver(make_messages(2))
        await sink.close()
        await sink.close()

    use(harness, test)
    deliver(harness, make_messages(2, 3))
    assert harness.list_numbers() == [1, 2, 3, 4]


@all_of_them
def test_who_is_away_is_away_and_nothing_is_lost(harness: Harness):
    deliver(harness, make_messages(20))
    stop(harness)

    async def fail(sink: Sink) -> None:
        began = time.monotonic()
        with pytest.raises(Away) as raised:
            await sink.deliver(make_messages(20, 21))
        assert time.monotonic() - began < PROMPT
        assert raised.value.retryable
        if harness.secret:
            assert harness.secret not in str(raised.value)

    use(harness, fail, timeout=1.0)
    start_again(harness)
    deliver(harness, make_messages(20, 21), make_messages(5, 41))
    assert drop_repeats(harness.list_numbers()) == list(range(1, 46))


@all_of_them
def test_who_goes_away_while_a_sink_is_open_is_found_again(harness: Harness):
    async def test(sink: Sink) -> None:
        await sink.deliver(make_messages(20))
        await asyncio.to_thread(stop, harness)
        with pytest.raises(Away):
            await sink.deliver(make_messages(20, 21))
        await sink.close()
        await asyncio.to_thread(start_again, harness)

    use(harness, test, timeout=1.0)
    deliver(harness, make_messages(20, 21))
    assert drop_repeats(harness.list_numbers()) == list(range(1, 41))


@those_that_hang
def test_who_hangs_is_away_before_long(harness: Harness):
    deliver(harness, make_messages(5))
    harness.hang()

    async def fail(sink: Sink) -> None:
        began = time.monotonic()
        with pytest.raises(Away):
            await sink.deliver(make_messages(5, 6))
        await sink.close()
        assert time.monotonic() - began < PROMPT

    use(harness, fail, timeout=1.0)
    harness.go_on()
    deliver(harness, make_messages(5, 6), make_messages(5, 11))
    assert drop_repeats(harness.list_numbers()) == list(range(1, 16))


@those_that_hang
def test_a_delivery_can_be_given_up(harness: Harness):
    harness.hang()

    async def give_up(sink: Sink) -> None:
        task = asyncio.create_task(sink.deliver(make_messages(5)))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await sink.close()
        assert time.monotonic() - began < PROMPT

    use(harness, give_up, timeout=30.0)
    harness.go_on()
    deliver(harness, make_messages(5))
    assert drop_repeats(harness.list_numbers()) == [1, 2, 3, 4, 5]


@those_that_refuse
def test_what_is_refused_for_good_holds_up_nothing_else(harness: Harness):
    batch = make_messages(20)
    batch[6] = harness.make_refused(7)

    async def main() -> None:
        outlet = Outlet(
            harness.target,
            harness.driver,
            VirtualClock(),
            SeededEntropy(),
            lambda: harness.secret,
        )
        try:
            outcome = await outlet.send(batch)
            assert outcome.done == 20
            assert list(outcome.refused) == [6]
            assert outcome.refused[6]
            assert not outcome.trouble
        finally:
            await outlet.close()

    asyncio.run(main())
    wanted = [number for number in range(1, 21) if number != 7]
    assert sorted(drop_repeats(harness.list_numbers())) == wanted


@those_that_refuse
def test_one_that_is_refused_is_told_as_that(harness: Harness):
    async def test(sink: Sink) -> None:
        with pytest.raises(Rejected) as raised:
            await sink.deliver([harness.make_refused(1)])
        assert raised.value.messages in (None, {0: (raised.value.messages or {}).get(0)})
        await sink.deliver([make_message(2)])

    use(harness, test)
    assert harness.list_numbers() == [2]


@those_that_ask
def test_a_wrong_secret_is_no_reason_to_drop_anything(
    harness: Harness, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    secret, harness.secret = harness.secret, "another-secret"

    async def fail(sink: Sink) -> None:
        assert "another-secret" not in repr(sink)
        with pytest.raises(Away) as raised:
            await sink.deliver(make_messages(3))
        assert "another-secret" not in str(raised.value)

    use(harness, fail, timeout=2.0)
    assert "another-secret" not in caplog.text
    harness.secret = secret
    deliver(harness, make_messages(3))
    assert harness.list_numbers() == [1, 2, 3]
