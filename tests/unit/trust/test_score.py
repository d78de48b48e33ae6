"""Scores: bounded, itemised, exact for as long as they say, and never bought."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.ids import EvidenceId, IdentityId
from troth.core.tier import Tier
from troth.trust.evidence import (
    LONGEST_HALF_LIFE,
    MOST_WEIGHT,
    NEGLIGIBLE,
    SHORTEST_HALF_LIFE,
    Evidence,
)
from troth.trust.score import (
    MOST_PRAISE,
    Assurance,
    Standing,
    Strength,
    is_reachable,
    name_tier,
    score_identity,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
GOOD = Standing(Strength.ENCLOSURE, "team@example.org", "Takes payments", True, NOW)

weights = st.integers(-MOST_WEIGHT, MOST_WEIGHT)
moments = st.timedeltas(-100 * DAY, 100 * DAY).map(lambda span: NOW + span)
half_lives = st.timedeltas(SHORTEST_HALF_LIFE, LONGEST_HALF_LIFE) | st.timedeltas(
    SHORTEST_HALF_LIFE, timedelta(hours=2)
)


def make_evidence(weight: int = -40, **changes: object) -> Evidence:
    evidence = Evidence(
        EvidenceId("evd_1"),
        IdentityId("idn_1"),
        "suricata",
        "intrusion",
        weight,
        timedelta(hours=12),
        NOW,
        "it scanned the subnet",
        "uid:0",
    )
    return replace(evidence, **changes)  # type: ignore[arg-type]


evidences = st.builds(make_evidence, weights, half_life=half_lives, at=moments)
standings = st.builds(
    Standing,
    st.sampled_from(Strength),
    st.sampled_from(["", "team", "team@example.org"]),
    st.sampled_from(["", "Takes payments"]),
    st.booleans(),
    moments,
    st.booleans(),
    st.booleans(),
)


@pytest.mark.parametrize(
    ("standing", "value", "tier", "assurance"),
    [
        (GOOD, 75, Tier.HIGH, Assurance.HIGH),
        (replace(GOOD, strength=Strength.CERTIFIED), 75, Tier.HIGH, Assurance.HIGH),
        (replace(GOOD, strength=Strength.PROGRAM), 70, Tier.HIGH, Assurance.HIGH),
        (replace(GOOD, strength=Strength.ACCOUNT), 60, Tier.MEDIUM, Assurance.MEDIUM),
        (replace(GOOD, strength=Strength.KEY), 50, Tier.MEDIUM, Assurance.MEDIUM),
        (replace(GOOD, strength=Strength.BORROWED), 45, Tier.MEDIUM, Assurance.LOW),
        (replace(GOOD, strength=Strength.NOTHING), 25, Tier.LOW, Assurance.LOW),
        (replace(GOOD, managed=False), 65, Tier.MEDIUM, Assurance.HIGH),
        (replace(GOOD, managed=False, first_sight=True), 60, Tier.MEDIUM, Assurance.HIGH),
        (replace(GOOD, second_way=True), 70, Tier.HIGH, Assurance.HIGH),
        (replace(GOOD, owner="payments"), 70, Tier.HIGH, Assurance.HIGH),
        (replace(GOOD, owner=" ", purpose=""), 60, Tier.MEDIUM, Assurance.HIGH),
    ],
)
def test_the_points_of_what_is_registered(
    standing: Standing, value: int, tier: Tier, assurance: Assurance
) -> None:
    score = score_identity(standing, [], NOW)
    assert (score.value, score.tier, score.assurance) == (value, tier, assurance)
    assert score.valid_until == NOW + DAY


def test_a_client_with_nothing_but_a_secret_stays_low() -> None:
    oldest = replace(GOOD, strength=Strength.NOTHING)
    score = score_identity(oldest, [], NOW + 3650 * DAY)
    assert (score.value, score.tier) == (35, Tier.LOW)


@pytest.mark.parametrize(
    ("days", "points"), [(-3, 0), (0, 0), (2.99, 0), (3, 1), (8, 2), (29.9, 9), (30, 10), (900, 10)]
)
def test_age_counts_slowly_and_not_for_ever(days: float, points: int) -> None:
    assert score_identity(GOOD, [], NOW + days * DAY).value == 75 + points


def test_tiers_begin_where_they_are_said_to() -> None:
    assert [name_tier(value).value for value in (0, 39, 40, 69, 70, 100)] == [
        *("low", "low", "medium", "medium", "high", "high")
    ]


def test_each_point_has_its_reason() -> None:
    score = score_identity(replace(GOOD, second_way=True), [make_evidence(-40)], NOW + 4 * DAY / 8)
    assert [reason.points for reason in score.reasons] == [50, -5, 5, 5, 5, 10, -20]
    last = score.reasons[-1]
    assert last.words == "intrusion, says suricata: it scanned the subnet"
    assert last.evidence == "evd_1"
    assert (score.points, score.value, score.tier) == (50, 50, Tier.MEDIUM)


def test_evidence_halves_and_ends() -> None:
    evidence, hours = make_evidence(-40), timedelta(hours=1)
    assert [evidence.weigh(NOW + n * hours) for n in (-5, 0, 12, 24, 36)] == [
        -40,
        -40,
        -20,
        -10,
        -5,
    ]
    assert evidence.weigh(evidence.ends_at) == 0
    assert evidence.weigh(evidence.ends_at - MICROSECOND) == pytest.approx(-NEGLIGIBLE, abs=0.01)
    short = make_evidence(half_life=SHORTEST_HALF_LIFE)
    assert short.step == timedelta(seconds=1)
    assert short.weigh(NOW + timedelta(minutes=1)) == -20


def test_praise_is_bounded_and_never_makes_up_for_a_finding() -> None:
    weak = replace(GOOD, strength=Strength.NOTHING)
    praise = [make_evidence(100, id=EvidenceId(f"evd_{n}")) for n in range(9)]
    score = score_identity(weak, praise, NOW)
    assert (score.value, score.tier) == (25 + MOST_PRAISE, Tier.MEDIUM)
    assert score.reasons[-1].points == MOST_PRAISE - 900
    assert "30 points at most" in score.reasons[-1].words
    best = replace(GOOD, strength=Strength.NOTHING, created_at=NOW - 900 * DAY)
    assert score_identity(best, praise, NOW).value < 70
    both = score_identity(GOOD, [*praise, make_evidence(-80)], NOW)
    assert both.value == 75 + MOST_PRAISE - 80


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ("team@example.org", True),
        ("https://example.org/teams/payments", True),
        ("mailto:team@example.org", True),
        ("team", False),
        ("@example.org", False),
        ("team@", False),
        ("meet @ the bar", False),
        ("", False),
    ],
)
def test_who_can_be_reached(owner: str, expected: bool) -> None:
    assert is_reachable(owner) is expected


@given(standings, st.lists(evidences, max_size=6), moments)
def test_reasons_add_up_to_what_is_kept_within_its_bounds(
    standing: Standing, evidence: list[Evidence], now: datetime
) -> None:
    score = score_identity(standing, evidence, now)
    total = math.fsum(reason.points for reason in score.reasons)
    assert score.points == pytest.approx(total, abs=0.005)
    assert score.value == min(100, max(0, math.floor(score.points)))
    assert score.tier is name_tier(score.value)
    assert score == score_identity(standing, tuple(evidence), now)


@given(standings, st.lists(evidences, max_size=6), moments, st.floats(0, 1))
def test_a_score_stays_until_it_says(
    standing: Standing, evidence: list[Evidence], now: datetime, part: float
) -> None:
    score = score_identity(standing, evidence, now)
    assert now < score.valid_until <= now + DAY
    for later in (
        now + part * (score.valid_until - now - MICROSECOND),
        score.valid_until - MICROSECOND,
    ):
        assert score_identity(standing, evidence, later) == score
    following = score_identity(standing, evidence, score.valid_until)
    assert following.valid_until > score.valid_until


@given(standings, st.lists(evidences, max_size=4), evidences, weights, moments)
def test_more_weight_never_gives_less(
    standing: Standing, others: list[Evidence], one: Evidence, weight: int, now: datetime
) -> None:
    lighter, heavier = sorted((one.weight, weight))
    scores = [
        score_identity(standing, [*others, replace(one, weight=each)], now).points
        for each in (lighter, heavier)
    ]
    assert scores[0] <= scores[1]


@given(evidences, moments)
def test_evidence_only_fades_and_ends_when_it_says(evidence: Evidence, now: datetime) -> None:
    change = evidence.find_change(now)
    assert change > now
    left, later = evidence.weigh(now), evidence.weigh(change)
    assert abs(later) <= abs(left) <= abs(evidence.weight)
    assert (left == 0) == (now >= evidence.ends_at)
    assert evidence.weigh(evidence.ends_at) == 0
