"""What is under deploy/ci, and the hooks of pre-commit: well-formed, and the program knows it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from tests.fakes.deployment import DEPLOY, ROOT, read
from troth.cli.main import app

ACTION = DEPLOY / "ci" / "github" / "action.yml"
PIPELINE = DEPLOY / "ci" / "gitlab" / "troth.yml"
HOOKS = ROOT / ".pre-commit-hooks.yaml"
GUIDE = ROOT / "docs" / "how-to" / "policy-in-ci.md"
BIN = Path(sys.executable).parent
MANIFEST = """\
apiVersion: troth/v1
kind: Identity
metadata: {name: a}
spec:
  kind: service
  owner: team-pay
  purpose: takes payments
  expires: 90d
  selectors: ["unix:uid:1001"]
"""
SECRET = "AKIA" + "IOSFODNN7EXAMPLE"


def load_steps() -> dict[str, dict[str, Any]]:
    """The action's steps by name; steps without one by what they use."""
    steps = yaml.safe_load(read(ACTION))["runs"]["steps"]
    return {step.get("name", step.get("uses")): step for step in steps}


def load_jobs(**given: str) -> dict[str, Any]:
    """The pipeline with its inputs put in, as GitLab does before it reads the second document."""
    head, _, body = read(PIPELINE).partition("\n---\n")
    inputs = yaml.safe_load(head)["spec"]["inputs"]
    values = {name: given.get(name, one.get("default")) for name, one in inputs.items()}
    used = set(re.findall(r"\$\[\[ inputs\.(\w+) \]\]", body))
    assert used == set(inputs)
    return dict(
        yaml.safe_load(re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda m: str(values[m[1]]), body))
    )


def list_commands() -> list[str]:
    """Every `troth …` of both, from the name to the end of the line."""
    scripts = [step["run"] for step in load_steps().values() if "run" in step]
    jobs = load_jobs(install="troth.whl")
    scripts += [line for job in jobs.values() for line in job.get("script", [])]
    return [line for text in scripts for line in re.findall(r"(?<![\w/.-])troth [\w\"-].*", text)]


def find_words(line: str) -> list[str]:
    """The command's name and options, without paths, variables and what the shell takes."""
    words = re.split(r"\s(?:>|\|\||\||;)|;", line)[0].split()[1:]
    if words[0].startswith(('"', "--url")):
        words = words[1:] if words[0].startswith('"') else words[8:]  # where the server is
    return [word for word in words if not word.startswith(('"', "/", "$"))]


def test_the_commands_are_there():
    known = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    found = set()
    for line in list_commands():
        name, *rest = find_words(line)
        found.add(name)
        if name == "policy" and name not in known:
            continue  # see test_policy_commands_are_there
        command = known[name].load()
        if hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--") and word != "--"} <= options, line
    assert found == {"check", "plan", "policy", "svid"}


def test_policy_commands_are_there():
    known = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    inner = known["policy"].load().commands
    assert {"test", "replay"} <= set(inner)
    assert "--days" in {option for parameter in inner["replay"].params for option in parameter.opts}


# GitHub


def test_action_is_one_by_githubs_schema(tmp_path):
    check_schema("vendor.github-actions", ACTION)
    broken = tmp_path / "action.yml"
    broken.write_text(read(ACTION).replace("using: composite", "using: nothing"))
    with pytest.raises(AssertionError, match="using"):
        check_schema("vendor.github-actions", broken)


def test_no_input_of_the_action_becomes_shell():
    for name, step in load_steps().items():
        assert "${{" not in step.get("run", ""), name
        if "run" in step:
            assert step["shell"] == "bash"
            bash = ["bash", "-n", "-c", step["run"]]
            assert subprocess.run(bash, capture_output=True, timeout=20).returncode == 0, name
    used = set(re.findall(r"inputs\.([\w-]+)", read(ACTION)))
    assert used == set(yaml.safe_load(read(ACTION))["inputs"])


