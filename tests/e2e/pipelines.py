"""The pipelines of `examples/policy-repository`, run as their hosts would run them: the shell of
their steps in a checkout, with the variables that they name.

What isn't shell is left out, such as the upload of a report. So is the installation: the command of
this checkout is on the path already.
"""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.processes import make_environ

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = ROOT / "examples" / "policy-repository"
INSTALL = "Install troth"
SECONDS = 60
_COMMAND = "import sys\nfrom troth.cli.main import main\n\nsys.argv[0] = 'troth'\nmain()\n"


@dataclass(frozen=True, slots=True)
class Runner:
    """A machine that takes jobs: what stands before the path, and where its agent is."""

    path: Path
    endpoint: str = ""

    def run(self, command: list[str], checkout: Path, **variables: str) -> tuple[int, str]:
        """Exit code and output, in the order in which people see it."""
        environ = make_environ(**variables, CI="true", NO_COLOR="1")
        environ["PATH"] = f"{self.path}:{environ['PATH']}"
        if self.endpoint:
            environ["SPIFFE_ENDPOINT_SOCKET"] = self.endpoint
        done = subprocess.run(
            command,
            cwd=checkout,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        return done.returncode, done.stdout


def make_runner(folder: Path, python: Path, endpoint: str = "") -> Runner:
    """A runner whose `troth` is that Python, by which an agent knows it."""
    folder.mkdir()
    script = folder / "troth"
    script.write_text(f"#!{python}\n{_COMMAND}")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return Runner(folder, endpoint)


@dataclass(slots=True)
class Result:
    """How a job went: each step that ran, with its exit code and output."""

    steps: dict[str, tuple[int, str]] = field(default_factory=dict)
    allowed: bool = False

    @property
    def failed(self) -> list[str]:
        """The steps that failed."""
        return [name for name, (code, _) in self.steps.items() if code]

    @property
    def passed(self) -> bool:
        """Whether the pipeline goes on."""
        return self.allowed or not self.failed

    @property
    def log(self) -> str:
        """All that was shown."""
        return "\n".join(f"== {name}\n{text}" for name, (_, text) in self.steps.items())


# GitHub


class GitHub:
    """Jobs of the workflow. `known` are the values of the expressions that it may use."""

    def __init__(self, checkout: Path, known: Mapping[str, str]) -> None:
        self.checkout, self.known = checkout, known
        self.jobs = _load(checkout / ".github" / "workflows" / "policy.yml")["jobs"]

    def run(self, job: str, runner: Runner, temporary: Path, **known: str) -> Result:
        """The shell of a job's steps, until one fails."""
        clean(self.checkout)
        temporary.mkdir(parents=True)
        files = {
            name: str(temporary / name.lower())
            for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_PATH")
        }
        result = Result()
        for step in self._list_steps(self.jobs[job]["steps"], {**self.known, **known}):
            if result.failed and "always()" not in step.get("if", ""):
                continue
            # `bash` by name fails with the first of a pipe too; where none is named, it doesn't.
            strict = ["--noprofile", "--norc", "-eo", "pipefail"] if "shell" in step else ["-e"]
            result.steps[step["name"]] = runner.run(
                ["bash", *strict, "-c", step["run"]],
                self.checkout,
                RUNNER_TEMP=str(temporary),
                **files,
                **step.get("env", {}),
            )
        return result

    def _list_steps(self, steps: list[Any], known: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        for step in steps:
            used = step.get("uses", "")
            if used.startswith("./"):
                action = _load(self.checkout / used / "action.yml")
                given = {name: _fill(text, known) for name, text in step["with"].items()}
                inputs = {
                    name: given.pop(name, one.get("default"))
                    for name, one in action["inputs"].items()
                }
                assert not given, f"the action has no such inputs: {given}"
                here = {f"inputs.{name}": text for name, text in inputs.items()}
                yield from self._list_steps(action["runs"]["steps"], here)
            elif "run" in step and step["name"] != INSTALL and _holds(step.get("if"), known):
                env = {name: _fill(text, known) for name, text in step.get("env", {}).items()}
                yield {**step, "env": env}


def _fill(text: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: known[found[1]], text)


def _holds(condition: str | None, known: Mapping[str, str]) -> bool:
    """Whether a step of the action is wanted: its inputs are given."""
    parts = [] if condition is None else condition.split(" && ")
    wanted = [part.removesuffix(" != ''") for part in parts if part != "always()"]
    return all(known[name] for name in wanted)


# GitLab


class GitLab:
    """Jobs of the pipeline, with what it includes."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        own = _load(checkout / ".gitlab-ci.yml")
        (included,) = own["include"]
        text = (checkout / included["local"]).read_text("utf-8")
        head, _, body = text.partition("\n---\n")
        inputs = {
            name: included["inputs"].get(name, one.get("default"))
            for name, one in yaml.safe_load(head)["spec"]["inputs"].items()
        }
        filled = re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda found: str(inputs[found[1]]), body)
        self.jobs = {**yaml.safe_load(filled), **own}

    def run(self, job: str, runner: Runner, **variables: str) -> Result:
        """A job's script. `variables` are those of the host, and stand above the job's own."""
        given, rule = self._choose(job, variables)
        assert rule is not None, f"{job} doesn't run with {variables}"
        result = Result(allowed=rule.get("allow_failure", False))
        script = "\n".join(self.jobs[job]["script"])
        clean(self.checkout)
        command = ["bash", "-eo", "pipefail", "-c", script]
        result.steps[job] = runner.run(command, self.checkout, **given)
        return result

    def wants(self, job: str, **variables: str) -> bool:
        """Whether the job runs where these are the host's variables."""
        return self._choose(job, variables)[1] is not None

    def _choose(self, job: str, host: Mapping[str, str]) -> tuple[dict[str, str], Any]:
        """Its variables, and the rule by which it runs; None if it doesn't."""
        found = {**self.jobs[self.jobs[job]["extends"]], **self.jobs[job]}
        given = {**found["variables"], **host}
        rules = found.get("rules", [{"if": ""}])
        rule = next((one for one in rules if _applies(one["if"], given)), None)
        return given, None if rule is None or rule.get("when") == "never" else rule


def _applies(condition: str, variables: Mapping[str, str]) -> bool:
    for part in filter(None, condition.split(" && ")):
        name, operator, wanted = (*part.split(" ", 2), "", "")[:3]
        value = variables.get(name.removeprefix("$"), "")
        if operator == "=~":
            if not re.search(wanted.strip("/"), value):
                return False
        elif operator == "==":
            if value != variables.get(wanted.removeprefix("$"), wanted):
                return False
        elif not value:
            return False
    return True


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


# The repository


def make_checkout(folder: Path) -> Path:
    """The example as a team has it: with the templates where its README says that they belong."""
    shutil.copytree(REPOSITORY, folder)
    for source, place in (
        ("github/action.yml", ".github/actions/troth-check/action.yml"),
        ("gitlab/troth.yml", "ci/troth.yml"),
    ):
        target = folder / place
        target.parent.mkdir(parents=True)
        shutil.copy(ROOT / "deploy" / "ci" / source, target)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "Who may do what in the shop")
    return folder


def git(checkout: Path, *words: str) -> str:
    """One command of git, without anybody's settings."""
    environ = {name: text for name, text in make_environ().items() if not name.startswith("GIT_")}
    environ |= {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(
        ["git", *who, *words], cwd=checkout, env=environ, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(checkout: Path, message: str) -> None:
    """Everything that there is."""
    git(checkout, "add", "--all")
    git(checkout, "commit", "-q", "-m", message)


def clean(checkout: Path) -> None:
    """Nothing but what is committed, as a job finds it."""
    git(checkout, "clean", "-ffdxq")


def edit(checkout: Path, file: str, before: str, after: str) -> None:
    """Write `after` where `before` stands, once."""
    path = checkout / file
    text = path.read_text("utf-8")
    assert text.count(before) == 1, (file, before)
    path.write_text(text.replace(before, after), "utf-8")
