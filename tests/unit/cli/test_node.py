"""`troth node`: ending a machine and letting it come back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from tests.fakes.api import FakeApi
from tests.unit.cli.conftest import Run
from troth.wire.api import nodes, readmission

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_view(**changes: Any) -> nodes.NodeView:
    values: dict[str, Any] = {
        "id": "nod_1",
        "name": "press-4",
        "spiffe_id": "spiffe://example.org/troth/node/press-4",
        "state": "evicted",
        "attestation": "x509pop",
        "attested_at": NOW,
        "expires_at": NOW,
        "fingerprint": "ab" * 32,
    }
    return nodes.NodeView(**values | changes)


def test_who_evicts_is_told_how_it_could_come_back(api: FakeApi, run: Run) -> None:
    for view, remedy in (
        (make_view(), "troth node readmit press-4 --reason TEXT"),
        (make_view(fingerprint=None), "troth token join --node press-4"),
    ):
        api.answers["node.evict"] = view
        result = run("node", "evict", "press-4", "--reason", "stolen")
        assert result.exit_code == 0
        assert remedy in result.stderr


def test_what_is_still_being_revoked_is_told(api: FakeApi, run: Run) -> None:
    view = make_view(revoking=True)
    api.answers |= {"node.evict": view, "node.ls": nodes.NodePage(items=[view])}
    assert "troth node ls" in run("node", "evict", "press-4", "--reason", "stolen").stderr
    assert "evicted, being revoked" in run("node", "ls").stdout


def test_readmission_sends_the_reason(api: FakeApi, run: Run) -> None:
    api.answers["node.readmit"] = make_view()
    result = run("node", "readmit", "press-4", "--reason", "wiped", "--json")
    assert json.loads(result.stdout)["name"] == "press-4"
    asked = readmission.ReadmitNode(name="press-4", reason="wiped")
    assert api.named("node.readmit") == [asked]
    refused = run("node", "readmit", "press-4")
    assert refused.exit_code == 2
    assert "why may it come back?" in refused.stderr
