"""SARIF and Code Quality: valid by the standards' own schemas, and the same from run to run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from troth.core.manifest.problem import Problem, Severity
from troth.core.manifest.report import MANIFEST_RULES, Report, Rule, Unread, fingerprint_problems
from troth.wire.codequality import render_code_quality
from troth.wire.sarif import FINGERPRINT, render_address, render_sarif

SCHEMA = Path(__file__).parents[2] / "vectors" / "sarif" / "sarif-schema-2.1.0.json"
ERROR = Problem("a/b.yaml", 6, 3, "spec.kind", "is nothing", Severity.ERROR)
WARNING = Problem("a/b.yaml", 9, 0, "", "rests on the path", Severity.WARNING)
LINT = Problem("c.yaml", 0, 0, "", "never reached", Severity.WARNING, "policy/unreachable")
REPORT = Report(
    "manifests",
    (ERROR, WARNING, LINT),
    {**MANIFEST_RULES, "policy/unreachable": Rule("policy/unreachable", "Dead.", "Remove it.")},
    (Unread("big.txt", "larger than 1024 KiB"),),
)


def render(report: Report) -> Any:
    document = json.loads(render_sarif(report, "1.2.3"))
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft4Validator(
        schema, format_checker=jsonschema.Draft4Validator.FORMAT_CHECKER
    ).validate(document)
    return document


def test_the_schema_would_refuse_a_wrong_document():
    document = json.loads(render_sarif(REPORT, "1.2.3"))
    document["runs"][0]["results"][0]["level"] = "grave"
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert not jsonschema.Draft4Validator(schema).is_valid(document)


def test_a_run_names_its_tool_its_check_and_how_it_counts():
    document = render(REPORT)
    assert document["version"] == "2.1.0"
    [run] = document["runs"]
    assert run["tool"]["driver"]["name"] == "troth"
    assert run["tool"]["driver"]["semanticVersion"] == "1.2.3"
    assert run["automationDetails"]["id"] == "troth/manifests/"
    assert run["columnKind"] == "unicodeCodePoints"


def test_a_result_has_rule_level_place_and_words():
    [run] = render(REPORT)["runs"]
    first, second, third = run["results"]
    assert (first["ruleId"], first["level"]) == ("manifest/error", "error")
    assert first["message"]["text"] == "spec.kind: is nothing"
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "a/b.yaml", "uriBaseId": "%SRCROOT%"}
    assert place["region"] == {"startLine": 6, "startColumn": 3}
    assert first["locations"][0]["logicalLocations"] == [{"fullyQualifiedName": "spec.kind"}]
    assert (second["ruleId"], second["level"]) == ("manifest/warning", "warning")
    assert second["locations"][0]["physicalLocation"]["region"] == {"startLine": 9}
    assert third["ruleId"] == "policy/unreachable"
    # No line is known: the file's first stands for the file.
    assert third["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}


def test_every_result_points_at_its_rule():
    [run] = render(replace(REPORT, rules=MANIFEST_RULES))["runs"]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert rules[0]["help"]["text"]
    assert rules[0]["defaultConfiguration"] == {"level": "error"}
    assert rules[2] == {"id": "policy/unreachable"}  # nobody described it


def test_what_was_not_read_is_a_notification_and_the_run_a_success():
    [run] = render(REPORT)["runs"]
    [invocation] = run["invocations"]
    assert invocation["executionSuccessful"] is True
    [note] = invocation["toolExecutionNotifications"]
    assert note["message"]["text"] == "larger than 1024 KiB"
    assert note["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "big.txt"


def test_nothing_found_is_a_document_too():
    [run] = render(Report("manifests", ()))["runs"]
    assert run["results"] == []


@pytest.mark.parametrize(
    ("source", "uri", "relative"),
    [
        ("a b/ä#?.yaml", "a%20b/%C3%A4%23%3F.yaml", True),
        ("./a.yaml", "a.yaml", True),
        ("/srv/a.yaml", "file:///srv/a.yaml", False),
        ("odd\udcff.yaml", "odd%FF.yaml", True),
    ],
)
def test_addresses_are_encoded(source, uri, relative):
    address = render_address(source)
    assert address.uri == uri
    assert bool(address.uri_base_id) is relative
    render(Report("manifests", (replace(ERROR, source=source),)))


def test_a_fingerprint_outlives_lines_and_tells_equal_problems_apart():
    moved = replace(ERROR, line=70, column=1)
    assert fingerprint_problems([ERROR]) == fingerprint_problems([moved])
    twice = fingerprint_problems([ERROR, moved])
    assert len(set(twice)) == 2
    others = [replace(ERROR, message="x"), replace(ERROR, source="x"), replace(ERROR, path="x")]
    assert len(set(fingerprint_problems([ERROR, WARNING, LINT, *others]))) == 6
    [run] = render(REPORT)["runs"]
    shown = [result["partialFingerprints"][FINGERPRINT] for result in run["results"]]
    assert shown == fingerprint_problems(REPORT.problems)


def test_code_quality_has_what_gitlab_asks_for():
    violations = json.loads(render_code_quality(REPORT))
    assert [set(one) for one in violations] == [
        {"description", "check_name", "fingerprint", "severity", "location"}
    ] * 3
    assert violations[0]["location"] == {"path": "a/b.yaml", "lines": {"begin": 6}}
    assert [one["severity"] for one in violations] == ["critical", "minor", "minor"]
    assert violations[2]["check_name"] == "policy/unreachable"
    assert violations[2]["location"]["lines"] == {"begin": 1}
    assert len({one["fingerprint"] for one in violations}) == 3


def test_a_name_that_is_no_text_stays_json():
    [one] = json.loads(render_code_quality(Report("x", (replace(ERROR, source="odd\udcff.yaml"),))))
    assert one["location"]["path"] == "odd?.yaml"
