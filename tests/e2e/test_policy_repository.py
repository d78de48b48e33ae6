"""A team's repository of policies, with its pipelines, against a real server: a change is checked,
tested, planned and replayed, stopped where it is wrong, and applied where it is right."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pipelines import (
    ROOT,
    GitHub,
    GitLab,
    Result,
    Runner,
    commit,
    edit,
    git,
    make_checkout,
    make_runner,
)
from tests.e2e.processes import Programs, Server, run_troth
from tests.fakes.town import identity
from troth.wire.api.manifests import SubmitManifests

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),  # a job is several commands, each a process of its own
    pytest.mark.skipif(not shutil.which("git"), reason="there is no git here"),
]

LABELLED = "contains(github.event.pull_request.labels.*.name, 'denies-on-purpose')"
OLD_PLACE = "    - 10.99.0.0/16  # the old data centre\n"
OLD_CASE = "  - name: in the old data centre too\n"
EXPORTS_INVOICES = """\
    - resource: invoice-api
      actions: [read]
      when: {request.segment: backend}
---
apiVersion: troth/v1
kind: Policy
"""
INVOICE_CASE = """\
  - name: and invoices
    identity: nightly-export
    action: read
    resource: {type: invoice, id: "4711"}
    with: {request.ip: 10.20.2.1}
    expect: permit
    by: [role/exporter/2]
"""


@pytest.fixture(scope="module")
def settings() -> str:
    return """
[roles.spiffe_ids]
"spiffe://troth.local/ci/plan" = "auditor"
"spiffe://troth.local/ci/apply" = "admin"
"""


class Team:
    """A checkout, and the machines that its pipelines run on."""

    def __init__(self, troth: Server, programs: Programs, folder: Path) -> None:
        self.troth, self.folder = troth, folder
        self.checkout = make_checkout(folder / "checkout")
        self.hosted = make_runner(folder / "hosted", Path(sys.executable))
        self.runners: dict[str, Runner] = {}
        documents = []
        for name in ("plan", "apply"):
            document = identity(f"ci-{name}", 0, selectors=[*programs.selectors(f"ci-{name}")])
            value: dict[str, Any] = document.value
            value["spec"]["path"] = f"/ci/{name}"
            documents.append(document)
            python = programs.find(f"ci-{name}")
            self.runners[name] = make_runner(folder / name, python, troth.endpoint)
        troth.call("manifest.apply", SubmitManifests(documents=documents))
        self._jobs = 0

    def run(self, job: str, labelled: bool = False) -> Result:
        """A job of the workflow on GitHub."""
        known = {"vars.TROTH_SERVER": self.troth.mutual, LABELLED: "true" if labelled else "false"}
        self._jobs += 1
        here = GitHub(self.checkout, known)
        runner = self.runners.get(job, self.hosted)
        return here.run(job, runner, self.folder / f"job{self._jobs}")

    def run_gitlab(self, job: str, runner: str = "", **variables: str) -> Result:
        """A job of the pipeline on GitLab. Its server is written down, as `SERVER`."""
        given = {"SERVER": self.troth.mutual, **variables}
        return GitLab(self.checkout).run(job, self.runners.get(runner, self.hosted), **given)

    def ask(self, who: str, action: str, what: str, ip: str) -> dict[str, Any]:
        """What the server answers now, and records."""
        done = run_troth(
            "--data", self.troth.data, "decision", "evaluate", who, action, what,
            "--context", json.dumps({"ip": ip}), "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def branch(self, name: str) -> None:
        """Begin a change at what is merged."""
        git(self.checkout, "checkout", "-q", "main")
        git(self.checkout, "checkout", "-q", "-b", name)

    def merge(self, name: str) -> None:
        git(self.checkout, "checkout", "-q", "main")
        git(self.checkout, "merge", "-q", "--ff-only", name)


@pytest.fixture(scope="module")
def team(troth: Server, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """Its first set is in force, brought there by the pipeline, and calls were made under it."""
    team = Team(troth, programs, tmp_path_factory.mktemp("team"))
    applied = team.run("apply")
    assert applied.passed, applied.log
    assert list(applied.steps)[-1] == "Apply"
    for number in range(5):
        assert team.ask("orders", "read", f"order:{number}", "10.20.1.5")["decision"]
    for number in range(3):
        assert team.ask("billing", "issue", f"invoice:{number}", "10.99.3.4")["decision"]
    for number in range(2):
        assert team.ask("nightly-export", "read", f"invoice:{number}", "10.20.2.1")["decision"]
    assert not team.ask("nightly-export", "read", "order:1", "192.0.2.7")["decision"]
    return team


@pytest.fixture
def change(team: Team, request: pytest.FixtureRequest) -> Iterator[Team]:
    """A branch of one test's own, left behind at its end."""
    team.branch(request.node.name.replace("[", "-").rstrip("]"))
    try:
        yield team
    finally:
        git(team.checkout, "checkout", "-q", "--force", "main")


