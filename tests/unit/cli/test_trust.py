"""`troth trust`: what is added, how it is shown, and what goes wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fakes.api import FakeApi
from tests.unit.cli.conftest import Run
from troth.core.errors import Refused
from troth.wire.api import trust as wire

NOW = datetime.now(UTC)
EVIDENCE = wire.EvidenceView(
    id="evd_1",
    origin="suricata",
    kind="intrusion",
    weight=-40,
    half_life=43_200,
    left=-20.5,
    at=NOW - timedelta(hours=12),
    ends_at=NOW + timedelta(days=3, minutes=1),
    reason="it scanned the subnet",
    added_by="uid:0",
)


def make_view(**changes: Any) -> wire.TrustView:
    values: dict[str, Any] = {
        "name": "payments",
        "spiffe_id": "spiffe://example.org/payments",
        "owner": "team@example.org",
        "score": 54,
        "tier": "medium",
        "assurance": "high",
        "points": 54.5,
        "reasons": [
            wire.ReasonView(points=75, words="an agent attests its unit"),
            wire.ReasonView(points=-20.5, words="intrusion, says suricata", evidence="evd_1"),
        ],
        "evidence": [EVIDENCE],
        "valid_until": NOW + timedelta(minutes=11),
    }
    return wire.TrustView(**(values | changes))


def test_evidence_is_added_and_how_to_take_it_back_is_told(api: FakeApi, run: Run) -> None:
    api.answers["trust.add"] = wire.EvidenceAdded(id="evd_1", trust=make_view())
    result = run(
        *("trust", "add", "payments", "--weight", "-40", "--half-life", "12h"),
        *("--kind", "intrusion", "--origin", "suricata", "--reason", "it scanned the subnet"),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == "payments: 54 of 100, tier medium\n"
    assert "troth trust withdraw evd_1" in result.stderr
    (request,) = api.named("trust.add")
    assert request == wire.AddEvidence(
        name="payments",
        weight=-40,
        reason="it scanned the subnet",
        half_life=43_200,
        kind="intrusion",
        origin="suricata",
    )


@pytest.mark.parametrize(
    "wrong",
    [
        ["--weight", "-101", "--reason", "x"],
        ["--weight", "-40"],
        ["--reason", "x"],
        ["--weight", "5", "--reason", "x", "--half-life", "soon"],
        ["--weight", "5", "--reason", "x", "--half-life", "5s"],
        ["--weight", "5", "--reason", "x", "--kind", "Two words"],
    ],
)
def test_what_nobody_can_mean_is_wrong_usage(wrong: list[str], api: FakeApi, run: Run) -> None:
    assert run("trust", "add", "payments", *wrong).exit_code == 2
    assert not api.named("trust.add")


def test_a_refusal_is_told(api: FakeApi, run: Run) -> None:
    api.answers["trust.add"] = Refused("It is retired.")
    result = run("trust", "add", "payments", "--weight", "5", "--reason", "x", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["code"] == "failed_precondition"


def test_scores_are_listed(api: FakeApi, run: Run) -> None:
    item = wire.TrustItem(
        name="payments",
        spiffe_id="spiffe://example.org/payments",
        owner="team@example.org",
        score=54,
        tier="medium",
        assurance="high",
        evidence=1,
    )
    api.answers["trust.ls"] = wire.TrustPage(items=[item], next="54:payments")
    result = run("trust", "ls", "--limit", "1")
    for words in ("54", "medium", "payments", "high", "team@example.org"):
        assert words in result.stdout
    assert "the 1 lowest" in result.stderr
    assert api.named("trust.ls") == [wire.ListTrust(limit=1)]
    api.answers["trust.ls"] = wire.TrustPage(items=[])
    assert "No identity" in run("trust", "ls").stderr


def test_each_point_is_shown_with_its_reason(api: FakeApi, run: Run) -> None:
    api.answers["trust.show"] = make_view()
    shown = " ".join(run("trust", "show", "payments").stdout.split())
    for words in ("54", "medium", "+75", "an agent attests its unit", "-20.5", "evd_1", "12 h"):
        assert words in shown
    document = json.loads(run("trust", "show", "payments", "--json").stdout)
    assert document["reasons"][1]["evidence"] == "evd_1"
    api.answers["trust.show"] = make_view(evidence=[])
    assert "HALF-LIFE" not in run("trust", "show", "payments").stdout


def test_evidence_is_taken_back(api: FakeApi, run: Run) -> None:
    api.answers["trust.withdraw"] = make_view(score=75, tier="high")
    result = run("trust", "withdraw", "evd_1", "--reason", "the scan was ours")
    assert result.stdout == "payments: 75 of 100, tier high\n"
    assert api.named("trust.withdraw") == [
        wire.WithdrawEvidence(id="evd_1", reason="the scan was ours")
    ]
    assert run("trust", "withdraw", "evd_1").exit_code == 2
