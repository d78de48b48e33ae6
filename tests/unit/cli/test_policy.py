"""`troth policy`: cases put to rules offline; versions, held changes, replays and suggestions."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.fakes.api import FakeApi
from tests.unit.cli.conftest import Run
from troth.wire.api import policies as wire
from troth.wire.api.manifests import AccessChange, ManifestChange, ManifestPlan

NOW = datetime.now(UTC)
GUIDE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "policy-as-code.md"
MANIFEST = """\
apiVersion: troth/v1
kind: Role
metadata: {name: reader}
spec:
  owner: team@example.org
  purpose: Reads
  permissions: [{resource: ledger, actions: [read]}]
"""


def write(folder: Path, cases: str, manifests: str = "") -> Path:
    """The guide's manifests, or these, and cases."""
    text = GUIDE.read_text(encoding="utf-8")
    found = manifests or re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]  # type: ignore[index]
    folder.mkdir(exist_ok=True)
    (folder / "tills.yaml").write_text(found, encoding="utf-8")
    (folder / "tills.test.yaml").write_text(cases, encoding="utf-8")
    return folder


def list_guide_cases() -> str:
    found = re.search(r"```text\n(cases:.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


def one_case(**members: Any) -> str:
    case = {"identity": "till-17", "action": "charge", "resource": "gateway", "expect": "permit"}
    values = {name: value for name, value in {**case, **members}.items() if value is not None}
    return json.dumps({"cases": [values]})


def test_the_guides_cases_pass(tmp_path: Path, run: Run) -> None:
    folder = write(tmp_path / "p", list_guide_cases())
    result = run("policy", "test", str(folder), "--coverage")
    assert result.exit_code == 0, result.output
    assert "3 cases, 0 failed; 1 of 2 rules exercised." in result.stderr
    assert result.stdout == "not exercised: role/till/2\n"
    checked = run("check", str(folder))
    assert checked.exit_code == 0, "files of cases are passed over"


def test_a_failure_says_where_what_and_why(tmp_path: Path, run: Run) -> None:
    refund = one_case(action="refund", **{"with": {"trust.score": 40}})
    folder = write(tmp_path / "p", refund)
    result = run("policy", "test", str(folder))
    assert result.exit_code == 1
    assert f"{folder}/tills.test.yaml:1 failed till-17 refund gateway" in result.stdout
    assert "expected permit, got deny" in result.stdout
    assert "It would be permitted with trust.score ≥ 60." in result.stdout
    told = json.loads(run("policy", "test", str(folder), "--json").stdout)
    assert (told["ok"], told["rules"], told["cases"][0]["answer"]) == (False, 2, "deny")
    suite = ElementTree.fromstring(run("policy", "test", str(folder), "--format", "junit").stdout)
    found = suite.find("testsuite")
    assert found is not None
    assert (found.get("tests"), found.get("failures")) == ("1", "1")
    failure = found.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "expected permit, got deny"


@pytest.mark.parametrize(
    ("members", "passes"),
    [
        ({"with": {"request.segment": "shops"}}, True),
        ({"with": {"request.ip": "10.8.255.255"}, "by": ["role/till/1"]}, True),
        ({"with": {"request.ip": "::ffff:10.8.0.1"}}, True),
        ({"with": {"request.ip": "10.9.0.0"}}, False),
        ({}, False),
        ({"expect": "deny", "missing": "request.ip"}, True),
        ({"expect": "deny", "missing": ["trust.score"]}, False),
        ({"with": {"request.segment": "shops"}, "by": "policy/other"}, False),
        ({"identity": "nobody", "expect": "deny"}, True),
        ({"identity": "nobody", "with": {"request.segment": "shops"}}, False),
        ({"resource": "elsewhere", "expect": "deny"}, True),
        ({"action": "melt", "expect": "deny"}, True),
        ({"action": "refund", "with": {"trust.score": 60}}, True),
        (
            {
                "identity": None,
                "subject": {"type": "identity", "id": "new", "roles": ["till"]},
                "with": {"request.segment": "shops"},
            },
            True,
        ),
        (
            {
                "identity": None,
                "subject": {"type": "user", "id": "rick", "roles": ["till"]},
                "with": {"request.segment": "shops"},
            },
            True,
        ),
        ({"with": {"grant.roles": ["till"], "request.segment": "shops"}}, True),
    ],
)
def test_cases_are_answered_as_the_engine_does(
    members: dict[str, Any], passes: bool, tmp_path: Path, run: Run
) -> None:
    result = run("policy", "test", str(write(tmp_path / "p", one_case(**members))))
    assert result.exit_code == (0 if passes else 1), result.output
    assert "1 case" in result.stderr


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        ("cases: []", "with at least one"),
        ("cases: [1]", "must be a mapping"),
        ("cases: [{identity: a}]", "'expect' is missing"),
        ("cases: [{}]\nmore: 1", "'more' is unknown"),
        (one_case(expects="x"), "did you mean 'expect'"),
        (one_case(expect="maybe"), "permit or deny"),
        (one_case(expect=["permit"]), "permit or deny"),
        (one_case(subject={"type": "a", "id": "b"}), "either 'identity' or 'subject'"),
        (one_case(**{"with": {"trust.scores": 1}}), "the fact 'trust.scores' is unknown"),
        (one_case(**{"with": {"trust.score": "high"}}), "trust.score is number"),
        (one_case(**{"with": {"trust.tier": "best"}}), "one of low, medium, high"),
        (one_case(**{"with": {"request.ip": "nowhere"}}), "is an address"),
        (one_case(**{"with": {"request.segment": "shop"}}), "did you mean 'shops'"),
        (one_case(**{"with": {"request.time": "noon"}}), "is not a moment"),
        (one_case(**{"with": {"request.time": "0001-01-01T00:00:00+23:59"}}), "is not a moment"),
        (one_case(**{"with": {"identity.owner": "me"}}), "'with' can't say identity.owner"),
        (one_case(resource={"type": "gateway"}), "needs its 'name', or 'type' and 'id'"),
    ],
)
def test_mistakes_in_cases_are_told_at_their_place(
    cases: str, told: str, tmp_path: Path, run: Run
) -> None:
    folder = write(tmp_path / "p", cases)
    result = run("policy", "test", str(folder))
    assert result.exit_code == 1
    assert told in result.stderr
    assert "tills.test.yaml:" in result.stderr
    assert "nothing was tested" in result.stderr


