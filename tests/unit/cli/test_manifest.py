"""check, plan and apply: files in, problems with their place, and what reaches the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.fakes.api import FakeApi
from tests.unit.cli.conftest import Run
from troth.cli import manifest as module
from troth.cli.manifest import find_files
from troth.core.errors import Invalid, Refused
from troth.wire.api.manifests import ManifestChange, ManifestPlan

GOOD = """\
apiVersion: troth/v1
kind: Identity
metadata:
  name: {name}
spec:
  kind: service
  owner: team-pay
  purpose: takes payments
  expires: 90d
  selectors: [{selector}]
"""
PLAN = ManifestPlan(
    changes=[
        ManifestChange(action="add", kind="Identity", name="a", words=["obtains unix:uid:1001"]),
        ManifestChange(action="remove", kind="Identity", name="old", words=["is retired"]),
        ManifestChange(action="keep", kind="Identity", name="same", words=[]),
    ],
    warnings=["a: something odd"],
)


def write(path: Path, *names: str, selector: str = "'unix:uid:1001'") -> Path:
    texts = [GOOD.format(name=name, selector=selector) for name in names]
    path.write_text("---\n".join(texts))
    return path


def test_check_needs_no_server(tmp_path: Path, run: Run) -> None:
    result = run("check", str(write(tmp_path / "a.yaml", "a")))
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "1 document, 0 errors, 0 warnings" in result.stderr


def test_check_reports_every_problem_at_its_place(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "a.yaml", "a")
    path.write_text(path.read_text().replace("service", "servant").replace("owner", "onwer"))
    broken = tmp_path / "b.yml"
    broken.write_text("a: [1\n")
    result = run("check", str(path), str(broken))
    assert result.exit_code == 1
    assert f"{path}:6:3: error: spec.kind" in result.stdout
    assert f"{path}:7:3: error: spec.onwer: unknown field; did you mean 'owner'?" in result.stdout
    assert f"{broken}:2:1: error:" in result.stdout
    assert "mend them" in result.stderr


def test_check_as_json(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "a.yaml", "a")
    path.write_text(path.read_text().replace("service", "servant"))
    result = run("check", str(path), "--json")
    assert result.exit_code == 1
    value = json.loads(result.stdout)
    assert value["ok"] is False
    [problem] = value["problems"]
    assert (problem["line"], problem["column"], problem["severity"]) == (6, 3, "error")
    assert problem["source"] == str(path)


def test_warnings_fail_only_the_strict(tmp_path: Path, run: Run) -> None:
    weak = write(tmp_path / "a.yaml", "a", selector=f"'unix:sha256:{'0' * 64}'")
    result = run("check", str(weak))
    assert result.exit_code == 0
    assert "warning: spec.selectors: rests on the executable alone" in result.stdout
    assert run("check", str(weak), "--strict").exit_code == 1


def test_check_reads_directories_and_standard_input(tmp_path: Path, run: Run) -> None:
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner" / "b.yml", "b")
    write(tmp_path / "a.yaml", "a")
    (tmp_path / "notes.txt").write_text("not: [yaml")
    assert "2 documents" in run("check", str(tmp_path)).stderr
    result = run("check", "-", input=GOOD.format(name="c", selector="'unix:uid:1'"))
    assert result.exit_code == 0
    assert "1 document" in result.stderr
    bad = run("check", "-", input="a: &x 1\n")
    assert bad.exit_code == 1
    assert "stdin:1:4: error:" in bad.stdout


@pytest.mark.parametrize("name", ["missing.yaml", "empty"])
def test_a_path_without_manifests_says_so(name: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    result = run("check", str(tmp_path / name))
    assert result.exit_code == 1
    assert "name an" in result.stderr


def test_a_file_without_documents_says_so(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.yaml").write_text("# nothing yet\n")
    result = run("check", str(tmp_path / "a.yaml"))
    assert result.exit_code == 1
    assert "There is no manifest" in result.stderr


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "a")
    assert find_files([str(path), str(tmp_path)]) == [path]


@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_nothing_is_sent_while_there_are_errors(
    verb: str, tmp_path: Path, api: FakeApi, run: Run
) -> None:
    path = write(tmp_path / "a.yaml", "a", "a")
    result = run(verb, str(path))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"{path}:15:3: error: metadata.name" in result.stderr
    assert "nothing was sent" in result.stderr
    assert api.requests == []


def test_plan_shows_the_change_in_words(tmp_path: Path, api: FakeApi, run: Run) -> None:
    api.answers["manifest.plan"] = PLAN
    path = write(tmp_path / "a.yaml", "a")
    result = run("plan", str(path), "--prune")
    assert result.exit_code == 0, result.output
    assert "+ Identity a\n    obtains unix:uid:1001" in result.stdout
    assert "- Identity old" in result.stdout
    assert "same" not in result.stdout
    assert "warning: a: something odd" in result.stdout
    assert "1 to add, 0 to change, 1 to retire, 1 as they should be" in result.stderr
    [request] = api.named("manifest.plan")
    assert request.prune
    assert request.documents[0].source == str(path)
    assert request.documents[0].value["metadata"]["name"] == "a"
    assert json.loads(run("plan", str(path), "--json").stdout)["changes"][0]["action"] == "add"


def test_apply_in_a_script_asks_nobody(tmp_path: Path, api: FakeApi, run: Run) -> None:
    _answer_apply(api)
    result = run("apply", str(write(tmp_path / "a.yaml", "a")))
    assert result.exit_code == 0, result.output
    assert "1 added, 0 changed, 1 retired" in result.stderr
    assert [name for name, _ in api.requests] == ["manifest.apply"]


@pytest.mark.parametrize(("answer", "applied"), [("y\n", True), ("n\n", False), ("", False)])
def test_apply_at_a_terminal_shows_the_plan_and_asks(
    answer: str,
    applied: bool,
    tmp_path: Path,
    api: FakeApi,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _answer_apply(api)
    monkeypatch.setattr(module, "is_interactive", lambda: True)
    result = run("apply", str(write(tmp_path / "a.yaml", "a")), input=answer)
    assert result.exit_code == (0 if applied else 1)
    assert "+ Identity a" in result.stdout
    assert bool(api.named("manifest.apply")) is applied


def test_apply_with_yes_does_not_ask(
    tmp_path: Path, api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answer_apply(api)
    monkeypatch.setattr(module, "is_interactive", lambda: True)
    monkeypatch.setattr(typer, "confirm", _refuse_to_ask)
    assert run("apply", str(write(tmp_path / "a.yaml", "a")), "--yes").exit_code == 0


def test_applying_what_is_there_already_changes_nothing(
    tmp_path: Path, api: FakeApi, run: Run
) -> None:
    same = ManifestPlan(changes=[PLAN.changes[2]])
    api.answers = {"manifest.plan": same, "manifest.apply": same}
    result = run("apply", str(write(tmp_path / "a.yaml", "a")))
    assert result.exit_code == 0
    assert "Nothing to change: 1 as they should be." in result.stderr


def test_a_refusal_says_why(tmp_path: Path, api: FakeApi, run: Run) -> None:
    api.answers["manifest.apply"] = Refused("Nothing was changed. 'a' is retired.")
    result = run("apply", str(write(tmp_path / "a.yaml", "a")))
    assert result.exit_code == 1
    assert "'a' is retired" in result.stderr


def test_find_files_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no such file"):
        find_files([str(tmp_path / "gone")])


def _answer_apply(api: FakeApi) -> None:
    done = ManifestPlan(changes=PLAN.changes, applied=True)
    api.answers = {"manifest.plan": PLAN, "manifest.apply": done}


def _refuse_to_ask(*_: Any, **__: Any) -> bool:
    raise AssertionError("it asked")
