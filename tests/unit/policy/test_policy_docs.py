"""The reference of conditions and findings says what the code does."""

from __future__ import annotations

import re

from tests.unit.test_docs import PACKAGE, REFERENCE, find_section, plain, read, read_rows
from troth.policy.condition_manifest import _COMMON as COMMON_OPERATORS
from troth.policy.condition_manifest import _OPERATORS as OPERATORS
from troth.policy.condition_manifest import _WINDOW as WINDOW
from troth.policy.condition_manifest import SEGMENT
from troth.policy.fact import VOCABULARY


def test_every_fact_and_operator_of_conditions() -> None:
    text = read(REFERENCE / "conditions.md")
    rows = {plain(row[0]): row for row in read_rows(find_section(text, "## Facts"))}
    known = {name for name in rows if "<" not in name and name != SEGMENT}
    assert known == {fact.name for fact in VOCABULARY}
    for fact in VOCABULARY:
        assert rows[fact.name][1] == fact.kind.value
        assert all(f"`{value}`" in rows[fact.name][2] for value in fact.order), fact.name
    rows = {plain(row[0]): row for row in read_rows(find_section(text, "## Operators"))}
    kinds: dict[str, list[str]] = {name: ["any but time"] for name in COMMON_OPERATORS}
    for kind, names in OPERATORS.items():
        for name in names:
            kinds.setdefault(name, []).append(kind.value)
    assert {name: row[1] for name, row in rows.items()} == {
        name: ", ".join(found) for name, found in kinds.items()
    }
    assert {plain(row[0]) for row in read_rows(find_section(text, "## Time"))} == set(WINDOW)


def test_every_finding_has_its_row() -> None:
    rows = {
        plain(row[0])
        for row in read_rows(find_section(read(REFERENCE / "manifests.md"), "## Findings"))
    }
    sources = [*(PACKAGE / "policy").glob("*.py"), *(PACKAGE / "manifests").glob("*.py")]
    named = {name for path in sources for name in re.findall(r'"(policy/[a-z-]+)"', read(path))}
    short = re.findall(r'\bfind\(\s*"([a-z-]+)"', read(PACKAGE / "policy" / "findings.py"))
    words = {"duplicate", "implied"}
    assert rows == named | {f"policy/{name}" for name in (*short, *words)}
