from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.http.stage import AGENT, in_loop, open_stage
from troth.core.clock import VirtualClock
from troth.core.errors import Denied, TrothError, Unauthenticated, Unavailable
from troth.server.http.health import Board
from troth.server.metrics import Metrics


@in_loop
async def test_public_documents_have_their_media_type_and_may_be_cached(tmp_path: Path):
    expected = {
        "/bundle": "application/json",
        "/svid/.well-known/openid-configuration": "application/json",
        "/svid/jwks": "application/jwk-set+json",
        "/crl/aut_1.crl": "application/pkix-crl",
    }
    async with open_stage(tmp_path) as stage:
        client = await stage.public_client()
        for path, media_type in expected.items():
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == media_type
            assert answer.headers["cache-control"].startswith("public, max-age=")
            head = await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(answer.content))


@in_loop
async def test_what_is_not_published_is_a_problem(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.public_client()
        for path in ("/crl/aut_2.crl", "/crl/aut_1", "/crl/%2e%2e%2fkeys.crl", "/crl/"):
            answer = await client.get(path)
            assert answer.status_code == 404, path
            assert answer.headers["content-type"] == "application/problem+json"
        stage.documents.missing = True
        answer = await client.get("/bundle")
        assert answer.status_code == 503
        assert answer.json()["retryable"] is True
        assert answer.headers["retry-after"] == "1"


@in_loop
async def test_health_tells_life_from_readiness(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.public_client()
        assert (await client.get("/readyz")).json() == {"ready": True, "obstacles": []}
        stage.documents.obstacles = ["There is no CRL yet."]
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"ready": False, "obstacles": ["There is no CRL yet."]}
        assert answer.headers["cache-control"] == "no-store"
        stage.documents.missing = True
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["obstacles"] == ["The store is away."]
        assert (await client.get("/healthz")).status_code == 200


@in_loop
async def test_metrics_say_no_more_than_the_listener_may(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        admin, public = await stage.admin_client(), await stage.public_client()
        await admin.post("/v1/identities/secret-name/suspend", json={"reason": "secret-reason"})
        node = await stage.node_client(stage.authority.issue(AGENT), tmp_path)
        await node.post("/v1/nodes/report", json={})
        for client, full in ((public, False), (admin, True)):
            answer = await client.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert (
                'troth_operation_seconds_count{operation="identity.suspend",outcome="ok"} 1.0'
                in answer.text
            )
            assert ("process_" in answer.text) is full
            assert ("troth_build_info" in answer.text) is full
            assert ("troth_identities" in answer.text) is full
            assert ("process_resident_memory_bytes " in answer.text) is full
            assert "secret" not in answer.text
            assert "spiffe" not in answer.text


@in_loop
@pytest.mark.parametrize("opened", [True, False])
async def test_metrics_tell_that_the_lease_is_over_when_no_role_can_be_told(opened: bool):
    error: TrothError = Unavailable("The journal has been silent.")

    async def authenticate(scope: Any) -> Any:
        raise error

    metrics = Metrics()
    metrics.follow("troth_snapshot_lease_seconds", lambda: -7.0)
    board = Board(metrics, authenticate, VirtualClock(), opened)
    text = (await board.show({})).decode()
    assert "troth_snapshot_lease_seconds -7.0" in text
    assert "troth_build_info" not in text
    for error in (Denied("no"), Unauthenticated("no")):
        if opened:
            assert (await board.show({})).decode() == text
        else:
            with pytest.raises(type(error)):
                await board.show({})
