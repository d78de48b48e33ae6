"""What is written about rules besides conditions: manifests of policies and of what they protect,
cases that are put to them, tables of places; and the facts of recorded decisions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

from hypothesis import strategies as st

from tests.fakes.enforcers import LEDGER
from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import mutated, mutated_json
from tests.fuzz.policies import CONDITION, RAW, WINDOW
from troth.cli.policy_cases import _read, render_junit, run_cases
from troth.core.manifest.problem import Limits, PlainDocument
from troth.drivers.geo import NETWORKS, load_locator
from troth.manifests.reading import parse_manifests
from troth.policy.replay import read_facts
from troth.policy.rulebook import make_rule_book

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
_TERMS = {"owner": "team@example.org", "purpose": "a test"}


def _write(kind: str, name: str, /, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "troth/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {**_TERMS, **spec},
    }


_RESOURCE = _write(
    "Resource",
    "ledger",
    type="record",
    pattern="books-*",
    environment="prod",
    sensitivity="critical",
    minimumTier="medium",
    audiences=["https://ledger.example.org"],
    actions={"read": "See it", "write": "Change it"},
    attributes={"status": "text", "level": "number", "tags": "texts", "open": "boolean"},
    actionAttributes={"soft": "boolean"},
    instances=["books-1", {"id": "books-2", "properties": {"status": "a"}, "roles": ["clerk"]}],
    hosts=["ledger.example.org:8443"],
    routes=[{"action": "read", "path": "/books/{id}/**", "methods": ["GET"]}],
)
_POLICIES = (
    _write(
        "Policy",
        "night",
        effect="forbid",
        subjects={"roles": ["clerk"], "identities": ["till"], "types": ["user"]},
        actions=["read", "write"],
        resources=["ledger"],
        when=[CONDITION, {"request.time": WINDOW}],
        expires="2027-01-31T18:00:00Z",
    ),
    _write(
        "Policy",
        "open",
        effect="permit",
        subjects={"anyone": True},
        actions=["*"],
        resources=["*"],
        relaxes=["environment"],
    ),
    _write("Policy", "raw", cedar=RAW[0]),
    _write("Segment", "shop", networks=["10.0.0.0/8", "2001:db8::/32"]),
    _write(
        "Role",
        "clerk",
        permissions=[
            {"resource": "ledger", "actions": ["read"], "when": {"trust.score": {"above": 60}}}
        ],
    ),
    _RESOURCE,
)


@fuzz(st.lists(mutated_json(*_POLICIES), max_size=4), examples=300)
def fuzz_policy_manifest(values: list[Any]) -> None:
    """What is read without a mistake makes a rule book, or says what contradicts what."""
    documents = [PlainDocument(value, "m.yaml", number) for number, value in enumerate(values)]
    found = parse_manifests(documents, Limits(), NOW)
    for problem in found.problems:
        json.dumps(str(problem)).encode()
    if not found.errors:
        book = make_rule_book(0, found.roles, found.resources, found.policies, found.segments)
        assert all(one.strip() for one in book.mistakes)


# Cases

_MANIFESTS = "\n---\n".join(  # JSON is YAML
    json.dumps(one)
    for one in (
        _RESOURCE,
        _POLICIES[3],
        _POLICIES[4],
        _write(
            "Policy",
            "soft",
            effect="forbid",
            subjects={"types": ["user"]},
            actions=["write"],
            resources=["ledger"],
            when={"action.soft": False, "resource.status": {"not": "open"}},
        ),
        _write("Identity", "till", kind="service", environment="prod", roles=["clerk"]),
    )
)
_CASES: dict[str, list[dict[str, Any]]] = {
    "cases": [
        {
            "name": "a till by day",
            "identity": "till",
            "action": "read",
            "resource": "ledger",
            "with": {
                "request.transport": "mtls",
                "request.segment": "shop",
                "request.scopes": "read",
                "request.time": "2026-11-24T10:00:00Z",
                "trust.score": 75,
            },
            "expect": "permit",
            "by": ["role/clerk/1"],
        },
        {
            "subject": {
                "type": "user",
                "id": "a",
                "roles": ["clerk"],
                "properties": {"x": 1},
                "kind": "service",
                "labels": {"a": "b"},
            },
            "action": {"name": "write", "properties": {"soft": True}},
            "resource": {"type": "record", "id": "books-1", "properties": {"status": "open"}},
            "with": {"request.ip": "::ffff:10.0.0.1", "trust.tier": "high"},
            "expect": "deny",
            "missing": "trust.score",
        },
    ]
}
_ODD_TIMES = {
    "cases": [
        {**_CASES["cases"][0], "with": {"request.time": time}}
        for time in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-24")
    ]
}


@contextmanager
def open_folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


@fuzz(mutated_json(_CASES, _CASES, _ODD_TIMES), examples=300, stage=open_folder)
def fuzz_policy_cases(value: Any, folder: Path) -> None:
    """``troth policy test``: mistakes are told, and every case that is read has its answer."""
    (folder / "access.yaml").write_text(_MANIFESTS)
    (folder / "access.test.yaml").write_bytes(json.dumps(value).encode())
    said: list[str] = []
    terminal: Any = SimpleNamespace(json=False, say=said.append)
    found = answer(_read, terminal, [str(folder)], NOW)
    if found is None:
        assert all("\n" not in one for one in said)
        return
    outcome = run_cases(*found, NOW)
    assert len(outcome.trials) == len(found[1]) > 0
    suite = ElementTree.fromstring(render_junit(outcome).encode())
    assert len(list(suite.iter("testcase"))) == len(outcome.trials)


# Places

_TABLE = (
    b"# ours\n203.0.113.0/24,DE,cloud\n2001:db8::/32,CH,\n10.0.0.0/8,,vpn\n\n192.0.2.7,FR\n",
    b'"203.0.113.0/24","DE"\r\n',
)


@fuzz(mutated(*_TABLE), stage=open_folder)
def fuzz_places(content: bytes, folder: Path) -> None:
    path = folder / "places.csv"
    path.write_bytes(content)
    locator = answer(load_locator, "table", path)
    if locator is None:
        return
    for address in ("203.0.113.7", "10.1.2.3", "2001:db8::1"):
        place = locator.locate(ip_address(address))
        assert place.country == "" or len(place.country) == 2
        assert place.network in ("", *NETWORKS)


# What was recorded

_FACTS = {
    "request.ip": "10.0.0.1",
    "request.time": "2026-11-24T10:00:00+00:00",
    "request.scopes": ["read"],
    "request.bound": True,
    "trust.score": 60,
    "identity.labels.team": "a",
    "resource.status": "open",
    "task.id": "t",
}


@fuzz(mutated_json(_FACTS).filter(lambda found: isinstance(found, dict)))
def fuzz_recorded_facts(told: dict[str, Any]) -> None:
    """Nothing is made up: what is understood was told."""
    found = read_facts(told, LEDGER)
    assert {f"{group}.{key}" for group, facts in found.items() for key in facts} <= told.keys()
    for facts in found.values():
        hash(tuple(facts.values()))