def close_the_old_data_centre(team: Team) -> None:
    """No way in from there, and no invoices for the export: with the cases that say so."""
    edit(team.checkout, "manifests/resources.yaml", OLD_PLACE, "")
    edit(
        team.checkout,
        "manifests/access.yaml",
        EXPORTS_INVOICES,
        EXPORTS_INVOICES[EXPORTS_INVOICES.index("---") :],
    )
    edit(
        team.checkout,
        "tests/access.test.yaml",
        OLD_CASE,
        "  - name: not from the old data centre\n",
    )
    text = (team.checkout / "tests/access.test.yaml").read_text("utf-8")
    before, after = text.split("  - name: not from the old data centre\n")
    after = after.replace("expect: permit", "expect: deny\n    missing: [request.ip]", 1)
    whole = f"{before}  - name: not from the old data centre\n{after}"
    fresh = INVOICE_CASE.replace("and invoices", "and no invoices")
    fresh = fresh.replace("expect: permit\n    by: [role/exporter/2]", "expect: deny")
    assert INVOICE_CASE in whole
    (team.checkout / "tests/access.test.yaml").write_text(
        whole.replace(INVOICE_CASE, fresh), "utf-8"
    )


# What is wrong is stopped


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param("identity.kind: job", "identity.sort: job", "identity.sort", id="error"),
        pytest.param("create, cancel]", "create, cancle]", "no action 'cancle'", id="warning"),
    ],
)
def test_a_broken_manifest_is_stopped_by_the_check(
    change: Team, before: str, after: str, told: str
) -> None:
    edit(change.checkout, "manifests/access.yaml", before, after)
    commit(change.checkout, "A slip")
    for found, step in (
        (change.run("check"), "Check manifests"),
        (change.run_gitlab("troth-check"), "troth-check"),
    ):
        assert not found.passed
        assert found.failed[0] == step, found.log
        assert "manifests/access.yaml:" in found.log
        assert told in found.log


def test_a_change_that_breaks_a_promise_is_stopped_by_the_cases(change: Team) -> None:
    """It is well-formed, and lets jobs write invoices."""
    edit(
        change.checkout,
        "manifests/access.yaml",
        "actions: [create, cancel, issue]",
        "actions: [create, cancel]",
    )
    commit(change.checkout, "Less to forbid")
    found = change.run("check")
    assert found.failed == ["Test policies"], found.log
    assert "failed no job changes anything, whatever roles it is given" in found.log
    assert "expected deny, got permit" in found.log
    assert change.run_gitlab("troth-check").passed
    there = change.run_gitlab("troth-test")
    assert not there.passed
    assert "expected deny, got permit" in there.log


def test_a_hard_coded_credential_is_stopped(change: Team) -> None:
    key = "AKIA" + "IOSFODNN7EXAMPLE"
    edit(
        change.checkout,
        "manifests/access.yaml",
        "purpose: takes orders\n",
        f"purpose: takes orders {key}\n",
    )
    commit(change.checkout, "Just for now")
    found = change.run("check")
    assert found.failed == ["Search for hard-coded credentials"], found.log
    assert key not in found.log
    assert not change.run_gitlab("troth-secrets").passed


def test_who_plans_may_not_apply(change: Team) -> None:
    """The runner that pull requests reach has an identity that changes nothing."""
    workflow = GitHub(change.checkout, {"vars.TROTH_SERVER": change.troth.mutual})
    found = workflow.run("apply", change.runners["plan"], change.folder / "wrong-runner")
    assert found.failed == ["Apply"], found.log
    assert "manifest.apply" in found.log


# What is right comes to hold