def run_step(name: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A step as GitHub runs one: `bash --noprofile --norc -eo pipefail` in the checkout."""
    step = load_steps()[name]
    assert set(variables) == set(step["env"])
    (folder / "runner").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        **variables,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RUNNER_TEMP": str(folder / "runner"),
        "GITHUB_OUTPUT": str(folder / "runner" / "output"),
        "CI": "true",
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(
        command,
        cwd=folder / "checkout",
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in {
        "identities/a.yaml": MANIFEST,
        "more manifests/b.yaml": MANIFEST.replace("name: a", "name: b").replace("1001", "1002"),
        "src/a.py": "a = 1\n",
    }.items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "checkout"


def test_step_that_checks_manifests(checkout: Path, tmp_path: Path):
    paths = "identities\n\nmore manifests\n"
    done = run_step("Check manifests", tmp_path, MANIFESTS=paths, STRICT="false")
    assert done.returncode == 0, done.stderr
    assert "2 documents, 0 errors" in done.stderr
    report = tmp_path / "runner" / "troth-manifests.sarif"
    assert f"report={report}" in (tmp_path / "runner" / "output").read_text()
    wrong = checkout / "identities" / "a.yaml"
    wrong.write_text(read_new(wrong).replace("kind: service", "kind: servant"))
    done = run_step("Check manifests", tmp_path, MANIFESTS=paths, STRICT="true")
    assert done.returncode == 1
    assert "identities/a.yaml:5:3: error" in done.stderr
    [result] = json.loads(read_new(report))["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place["uri"] == "identities/a.yaml"


def test_step_without_a_report_uploads_none(checkout: Path, tmp_path: Path):
    done = run_step("Check manifests", tmp_path, MANIFESTS="missing", STRICT="false")
    assert done.returncode == 1
    assert not (tmp_path / "runner" / "output").exists()


def test_step_that_searches_for_credentials(checkout: Path, tmp_path: Path):
    step = "Search for hard-coded credentials"
    done = run_step(step, tmp_path, SECRETS=".", BASELINE="", STRICT="false")
    assert done.returncode == 0, done.stderr
    (checkout / "src" / "a.py").write_text(f'a = "{SECRET}"\n')
    done = run_step(step, tmp_path, SECRETS="src\nidentities", BASELINE="", STRICT="false")
    assert done.returncode == 1
    assert "src/a.py:1:6: error: Hard-coded: a key of AWS." in done.stderr
    report = tmp_path / "runner" / "troth-secrets.sarif"
    assert [r["ruleId"] for r in json.loads(read_new(report))["runs"][0]["results"]] == [
        "secret/aws-key"
    ]
    detect = [str(BIN / "python"), "-m", "detect_secrets", "scan", "--all-files", "--no-verify"]
    scanned = subprocess.run(detect, cwd=checkout, capture_output=True, check=True, timeout=50)
    (checkout / "known.json").write_bytes(scanned.stdout)
    done = run_step(step, tmp_path, SECRETS=".", BASELINE="known.json", STRICT="true")
    assert done.returncode == 0, done.stderr


def read_new(path: Path) -> str:
    return path.read_text(encoding="utf-8")  # not cached, unlike `read`


# GitLab


def test_pipeline_is_one_by_gitlabs_schema(tmp_path):
    jobs = load_jobs(install="troth.whl", tests="tests", server="https://troth.example:8444")
    whole = tmp_path / ".gitlab-ci.yml"
    whole.write_text(yaml.safe_dump(jobs))
    check_schema("vendor.gitlab-ci", whole)
    head = tmp_path / "head.yml"
    head.write_text(read(PIPELINE).partition("\n---\n")[0])
    check_schema("vendor.gitlab-ci", head)


@pytest.mark.parametrize(
    ("job", "report"), [("troth-check", "critical"), ("troth-secrets", "critical")]
)
def test_jobs_of_the_pipeline(job, report, checkout: Path):
    jobs = load_jobs(install="troth.whl")
    (script,) = jobs[job]["script"]
    file = checkout / jobs[job]["artifacts"]["reports"]["codequality"]
    environment = {**os.environ, **jobs[".troth"]["variables"], "CI": "true"}
    environment["PATH"] = f"{BIN}:{os.environ['PATH']}"

    def run() -> int:
        command = ["bash", "-eo", "pipefail", "-c", script]
        return subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, timeout=50
        ).returncode

    assert run() == 0
    assert json.loads(read_new(file)) == []
    wrong = checkout / "identities" / "a.yaml"
    wrong.write_text(f"{read_new(wrong)}  nonsense: {SECRET}\n")
    assert run() == 1
    violations = json.loads(read_new(file))
    assert violations[0]["severity"] == report
    assert violations[0]["location"] == {"path": "identities/a.yaml", "lines": {"begin": 10}}


def check_schema(name: str, path: Path) -> None:
    if find_spec("check_jsonschema") is None:
        pytest.skip("the PyPI package 'check-jsonschema' isn't installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr


# The guide


def find_examples() -> list[Any]:
    """The configurations that the guide shows."""
    blocks = re.findall(r"^```yml\n(.*?)^```$", read(GUIDE), re.DOTALL | re.MULTILINE)
    return [yaml.safe_load(block) for block in blocks]


def test_examples_of_the_guide_fit_the_templates(tmp_path):
    workflow, pipeline, hooks = find_examples()
    given = workflow["jobs"]["check"]["steps"][-1]["with"]
    inputs = yaml.safe_load(read(ACTION))["inputs"]
    assert set(given) <= set(inputs)
    assert {name for name, one in inputs.items() if one.get("required")} <= set(given)
    head = yaml.safe_load(read(PIPELINE).partition("\n---\n")[0])["spec"]["inputs"]
    assert set(pipeline["include"][0]["inputs"]) <= set(head)
    known = {hook["id"] for hook in yaml.safe_load(read(HOOKS))}
    assert {hook["id"] for hook in hooks["repos"][0]["hooks"]} == known
    written = tmp_path / "workflow.yml"
    # YAML 1.1, which PyYAML reads, takes `on` for a boolean.
    written.write_text(
        yaml.safe_dump({"on" if key is True else key: v for key, v in workflow.items()})
    )
    check_schema("vendor.github-workflows", written)


def test_pipelines_of_the_example_fit_the_templates():
    """What they do is shown by tests/e2e/test_policy_repository.py."""
    folder = ROOT / "examples" / "policy-repository"
    workflow = folder / ".github" / "workflows" / "policy.yml"
    check_schema("vendor.github-workflows", workflow)
    inputs = set(yaml.safe_load(read(ACTION))["inputs"])
    steps = [s for job in yaml.safe_load(read(workflow))["jobs"].values() for s in job["steps"]]
    given = [set(step["with"]) for step in steps if step.get("uses", "").startswith("./")]
    assert len(given) == 3
    assert all(names <= inputs for names in given)
    assert not [step for step in steps if "${{" in step.get("run", "")]
    check_schema("vendor.gitlab-ci", folder / ".gitlab-ci.yml")
    known = {hook["id"] for hook in yaml.safe_load(read(HOOKS))}
    config = yaml.safe_load(read(folder / ".pre-commit-config.yaml"))
    assert {hook["id"] for hook in config["repos"][0]["hooks"]} == known


# pre-commit


def test_hooks_by_pre_commit_itself(checkout: Path, tmp_path: Path):
    if find_spec("pre_commit") is None:
        pytest.skip("the PyPI package 'pre-commit' isn't installed")
    if not shutil.which("git"):
        pytest.skip("there is no git here")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    shutil.copy(HOOKS, hooks)
    make_repository(hooks)
    call(["git", "tag", "v1"], hooks)
    repository = {
        "repo": str(hooks),
        "rev": "v1",
        "hooks": [{"id": "troth-check"}, {"id": "troth-secrets"}],
    }
    config = checkout / ".pre-commit-config.yaml"
    config.write_text(yaml.safe_dump({"repos": [repository]}))
    make_repository(checkout)
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never"]
    done = call(command, checkout, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^(?:check troth|search for).*Passed$", done.stdout, re.M)) == 2
    wrong = checkout / "identities" / "a.yaml"
    wrong.write_text(f"{read_new(wrong)}  nonsense: {SECRET}\n")
    call(["git", "add", "."], checkout)
    done = call([word for word in command if word != "--all-files"], checkout, home=tmp_path)
    assert done.returncode == 1
    assert "identities/a.yaml:10:3: error: spec.nonsense: unknown field" in done.stdout
    assert "Hard-coded: a key of AWS" in done.stdout
    assert len(re.findall(r"Failed$", done.stdout, re.M)) == 2


def make_repository(folder: Path) -> None:
    call(["git", "init", "-q"], folder)
    call(["git", "add", "."], folder)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = call(["git", *who, "commit", "-q", "-m", "a"], folder)
    assert done.returncode == 0, done.stderr


def call(
    command: list[str], folder: Path, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    environment = {**kept, "PATH": f"{BIN}:{os.environ['PATH']}", "GIT_CONFIG_GLOBAL": os.devnull}
    if home is not None:
        environment["PRE_COMMIT_HOME"] = str(home / "pre-commit")
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=50
    )
