from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tests.unit.enroll.test_folder import ENROLMENT
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Denied, Refused, TrothError, Unavailable
from troth.enroll.folder import Enrolment
from troth.enroll.keeper import LONGEST_DELAY, Delay, Keeper, Patience, place_renewal

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class Over(Exception):
    """The test has seen enough."""


@dataclass
class FakeDevice:
    """Renews and enrols on paper. What is in `refusals` is raised first."""

    clock: VirtualClock
    proof: Any = "a code"
    refusals: list[TrothError] = field(default_factory=list)
    did: list[tuple[str, timedelta]] = field(default_factory=list)
    present: Enrolment | None = None

    @property
    def folder(self) -> FakeDevice:
        return self

    def load(self) -> Enrolment | None:
        return self.present

    def _do(self, what: str) -> Enrolment:
        self.did.append((what, self.clock.now() - BEGIN))
        if self.refusals:
            raise self.refusals.pop(0)
        now = self.clock.now()
        self.present = make_enrolment(now, now + DAY)
        return self.present

    def enroll(self) -> Enrolment:
        return self._do("enroll")

    def renew(self) -> Enrolment:
        return self._do("renew")

    def refresh(self) -> bool:
        self.did.append(("refresh", self.clock.now() - BEGIN))
        return False


def make_enrolment(begin: datetime, end: datetime) -> Enrolment:
    return Enrolment(
        **{
            **{name: getattr(ENROLMENT, name) for name in ENROLMENT.__slots__},
            "not_before": begin.isoformat(),
            "not_after": end.isoformat(),
            "renew_after": (begin + (end - begin) / 2).isoformat(),
        }
    )


@dataclass
class Stage:
    device: FakeDevice
    clock: VirtualClock
    keeper: Keeper
    told: list[str]
    changed: list[Enrolment]


@pytest.fixture
def stage() -> Stage:
    clock = VirtualClock(BEGIN)
    device, told, changed = FakeDevice(clock), list[str](), list[Enrolment]()

    def sleep(seconds: float) -> None:
        clock.advance(timedelta(seconds=seconds))
        if clock.now() > BEGIN + 3 * DAY:
            raise Over

    patience = Patience(clock, SeededEntropy(1), sleep, told.append)
    keeper = Keeper(device, patience, changed.append)  # type: ignore[arg-type]
    return Stage(device, clock, keeper, told, changed)


def run(stage: Stage) -> list[tuple[str, timedelta]]:
    with pytest.raises(Over):
        stage.keeper.run()
    return [(what, at) for what, at in stage.device.did if what != "refresh"]


def test_it_enrols_at_once_and_renews_at_half_life(stage: Stage) -> None:
    did = run(stage)
    assert did[0] == ("enroll", timedelta(0))
    assert {what for what, _ in did[1:]} == {"renew"}
    gaps = [later - sooner for (_, sooner), (_, later) in pairwise(did)]
    assert all(0.4 * DAY < gap < 0.6 * DAY for gap in gaps), gaps
    assert len(stage.changed) == len(did)


def test_it_looks_for_new_roots_about_every_hour(stage: Stage) -> None:
    run(stage)
    refreshes = [at for what, at in stage.device.did if what == "refresh"]
    assert 50 < len(refreshes) < 100


def test_while_the_server_is_away_it_waits_longer_and_longer_and_never_gives_up(
    stage: Stage,
) -> None:
    stage.device.refusals = [Unavailable("Nobody answers.")] * 30
    did = run(stage)
    tries = [at for what, at in did if what == "enroll"]
    waits = [(b - a).total_seconds() for a, b in pairwise(tries)]
    assert len(waits) == 30
    assert waits[0] <= 1
    assert all(LONGEST_DELAY / 2 <= wait <= LONGEST_DELAY for wait in waits[10:])
    assert stage.changed, "and in the end it is enrolled"


def test_a_refused_renewal_leads_to_another_enrolment(stage: Stage) -> None:
    stage.device.present = make_enrolment(BEGIN, BEGIN + DAY)
    stage.device.refusals = [Denied("Revoked."), Refused("The code was used.")]
    did = run(stage)
    assert [what for what, _ in did[:3]] == ["renew", "enroll", "renew"]
    assert any("Revoked." in line for line in stage.told)


def test_without_a_proof_a_refused_renewal_is_only_tried_again(stage: Stage) -> None:
    stage.device.proof = None
    stage.device.present = make_enrolment(BEGIN, BEGIN + DAY)
    stage.device.refusals = [Denied("Revoked.")] * 3
    did = run(stage)
    assert [what for what, _ in did[:4]] == ["renew"] * 4


def test_a_device_that_slept_too_long_enrols_anew(stage: Stage) -> None:
    stage.device.present = make_enrolment(BEGIN - 5 * DAY, BEGIN - 4 * DAY)
    assert run(stage)[0] == ("enroll", timedelta(0))


def test_a_fleet_spreads_its_renewals() -> None:
    enrolment = make_enrolment(BEGIN, BEGIN + DAY)
    due = [place_renewal(enrolment, SeededEntropy(seed)) for seed in range(200)]
    assert min(due) >= BEGIN + 0.4 * DAY
    assert max(due) <= BEGIN + 0.6 * DAY
    assert max(due) - min(due) > 0.15 * DAY


def test_delays_start_small_again() -> None:
    delay = Delay(SeededEntropy(1))
    for _ in range(20):
        delay.take()
    delay.reset()
    assert delay.take() <= 1


@pytest.mark.parametrize(
    ("error", "seconds", "tries"),
    [
        (lambda: Unavailable("Away."), 0, 1),
        (lambda: Unavailable("Away."), 60, 6),
        (lambda: Refused("No."), 60, 1),
    ],
)
def test_patience_ends(
    stage: Stage, error: Callable[[], TrothError], seconds: float, tries: int
) -> None:
    count = 0

    def work() -> Enrolment:
        nonlocal count
        count += 1
        raise error()

    with pytest.raises(TrothError):
        stage.keeper.patience.attempt(work, seconds)
    assert abs(count - tries) <= 1
    assert stage.clock.now() - BEGIN <= timedelta(seconds=seconds)