def test_hours_are_those_of_the_case(tmp_path: Path, run: Run) -> None:
    manifests = MANIFEST.replace(
        "actions: [read]", "actions: [read], when: {request.time: {from: '08:00', to: '18:00'}}"
    ) + (
        "---\napiVersion: troth/v1\nkind: Resource\nmetadata: {name: ledger}\n"
        "spec: {owner: a@example.org, purpose: Books, actions: {read: See it}, servers: []}\n"
    )
    subject = {"type": "identity", "id": "x", "roles": ["reader"]}
    for hour, expected in ((9, "permit"), (22, "deny")):
        case = one_case(
            identity=None,
            subject=subject,
            action="read",
            resource="ledger",
            expect=expected,
            **{"with": {"request.time": f"2026-11-23T{hour:02}:00:00Z"}},
        )
        result = run("policy", "test", str(write(tmp_path / "p", case, manifests)))
        assert result.exit_code == 0, result.output


def test_without_cases_nothing_is_tested(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "role.yaml"
    path.write_text(MANIFEST, encoding="utf-8")
    result = run("policy", "test", str(path))
    assert result.exit_code == 1
    assert "There is no case" in result.stderr
    both = run("policy", "test", str(path), "--json", "--format", "junit")
    assert both.exit_code == 2


GAIN = AccessChange(
    turn="gains",
    subject_type="identity",
    subject="orders",
    resource="ledger",
    actions=["read"],
    before="never",
    after="always",
    words="orders gains read on ledger",
)
PLAN = ManifestPlan(
    changes=[ManifestChange(action="add", kind="Role", name="reader", words=["new"])],
    access=[GAIN],
    access_more=3,
    access_complete=False,
)


def test_plans_tell_access_and_what_is_held_isnt_done(
    tmp_path: Path, api: FakeApi, run: Run
) -> None:
    api.answers["manifest.plan"] = PLAN
    path = tmp_path / "role.yaml"
    path.write_text(MANIFEST, encoding="utf-8")
    planned = run("plan", str(path))
    assert "access: orders gains read on ledger\naccess: 3 more changes\n" in planned.stdout
    assert "there is too much to look at" in planned.stdout
    held = ManifestPlan(changes=PLAN.changes, held=4, reasons=["Role reader is about vault."])
    api.answers["manifest.apply"] = held
    applied = run("apply", str(path))
    assert applied.exit_code == 1
    assert "held as change 4" in applied.stderr
    assert "troth policy approve 4" in applied.stderr
    assert "Role reader is about vault." in applied.stderr


def make_version(number: int, fault: str = "") -> wire.VersionView:
    return wire.VersionView(
        number=number,
        digest="ab" * 32,
        previous="cd" * 32,
        epoch=7,
        author="uid:0",
        approver="uid:1",
        request_id="req_1",
        created_at=NOW,
        key_id="key",
        fault=fault,
    )


def test_history_and_show_fail_where_the_chain_is_broken(api: FakeApi, run: Run) -> None:
    api.answers["policy.history"] = wire.VersionPage(items=[make_version(2), make_version(1)])
    result = run("policy", "history", "--limit", "2")
    assert result.exit_code == 0, result.output
    assert re.search(r"^2 .*uid:0 +uid:1 +abababab\w+ +ok$", result.stdout, re.MULTILINE)
    broken = make_version(1, "Its signature is wrong.")
    api.answers["policy.history"] = wire.VersionPage(items=[broken])
    assert run("policy", "history").exit_code == 1
    api.answers["policy.show"] = wire.VersionContent(version=broken, declared=PLAN.changes)
    shown = run("policy", "show", "1")
    assert shown.exit_code == 1
    assert "Its signature is wrong." in shown.stdout
    assert "Role reader\n    new" in shown.stdout
    assert api.named("policy.show") == [wire.NameVersion(number="1")]


def test_diff_and_rollback_show_access(api: FakeApi, run: Run) -> None:
    api.answers["policy.diff"] = wire.Difference(changes=PLAN.changes, access=[GAIN])
    result = run("policy", "diff", "1")
    assert "access: orders gains read on ledger" in result.stdout
    assert api.named("policy.diff") == [wire.CompareVersions(before=1)]
    api.answers["policy.rollback"] = ManifestPlan(changes=PLAN.changes, applied=True)
    done = run("policy", "rollback", "1")
    assert done.exit_code == 0, done.output
    assert "1 added" in done.stderr
    assert api.named("policy.rollback") == [wire.RollBack(number="1")]


def make_held(**changes: Any) -> wire.HeldChange:
    values: dict[str, Any] = {
        "number": 3,
        "author": "uid:0",
        "request_id": "req_1",
        "created_at": NOW,
        "expires_at": NOW + timedelta(days=7),
        "reasons": ["Resource vault is critical."],
        "words": ["+ Resource vault: new"],
        "state": "pending",
    }
    return wire.HeldChange(**(values | changes))


def test_held_changes_are_listed_reviewed_and_decided(api: FakeApi, run: Run) -> None:
    api.answers["policy.pending"] = wire.HeldPage(items=[make_held()])
    assert "Resource vault is critical." in run("policy", "pending").stdout
    api.answers["policy.review"] = wire.HeldPlan(change=make_held(), plan=PLAN)
    review = run("policy", "review", "3")
    assert review.exit_code == 0, review.output
    assert "access: orders gains read on ledger" in review.stdout
    api.answers["policy.review"] = wire.HeldPlan(change=make_held(), outdated="It has changed.")
    outdated = run("policy", "review", "3")
    assert (outdated.exit_code, "It has changed." in outdated.stderr) == (1, True)
    assert "+ Resource vault: new" in outdated.stdout
    api.answers["policy.approve"] = ManifestPlan(changes=PLAN.changes, applied=True)
    assert run("policy", "approve", "3").exit_code == 0
    assert run("policy", "reject", "3").exit_code == 2
    api.answers["policy.reject"] = make_held(state="rejected")
    rejected = run("policy", "reject", "3", "--reason", "no")
    assert rejected.stdout == "change 3: rejected\n"
    assert api.named("policy.reject") == [wire.RejectHeld(number="3", reason="no")]


def make_replay(**changes: Any) -> wire.ReplayResult:
    values: dict[str, Any] = {
        "looked_at": 20,
        "same": 20,
        "denied": 0,
        "permitted": 0,
        "unknown": 0,
        "skipped": 0,
        "since": NOW - timedelta(days=7),
        "until": NOW,
        "groups": [],
    }
    return wire.ReplayResult(**(values | changes))


DENIED = wire.ReplayedGroup(
    outcome="denied",
    subject_type="identity",
    subject="orders",
    action="write",
    resource="ledger",
    count=14,
    first=NOW,
    last=NOW,
    words="No rule permits it.",
    examples=["dec_1"],
)


def test_replay_tells_whose_calls_would_be_denied(tmp_path: Path, api: FakeApi, run: Run) -> None:
    path = tmp_path / "role.yaml"
    path.write_text(MANIFEST, encoding="utf-8")
    api.answers["policy.replay"] = make_replay()
    assert run("policy", "replay", str(path)).exit_code == 0
    api.answers["policy.replay"] = make_replay(same=6, denied=14, groups=[DENIED], complete=False)
    result = run("policy", "replay", str(path), "--days", "30", "--subject", "orders")
    assert result.exit_code == 1
    assert "would be denied: orders write on ledger: 14 calls" in result.stdout
    assert "No rule permits it." in result.stdout
    assert "20 calls" in result.stderr
    assert "14 would be denied" in result.stderr
    assert "ask for fewer days" in result.stderr
    request = api.named("policy.replay")[-1]
    assert (request.days, request.subject, len(request.documents)) == (30, "orders", 1)


def test_a_suggestion_is_a_manifest_with_its_proof(api: FakeApi, run: Run) -> None:
    role = {"apiVersion": "troth/v1", "kind": "Role", "metadata": {"name": "orders-least"}}
    suggestion = wire.Suggestion(
        identity="orders",
        roles=["clerk"],
        manifest=role,
        unused=["drop on archive (role base)"],
        notes=["look at this"],
        proof=make_replay(),
    )
    api.answers["policy.suggest"] = suggestion
    result = run("policy", "suggest", "orders", "--days", "30")
    assert result.exit_code == 0, result.output
    assert "# not used: drop on archive (role base)\napiVersion: troth/v1\n" in result.stdout
    assert "Nothing that it used breaks: 20 calls of 30 days" in result.stderr
    assert "look at this" in result.stderr
    broken = make_replay(same=6, denied=14, groups=[DENIED])
    api.answers["policy.suggest"] = wire.Suggestion(
        identity="orders", roles=[], manifest=None, unused=[], notes=[], proof=broken
    )
    failed = run("policy", "suggest", "orders")
    assert failed.exit_code == 1
    assert "Nothing that it used breaks" not in failed.stderr
    assert "would be denied: orders write on ledger" in failed.stderr
