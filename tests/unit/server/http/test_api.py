from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from structlog.testing import capture_logs

from tests.unit.server.http.stage import AGENT, Registry, Stage, in_loop, open_stage
from troth.core import errors
from troth.core.logwords import add_words
from troth.server.http.problems import STATUS
from troth.server.settings import Limits
from troth.wire.api import identities, manifests, nodes
from troth.wire.api.routes import ROUTES, render_request

REASON = {"reason": "because"}


OPEN = {"checkpoint.show"}
"""Routes that anybody may call without a body."""


@in_loop
async def test_a_call_reaches_its_operation_with_caller_and_typed_request(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()
        answer = await client.post("/v1/identities/pay/quarantine", json=REASON)
        assert answer.status_code == 200
        assert answer.json() == {"name": "pay", "reason": "because"}
        [call] = stage.operations.calls
        assert call.body == identities.MoveIdentity(name="pay", reason="because")
        assert call.caller.principal.startswith("uid:")
        assert call.caller.source.startswith("uid:")
        assert call.request_id == answer.headers["x-request-id"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
        assert "date" in answer.headers


@in_loop
async def test_every_route_of_the_table_is_reachable(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.public_client()
        for route in ROUTES:
            if route.name in OPEN:
                continue  # see the next test
            path = route.path.replace("{name}", "x").replace("{id}", "x").replace("{serial}", "0a")
            answer = await client.request(route.method, path)
            # The public listener knows nobody, so the gate's answer proves that the route is there.
            expected = 400 if route.name in ("node.attest", "device.enroll") else 401
            assert answer.status_code == expected, route.name
            assert answer.json()["code"] in ("unauthenticated", "invalid_request")
        assert not stage.operations.calls


@in_loop
async def test_anybody_may_ask_what_is_open_to_all(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.public_client()
        for route in ROUTES:
            if route.name in OPEN:
                assert (await client.request(route.method, route.path)).status_code == 200
        assert len(stage.operations.calls) == len(OPEN)


@in_loop
async def test_every_request_of_a_route_is_counted_once_whatever_becomes_of_it(tmp_path: Path):
    registry = Registry()
    async with open_stage(tmp_path, registry=registry) as stage:
        admin = await stage.admin_client()
        nobody = await stage.public_client()
        refused = await stage.node_client(stage.authority.issue(AGENT), tmp_path)
        registry.revoked = True
        counts: Counter[tuple[str, str]] = Counter()
        for route in ROUTES:
            if route.name in OPEN:
                continue
            path = route.path.replace("{name}", "x").replace("{id}", "x").replace("{serial}", "0a")
            asked: list[tuple[httpx.AsyncClient, str, tuple[bytes, str] | None]] = [
                (refused, path, None),  # who it is can't be told
                (nobody, path, None),  # may not, or misses what it must say
                (admin, f"{path}?a=1&a=1", None),
            ]
            if route.method != "GET":
                asked += [(admin, path, (b"{", "application/json")), (admin, path, (b"{}", "a/b"))]
            for client, where, content in asked:
                body, kind = content or (b"", "")
                headers = {"content-type": kind} if kind else {}
                answer = await client.request(route.method, where, content=body, headers=headers)
                assert answer.status_code in (400, 401, 403, 415), route.name
                counts[route.name, answer.json()["code"]] += 1
        assert _count_outcomes(stage) == counts
        assert not stage.operations.calls


@in_loop
async def test_a_stream_is_counted_with_its_first_value_or_what_comes_instead(tmp_path: Path):
    async def fail(call):
        raise errors.Unavailable("The journal has been silent.")
        yield  # type: ignore[unreachable]  # what makes it a generator

    async with open_stage(tmp_path) as stage:
        admin = await stage.admin_client()
        async with admin.stream("GET", "/v1/journal/tail") as answer:
            assert await anext(answer.aiter_lines())
            assert _count_outcomes(stage) == {("journal.tail", "ok"): 1}
        await asyncio.wait_for(stage.operations.closed.wait(), 8)
        stage.operations.follow = fail
        assert (await admin.get("/v1/journal/tail")).status_code == 503
        assert _count_outcomes(stage) == {
            ("journal.tail", "ok"): 1,
            ("journal.tail", "unavailable"): 1,
        }


def _count_outcomes(stage: Stage) -> dict[tuple[str, str], int]:
    pattern = r'troth_operation_seconds_count{operation="(.*)",outcome="(.*)"} (.*)'
    text = stage.metrics.render(full=False).decode()
    return {(name, outcome): int(float(n)) for name, outcome, n in re.findall(pattern, text)}


@in_loop
async def test_what_the_client_renders_the_server_understands(tmp_path: Path):
    requests = {
        "identity.ls": identities.ListIdentities(limit=7, text="a b&c=d"),
        "identity.show": identities.NameIdentity(name="a/b c?d#e%2F"),
        "identity.register": identities.RegisterIdentity(
            name="x", kind="service", owner="o", purpose="p", labels={"ä": "ö"}
        ),
        "manifest.plan": manifests.SubmitManifests(
            documents=[manifests.ManifestDocument(value={"deep": [1, {"er": None}]})]
        ),
        "token.join": nodes.CreateJoinToken(node="n1", ttl=60),
    }
    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()
        for name, request in requests.items():
            method, path, body = render_request(name, request)
            headers = {"content-type": "application/json"} if body else {}
            answer = await client.request(method, path, content=body, headers=headers)
            assert answer.status_code == 200, answer.text
            assert stage.operations.calls[-1].body == request


@in_loop
async def test_every_kind_of_error_has_its_status_and_problem_document(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()
        for kind in errors.KINDS:

            async def fail(call, kind=kind):
                raise kind("Do something else.")

            stage.operations.answer = fail
            answer = await client.get("/v1/status")
            problem = answer.json()
            assert answer.status_code == STATUS[kind.code] == problem["status"]
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["code"] == kind.code
            assert problem["detail"] == "Do something else."
            assert problem["retryable"] is kind.retryable
            assert problem["request_id"] == answer.headers["x-request-id"]
            assert ("retry-after" in answer.headers) is kind.retryable
    assert set(STATUS) == {kind.code for kind in errors.KINDS}


@in_loop
async def test_an_unknown_exception_shows_nothing_of_itself(tmp_path: Path, capsys):
    async def fail(call):
        raise RuntimeError("the password is hunter2")

    async with open_stage(tmp_path) as stage:
        stage.operations.answer = fail
        client = await stage.admin_client()
        answer = await client.get("/v1/status")
        assert answer.status_code == 500
        assert "hunter2" not in answer.text
        assert "RuntimeError" not in answer.text
        assert answer.json()["code"] == "internal"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert "hunter2" in capsys.readouterr().out  # the log has it


REQUEST_IDS = [
    ("abc-DEF_1.2", True),
    ("x" * 64, True),
    ("x" * 65, False),
    ("two words", False),
    ("a\tb", False),
    ("<script>", False),
    ("", False),
]


@in_loop
async def test_a_clients_request_id_reaches_the_log_and_never_the_journal(tmp_path: Path):
    contexts: list[dict[str, Any]] = []

    async def answer(call):
        contexts.append(dict(add_words(None, "", {})))
        raise errors.Invalid("No.")

    async with open_stage(tmp_path) as stage:
        stage.operations.answer = answer
        client = await stage.admin_client()
        seen = set()
        for given, kept in REQUEST_IDS:
            response = await client.get("/v1/status", headers={"x-request-id": given})
            ours = response.headers["x-request-id"]
            assert ours.startswith("req_")
            seen.add(ours)
            # What the operation gets is what it writes into the journal.
            assert stage.operations.calls[-1].request_id == ours == response.json()["request_id"]
            assert contexts[-1]["request_id"] == ours
            assert contexts[-1].get("client_request_id") == (given if kept else None)
        assert len(seen) == len(REQUEST_IDS)
        twice = [("x-request-id", "a"), ("x-request-id", "b")]
        await client.get("/v1/status", headers=twice)
        assert "client_request_id" not in contexts[-1]


BAD_BODIES = [
    (b"{", 400, "not JSON"),
    (b"", 400, "reason"),
    (b"[]", 400, "object"),
    (b"null", 400, "object"),
    (b'"x"', 400, "object"),
    (b'{"reason": 5}', 400, "must be text, not a whole number"),
    (b'{"reason": null}', 400, "must be text, not null"),
    (b'{"reason": ""}', 400, "must have at least 1 character"),
    (b'{"reason": "x", "extra": 1}', 400, "extra"),
    (b'{"reason": "x", "name": "other"}', 400, "path only"),
    (b'{"reason": "x", "reason": "y"}', 400, "'reason' twice"),
    (b'{"reason": {"deep": [{"a": 1, "a": 2}]}}', 400, "'a' twice"),
    (b'{"reason": "\xff"}', 400, "UTF-8"),
    (b'{"reason": "\\ud800"}', 400, "not JSON"),
    (b'{"reason": NaN}', 400, "not JSON"),
    (b"[" * 100_000, 400, "nested"),
    (b'{"reason":' * 5000, 400, "nested"),
    (b'{"reason": "' + b"[" * 1000 + b'"}', 400, "must have at most"),
    (b'{"reason": "' + b"x" * 2_000_000 + b'"}', 413, "bytes"),
]


@in_loop
async def test_bad_bodies_get_a_sentence_and_reach_no_operation(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()
        for body, status, word in BAD_BODIES:
            answer = await client.post(
                "/v1/identities/pay/suspend",
                content=body,
                headers={"content-type": "application/json"},
            )
            assert answer.status_code == status, (body[:40], answer.text)
            assert word in answer.json()["detail"], (body[:40], answer.text)
        assert not stage.operations.calls


MEDIA_TYPES: list[dict[str, str]] = [
    {},
    {"content-type": "text/plain"},
    {"content-type": "application/x-www-form-urlencoded"},
    {"content-type": "application/json; charset=latin-1"},
    {"content-type": "application/jsonx"},
    {"content-type": "application/json", "content-encoding": "gzip"},
]


@in_loop
async def test_only_plain_json_is_read(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()
        for headers in MEDIA_TYPES:
            answer = await client.post(
                "/v1/identities/pay/suspend", content=json.dumps(REASON), headers=headers
            )
            assert answer.status_code == 415, headers
            assert answer.json()["code"] == "invalid_request"
        assert not stage.operations.calls
        answer = await client.post(
            "/v1/identities/pay/suspend",
            content=json.dumps(REASON),
            headers={"content-type": 'Application/JSON; charset="UTF-8"'},
        )
        assert answer.status_code == 200


PATHS = [
    ("/nix", 404),
    ("/v1", 404),
    ("/v1/identities/", 404),
    ("//v1/identities", 404),
    ("/v1//identities", 404),
    ("/v1/./identities", 404),
    ("/v1/x/../identities", 404),
    ("/v1/identit%69es", 404),
    ("/v1/identities/%2e%2e", 200),  # a field like any other: it never becomes a path
    ("/v1/identities/a%2Fquarantine", 200),
    ("/v1/identities/a%00b", 400),
    ("/v1/identities/a%0ab", 400),
    ("/v1/identities/%ff", 400),
    ("/v1/identities/%c3%a4", 200),
    ("/v1/identities/" + "x" * 129, 400),
    ("/v1/identities/" + "x" * 4000, 414),
    ("/v1/identities?limit=0", 400),
    ("/v1/identities?limit=x", 400),
    ("/v1/identities?limit=1&limit=2", 400),
    ("/v1/identities?nix=1", 400),
    ("/v1/identities?text", 400),
    ("/v1/identities?text=%ff", 400),
    ("/v1/identities?" + "&".join(f"a{n}=1" for n in range(100)), 400),
    ("/v1/identities/pay?name=other", 400),
]


@in_loop
async def test_paths_and_queries_mean_one_thing_or_nothing(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        for path, status in PATHS:
            got, raw = await stage.send(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            assert got == status, (path, raw)
            if status == 200:
                assert stage.operations.calls.pop().body.name in ("..", "a/quarantine", "ä")
            else:
                assert b"application/problem+json" in raw
            assert not stage.operations.calls


@in_loop
async def test_methods_are_named_and_head_is_get_without_content(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()
        answer = await client.delete("/v1/identities")
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "OPTIONS", "POST"}
        assert answer.json()["detail"]
        answer = await client.options("/v1/identities")
        assert answer.status_code == 204
        assert answer.headers["allow"] == "GET, OPTIONS, POST"
        answer = await client.head("/v1/status")
        assert (answer.status_code, answer.content) == (200, b"")
        answer = await client.head("/nix")
        assert (answer.status_code, answer.content) == (404, b"")


@in_loop
async def test_fields_stand_where_they_belong(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()
        answer = await client.post("/v1/identities/pay/suspend?reason=x", json=REASON)
        assert answer.status_code == 400
        assert "query" in answer.json()["detail"]
        answer = await client.request("GET", "/v1/identities", content=b"{}")
        assert answer.status_code == 400
        assert "no body" in answer.json()["detail"]
        assert not stage.operations.calls


@in_loop
async def test_manifests_may_be_larger_than_anything_else(tmp_path: Path):
    limits = Limits(body_bytes=2048, manifest_bytes=8192, stop_seconds=1)
    async with open_stage(tmp_path, limits=limits) as stage:
        client = await stage.admin_client()
        documents = {"documents": [{"value": "x" * 4000}]}
        answer = await client.post("/v1/manifests/apply", json=documents)
        assert answer.status_code == 200
        answer = await client.post("/v1/identities/pay/suspend", json={"reason": "x" * 4000})
        assert answer.status_code == 413
        answer = await client.post(
            "/v1/manifests/apply", json={"documents": [{"value": "x" * 9000}]}
        )
        assert answer.status_code == 413
        assert answer.json()["code"] == "too_large"


@in_loop
async def test_a_body_is_not_read_for_who_may_not_call(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.public_client()
        answer = await client.post("/v1/manifests/apply", content=b"x" * 20_000_000)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("ClientCertificate realm=")
        assert "admin socket" in answer.json()["detail"]
        assert not stage.operations.calls
        assert 'outcome="unauthenticated"' in stage.metrics.render(full=False).decode()


@in_loop
async def test_strangers_may_send_less_than_callers_who_are_known(tmp_path: Path):
    def attest(size: int) -> dict[str, str]:
        return {"method": "join_token", "evidence": "x", "csr": "A" * (size - size % 4)}

    async with open_stage(tmp_path) as stage:
        client = await stage.public_client()
        answer = await client.post("/v1/nodes/attest", json=attest(32_800))
        assert answer.status_code == 413
        assert "32,768" in answer.json()["detail"]
        assert not stage.operations.calls
        answer = await client.post("/v1/nodes/attest", json=attest(4000))
        assert answer.status_code == 200, answer.text
        admin = await stage.admin_client()
        answer = await admin.post("/v1/identities/pay/suspend", json={"reason": "x" * 33_000})
        assert answer.status_code == 400  # read, and refused for what it says


@in_loop
async def test_strangers_do_not_fill_the_log_with_refusals(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        public, admin = await stage.public_client(), await stage.admin_client()
        with capture_logs() as entries:
            assert (await public.get("/v1/status")).status_code == 401
            assert (await admin.get("/v1/nodes/sync")).status_code == 403
        refused = [entry for entry in entries if entry["event"] == "call.refused"]
        assert [entry["log_level"] for entry in refused] == ["debug", "warning"]


@in_loop
async def test_numbers_that_no_position_can_have_are_refused(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()
        for path in ("/v1/journal", "/v1/journal/tail"):
            for number in (2**63, 2**64, 10**30, -(2**63) - 1):
                answer = await client.get(f"{path}?after={number}")
                assert answer.status_code == 400, (path, number, answer.text)
                assert "after" in answer.json()["detail"]
        for number in (2**63, 10**30):
            answer = await client.post("/v1/join-tokens", json={"node": "n1", "ttl": number})
            assert answer.status_code == 400, answer.text
        assert not stage.operations.calls
        answer = await client.get(f"/v1/journal?after={2**63 - 1}")
        assert answer.status_code == 200


@in_loop
async def test_a_uid_without_a_role_is_refused(tmp_path: Path):
    async with open_stage(tmp_path, registry=Registry(uids=set())) as stage:
        client = await stage.admin_client()
        answer = await client.get("/v1/status")
        assert answer.status_code == 403
        assert "has no role" in answer.json()["detail"]
        assert (await client.get("/healthz")).status_code == 200


@in_loop
async def test_a_role_without_the_permission_is_refused(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()  # an admin is no node
        answer = await client.post("/v1/certificates/issue", json={"requests": []})
        assert answer.status_code == 403
        answer = await client.get("/v1/nodes/sync")
        assert answer.status_code == 403
        assert not stage.operations.calls