def test_a_change_is_checked_tested_planned_replayed_and_applied(change: Team) -> None:
    close_the_old_data_centre(change)
    commit(change.checkout, "The old data centre is closed")
    checked = change.run("check")
    assert checked.passed, checked.log
    assert {"Check manifests", "Test policies"} <= checked.steps.keys()

    planned = change.run("plan")
    assert planned.failed == ["Decide recorded calls anew"], planned.log
    _, plan = planned.steps["Show what applying would change"]
    assert "access: nightly-export loses read on invoice-api" in plan
    _, replay = planned.steps["Decide recorded calls anew"]
    assert "would be denied: billing issue on invoice-api: 3 calls" in replay
    assert "would be denied: nightly-export read on invoice-api: 2 calls" in replay
    assert "5 would be denied" in replay
    assert "orders read" not in replay
    summary = (change.folder / f"job{change._jobs}" / "github_step_summary").read_text()
    assert "would be denied: billing issue" in summary
    # Nothing of that has changed anything.
    assert change.ask("billing", "issue", "invoice:9", "10.99.3.4")["decision"]

    meant = change.run("plan", labelled=True)
    assert meant.passed, meant.log
    assert "would be denied: billing issue on invoice-api: 4 calls" in meant.log

    change.merge(git(change.checkout, "branch", "--show-current").strip())
    applied = change.run("apply")
    assert applied.passed, applied.log
    answer = change.ask("billing", "issue", "invoice:9", "10.99.3.4")
    assert not answer["decision"]
    assert [one["fact"] for one in answer["context"]["missing"]] == ["request.ip"]
    assert not change.ask("nightly-export", "read", "invoice:9", "10.20.2.1")["decision"]
    assert change.ask("orders", "read", "order:9", "10.20.1.5")["decision"]


def test_and_on_gitlab(change: Team) -> None:
    edit(
        change.checkout,
        "manifests/access.yaml",
        "actions: [read, create, cancel]",
        "actions: [read, create]",
    )
    commit(change.checkout, "Nobody cancels by machine")
    assert change.ask("orders", "cancel", "order:1", "10.20.1.5")["decision"]
    for job in ("troth-check", "troth-secrets", "troth-test"):
        found = change.run_gitlab(job)
        assert found.passed, found.log
    planned = change.run_gitlab("troth-plan", "plan")
    assert planned.passed, planned.log
    assert "access: orders loses cancel on order-api" in planned.log
    replayed = change.run_gitlab("troth-replay", "plan")
    assert not replayed.passed
    assert "would be denied: orders cancel on order-api: 1 call" in replayed.log
    labels = "urgent,denies-on-purpose"
    meant = change.run_gitlab("troth-replay", "plan", CI_MERGE_REQUEST_LABELS=labels)
    assert meant.failed
    assert meant.passed

    change.merge(git(change.checkout, "branch", "--show-current").strip())
    main = {"CI_COMMIT_BRANCH": "main", "CI_DEFAULT_BRANCH": "main"}
    pipeline = GitLab(change.checkout)
    assert pipeline.wants("troth-test", **main)
    assert not pipeline.wants("troth-replay", **main)
    assert not pipeline.wants("troth-apply", CI_PIPELINE_SOURCE="merge_request_event")
    applied = change.run_gitlab("troth-apply", "apply", **main)
    assert applied.passed, applied.log
    assert not change.ask("orders", "cancel", "order:1", "10.20.1.5")["decision"]
    assert change.ask("orders", "create", "order:1", "10.20.1.5")["decision"]


# Before all that: on the desk of whoever writes it


def test_hooks_before_a_commit(change: Team, tmp_path: Path) -> None:
    if find_spec("pre_commit") is None:
        pytest.skip("the PyPI package 'pre-commit' isn't installed")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
    git(hooks, "init", "-q")
    commit(hooks, "Hooks")
    git(hooks, "tag", "v1")
    config = ".pre-commit-config.yaml"
    edit(change.checkout, config, "https://git.example.org/troth", str(hooks))
    git(change.checkout, "add", "--all")
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never"]

    def run() -> tuple[int, str]:
        home = str(tmp_path / "pre-commit")
        kept = {"PRE_COMMIT_HOME": home, "GIT_CONFIG_GLOBAL": "/dev/null"}
        return change.hosted.run(command, change.checkout, **kept)

    code, text = run()
    assert code == 0, text
    assert text.count("Passed") == 3
    rule = "manifests/access.yaml"
    edit(change.checkout, rule, "[create, cancel, issue]", "[create, cancel]")
    code, text = run()
    assert code == 1
    assert "expected deny, got permit" in text
    assert (text.count("Passed"), text.count("Failed")) == (2, 1)
