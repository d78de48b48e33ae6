from datetime import UTC, datetime, timedelta

from troth.core.clock import SteadyWatch, SystemClock, VirtualClock


def test_the_system_clock_is_utc_and_its_monotonic_part_never_goes_back():
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    first = clock.monotonic()
    assert clock.monotonic() >= first


def test_the_virtual_clock_moves_only_when_told():
    clock = VirtualClock(datetime(2026, 5, 1, tzinfo=UTC))
    assert clock.now() == clock.now() == datetime(2026, 5, 1, tzinfo=UTC)
    clock.advance(timedelta(seconds=90))
    assert clock.now() == datetime(2026, 5, 1, 0, 1, 30, tzinfo=UTC)
    assert clock.monotonic() == 90.0


def test_a_jump_of_the_wall_clock_leaves_durations_alone():
    clock = VirtualClock()
    clock.advance(timedelta(seconds=5))
    clock.jump(datetime(2020, 1, 1, tzinfo=UTC))
    assert clock.now().year == 2020
    assert clock.monotonic() == 5.0


def test_a_steady_clock_has_gone_right_for_a_while():
    clock = VirtualClock()
    watch = SteadyWatch(clock)
    assert not watch.is_steady()
    clock.advance(timedelta(minutes=10))
    assert watch.is_steady()
    clock.jump(clock.now() + timedelta(days=400))
    assert not watch.is_steady()
    clock.advance(timedelta(minutes=9))
    assert not watch.is_steady()
    clock.jump(clock.now() - timedelta(days=400))
    clock.advance(timedelta(minutes=9))
    assert not watch.is_steady()
    clock.advance(timedelta(minutes=10))  # counted from when the jump was noticed
    assert watch.is_steady()
    clock.jump(clock.now() + timedelta(seconds=20))
    assert watch.is_steady()
