"""Resources at the command line: listed, shown, and what they must serve about themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.api import FakeApi
from tests.fakes.views import make_status
from tests.unit.cli.conftest import Run
from troth.wire.api import resources
from troth.wire.yaml import load_documents

ORIGIN = "https://troth.example.org:8443"


def make_view(**changes: Any) -> resources.ResourceView:
    values: dict[str, Any] = {
        "name": "ledger",
        "owner": "finance@example.org",
        "purpose": "What was sold",
        "labels": {},
        "identifiers": ["https://ledger.example.org/v2", "urn:ledger"],
        "servers": ["ledger-api"],
        "actions": {"write": "Add entries", "read": "See entries"},
        "passes_to": [],
        "format": "jwt",
        "algorithm": "ES256",
        "ttl": 300,
        "ttls": {"low": 60},
        "binding": "none",
        "shared_with": ["archive"],
        "revision": 3,
    }
    return resources.ResourceView(**(values | changes))


@pytest.fixture
def ledger(api: FakeApi) -> FakeApi:
    api.answers["resource.show"] = make_view()
    api.answers["status.show"] = make_status(origin=ORIGIN)
    return api


def test_resources_are_listed(api: FakeApi, run: Run) -> None:
    api.answers["resource.ls"] = resources.ResourceList(items=[make_view()])
    shown = run("resource", "ls").stdout
    for words in ("ledger", "https://ledger.example.org/v2", "write, read", "none", "5 m"):
        assert words in shown
    api.answers["resource.ls"] = resources.ResourceList(items=[])
    assert "kind Resource" in run("resource", "ls").stderr


def test_one_is_shown(ledger: FakeApi, run: Run) -> None:
    shown = run("resource", "show", "ledger").stdout
    for words in ("urn:ledger", "read: See entries", "ledger-api", "ES256", "low: 1 m", "archive"):
        assert words in shown


def test_the_metadata_are_json_for_people_too(ledger: FakeApi, run: Run) -> None:
    done = run("resource", "metadata", "ledger")
    document = json.loads(done.stdout)
    assert document["resource"] == "https://ledger.example.org/v2"
    assert document["authorization_servers"] == [ORIGIN]
    assert document["scopes_supported"] == ["read", "write"]
    assert "/.well-known/oauth-protected-resource/v2" in done.stderr
    assert json.loads(run("resource", "metadata", "ledger", "--json").stdout) == document


def test_envoy_gets_yaml_that_says_what_it_cannot_check(ledger: FakeApi, run: Run) -> None:
    done = run("resource", "metadata", "ledger", "--envoy")
    assert done.stdout.startswith("# Envoy in front of ledger")
    assert "revoked or quarantined" in done.stdout
    (document,) = load_documents(done.stdout.encode(), "ledger.yaml")
    as_json = json.loads(run("resource", "metadata", "ledger", "--envoy", "--json").stdout)
    assert document.value == as_json
    assert set(as_json) == {"routes", "http_filters", "local_reply_config", "clusters"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"binding": "any"}, "bound to"), ({"format": "opaque"}, "opaque token")],
)
def test_what_envoy_cannot_protect_is_refused(
    api: FakeApi, run: Run, changes: dict[str, Any], words: str
) -> None:
    api.answers["resource.show"] = make_view(**changes)
    api.answers["status.show"] = make_status(origin=ORIGIN)
    done = run("resource", "metadata", "ledger", "--envoy")
    assert done.exit_code == 1
    assert words in done.stderr
    assert run("resource", "metadata", "ledger").exit_code == 0
