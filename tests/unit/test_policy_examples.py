"""The worked examples of policies: sound, tested to the last condition, and quoted as they are."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from troth.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
GUIDE = ROOT / "docs" / "how-to" / "policy-examples.md"
NAMES = ("database-user", "retail-till", "robot-arm")
WITH_CASES = (*NAMES, "policy-repository")
ENDING = ".test.yaml"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments], env={"NO_COLOR": "1", "COLUMNS": "200"})


def list_folders(name: str) -> list[str]:
    """Where an example's manifests are, and its cases if they are elsewhere."""
    parts = [EXAMPLES / name / part for part in ("manifests", "tests")]
    return [str(part) for part in parts if part.is_dir()] or [str(EXAMPLES / name)]


def test_all_with_cases_are_known_here():
    found = {path.relative_to(EXAMPLES).parts[0] for path in EXAMPLES.rglob(f"*{ENDING}")}
    assert found == set(WITH_CASES)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.iterdir()))
def test_check_finds_nothing(name: str):
    done = run("check", "--strict", list_folders(name)[0])
    assert done.exit_code == 0, done.output
    assert "0 errors, 0 warnings" in done.stderr


@pytest.mark.parametrize("name", WITH_CASES)
def test_all_cases_pass_and_exercise_every_rule(name: str):
    done = run("policy", "test", "--json", *list_folders(name))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["unexercised"] == []
    answers = {one["answer"] for one in found["cases"]}
    assert answers == {"permit", "deny"}
    assert any(one["missing"] for one in found["cases"])


# Every condition is pinned by a case


def find_facts(when: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of the facts in a condition."""
    for key in list(when) if isinstance(when, dict) else range(len(when)):
        inner = when[key]
        if isinstance(key, str) and key not in ("any", "all", "not"):
            yield (*path, key)
            if isinstance(inner, dict) and len(inner) > 1 and not key.endswith(".time"):
                yield from ((*path, key, word) for word in inner)
        else:
            yield from find_facts(inner, (*path, key))


def list_conditions() -> list[Any]:
    found = []
    for name in NAMES:
        for file in sorted((EXAMPLES / name).glob("*.yaml")):
            if file.name.endswith(ENDING):
                continue
            for number, document in enumerate(yaml.safe_load_all(file.read_text("utf-8"))):
                spec = document["spec"]
                rules = [("permissions", n) for n in range(len(spec.get("permissions", [])))]
                for rule in [*rules, ()]:
                    here = find(spec, rule).get("when")
                    for place in find_facts(here) if here else ():
                        id_ = "-".join(map(str, (document["metadata"]["name"], *rule, *place)))
                        path = ("spec", *rule, "when", *place)
                        found.append(pytest.param(name, file.name, number, path, id=id_))
    return found


def find(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def test_there_are_conditions():
    assert len(list_conditions()) > 30


@pytest.mark.parametrize(("name", "file", "number", "path"), list_conditions())
def test_without_any_one_condition_a_case_fails(
    name: str, file: str, number: int, path: tuple[Any, ...], tmp_path: Path
):
    copy = tmp_path / name
    shutil.copytree(EXAMPLES / name, copy)
    documents = list(yaml.safe_load_all((copy / file).read_text("utf-8")))
    del find(documents[number], path[:-1])[path[-1]]
    prune(documents[number]["spec"])
    (copy / file).write_text(yaml.safe_dump_all(documents), "utf-8")
    done = run("policy", "test", "--json", str(copy))
    assert done.exit_code == 1, done.output
    assert any(one["failures"] for one in json.loads(done.stdout)["cases"])


def prune(value: Any) -> None:
    """Leave out what became empty."""
    for key in list(value) if isinstance(value, dict) else reversed(range(len(value))):
        if isinstance(value[key], dict | list):
            prune(value[key])
            if not value[key]:
                del value[key]


# What is written about them


def read_section(text: str) -> Iterator[tuple[str, str]]:
    """Each section of the guide that is about an example, with that example's name."""
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title = re.match(r".*: examples/([a-z-]+)\n", section)
        if title:
            yield title[1], section


def test_guide_quotes_the_files():
    sections = dict(read_section(GUIDE.read_text("utf-8")))
    assert set(sections) == set(NAMES)
    for name, section in sections.items():
        files = [path.read_text("utf-8") for path in (EXAMPLES / name).glob("*.yaml")]
        blocks = re.findall(r"^```ya?ml\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
        assert len(blocks) >= 3
        for block in blocks:
            assert any(f"\n{block}" in f"\n{text}" for text in files), block


def list_refusals() -> list[Any]:
    found: list[Any] = []
    for name in NAMES:
        text = (EXAMPLES / name / "README.md").read_text("utf-8")
        for block in re.findall(r"^```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            found.append(pytest.param(name, block, id=f"{name}-{len(found)}"))
    return found


@pytest.mark.parametrize(("name", "block"), list_refusals())
def test_readme_shows_what_the_test_says(
    name: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy = tmp_path / "examples" / name
    shutil.copytree(EXAMPLES / name, copy)
    told = re.match(rf"examples/{name}/([a-z.-]+):[0-9]+ failed (.*)\n", block)
    assert told is not None
    file = copy / told[1]
    before, after = file.read_text("utf-8").split(f"  - name: {told[2]}\n")
    file.write_text(
        f"{before}  - name: {told[2]}\n{after.replace('expect: deny', 'expect: permit', 1)}",
        "utf-8",
    )
    monkeypatch.chdir(tmp_path)
    done = run("policy", "test", f"examples/{name}")
    assert done.exit_code == 1
    assert done.stdout == block


def test_readmes_count_their_cases():
    for name in NAMES:
        done = run("policy", "test", "--json", str(EXAMPLES / name))
        count = len(json.loads(done.stdout)["cases"])
        assert f"| {count} questions with" in (EXAMPLES / name / "README.md").read_text("utf-8")
