"""Every log event stands in the reference with its fields, and none carries what is secret."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "troth"
LOGGERS = ("log", "_log")
SECRET = re.compile(r"secret|password|token|private|body|header|evidence|csr|dsn", re.IGNORECASE)


def list_events() -> Iterator[tuple[Path, str, set[str]]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if "demonstration" in path.parts:  # it prints a story; its programs have words of their own
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = str(getattr(node.func, "attr", getattr(node.func, "id", "")))
            owner = getattr(getattr(node.func, "value", None), "id", "")
            if owner not in LOGGERS and name != "tell":
                continue
            event = node.args[1 if name == "log" else 0]
            if isinstance(event, ast.Constant) and re.fullmatch(r"\w+\.\w+", str(event.value)):
                fields = {str(k.arg) for k in node.keywords if k.arg not in (None, "exc_info")}
                yield path, str(event.value), fields


def read_table() -> dict[str, set[str]]:
    text = (ROOT / "docs" / "reference" / "logs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\.\w+)` \|[^|]*\|[^|]*\|([^|]*)\|", text, re.MULTILINE)
    return {event: set(re.findall(r"`(\w+)`", fields)) for event, fields in rows}


def test_every_event_stands_in_the_reference_with_its_fields():
    found: dict[str, set[str]] = {}
    for _, event, fields in list_events():
        found.setdefault(event, set()).update(fields)
    assert len(found) > 50
    assert read_table() == found


def test_no_field_of_a_log_line_is_one_that_holds_secrets():
    named = {f"{path.name}: {field}" for path, _, fields in list_events() for field in fields}
    assert not [name for name in named if SECRET.search(name.partition(": ")[2])]
