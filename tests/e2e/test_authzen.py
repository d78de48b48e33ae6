"""AuthZEN at a real server: the interoperability vectors, and the certification scenario by number.

Source: openid/authzen, `certification/authorization-api-1_0-scenario.md` (numbers as there).
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from jwt import PyJWKClient

from tests.e2e.processes import Server, run_troth, wait_for
from tests.fakes.authzen import (
    ADMIN_BOB,
    ALICE,
    ARCHIVED,
    BOB,
    READ,
    RECORD,
    WRITE,
    ask,
    load_vectors,
    submit_examples,
)

pytestmark = [pytest.mark.e2e, pytest.mark.interop]

ONE, MANY = "/access/v1/evaluation", "/access/v1/evaluations"
SEARCH = "/access/v1/search"
JSON = {"content-type": "application/json"}


def post(point: httpx.Client, path: str, body: Any) -> Any:
    """The answer to a question that is one."""
    answer = point.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert isinstance(found.get("context", {}), dict)
    return found


def decide(point: httpx.Client, **members: Any) -> bool:
    found = post(point, ONE, ask(**members))
    assert isinstance(found["decision"], bool)
    decision: bool = found["decision"]
    return decision


def decide_all(point: httpx.Client, body: Any) -> list[bool]:
    found = post(point, MANY, body)
    assert "decision" not in found  # 3.3.4
    return [one["decision"] for one in found["evaluations"]]


@pytest.mark.parametrize(("path", "body", "expected"), load_vectors())
def test_vectors(point: httpx.Client, path: str, body: Any, expected: Any) -> None:
    found = post(point, path, body)
    if path == ONE:
        assert found["decision"] is expected
    else:
        assert [one["decision"] for one in found["evaluations"]] == expected


def test_there_are_43_vectors() -> None:
    assert len(load_vectors()) == 43


# Basic


@pytest.mark.parametrize(
    ("number", "members", "expected"),
    [
        ("2.2.1", {}, True),
        ("2.2.2", {"subject": BOB, "action": WRITE}, False),
        ("2.2.3", {"context": {"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}}, True),
        ("2.2.4", {"action": WRITE, "resource": ARCHIVED}, False),
        ("2.2.5", {"subject": ADMIN_BOB, "action": WRITE, "resource": ARCHIVED}, True),
        ("2.2.6", {"action": {"name": "delete", "properties": {"soft": True}}}, True),
        ("2.2.7", {"action": {"name": "delete", "properties": {"soft": False}}}, False),
        (
            "2.2.8",
            {
                "subject": {**ALICE, "properties": {"department": "Sales", "role": "manager"}},
                "action": {**READ, "properties": {"method": "GET"}},
                "resource": {**RECORD, "properties": {"status": "active", "owner": "bob"}},
            },
            True,
        ),
        ("2.2.9", {"foo": "bar", "futureField": {"nested": True}}, True),
        ("rule 2", {"action": WRITE}, True),
        ("rule 3", {"subject": BOB}, True),
    ],
)
def test_basic(point: httpx.Client, number: str, members: Any, expected: bool) -> None:
    assert decide(point, **members) is expected


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(ask(subject=None), id="2.4.1 subject"),
        pytest.param(ask(action=None), id="2.4.1 action"),
        pytest.param(ask(resource=None), id="2.4.1 resource"),
        pytest.param(ask(subject={"id": "alice"}), id="2.4.2 subject.type"),
        pytest.param(ask(subject={"type": "user"}), id="2.4.2 subject.id"),
        pytest.param(ask(action={}), id="2.4.2 action.name"),
        pytest.param(ask(resource={"id": "record-1"}), id="2.4.2 resource.type"),
        pytest.param(ask(resource={"type": "record"}), id="2.4.2 resource.id"),
        pytest.param(ask(subject="alice"), id="2.4.6 subject"),
        pytest.param(ask(action={"name": 123}), id="2.4.6 action.name"),
    ],
)
def test_what_is_no_question_is_refused(point: httpx.Client, body: Any) -> None:
    answer = point.post(ONE, json=body)
    assert answer.status_code == 400
    assert answer.text
    assert point.post(MANY, json=body).status_code == 400


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param(json.dumps(ask()), "text/plain", id="2.4.3"),
        pytest.param(json.dumps(ask()), "", id="2.4.3 none"),
        pytest.param('{"subject":', "application/json", id="2.4.4"),
        pytest.param("", "application/json", id="2.4.5"),
    ],
)
def test_what_is_no_json_is_refused(point: httpx.Client, content: str, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    for path in (ONE, MANY, f"{SEARCH}/subject"):
        answer = point.post(path, content=content.encode(), headers=headers)
        assert answer.status_code == 400, (path, answer.text)


@pytest.mark.parametrize("path", [ONE, MANY])
def test_request_ids(point: httpx.Client, path: str) -> None:
    """2.5.1, 2.5.2, for refusals too."""
    bodies: tuple[Any, ...] = (ask(), {})
    for body in bodies:
        for name in ("bfe9eb29-ab87-4ca3-be83-a1d5d8305716", "any thing: at (all)!"):
            answer = point.post(path, json=body, headers={"X-Request-ID": name})
            assert answer.headers.get_list("x-request-id") == [name]
        assert point.post(path, json=body).headers["x-request-id"].startswith("req_")


def test_the_same_question_has_the_same_answer(point: httpx.Client) -> None:
    """2.6"""
    assert {decide(point) for _ in range(5)} == {True}
    assert {decide(point, subject=BOB, action=WRITE) for _ in range(5)} == {False}


# Batch


@pytest.mark.parametrize(
    ("number", "body", "expected"),
    [
        (
            "3.2.1",
            ask(
                resource=None,
                evaluations=[
                    {"resource": RECORD},
                    {"resource": {"type": "record", "id": "record-2"}},
                ],
            ),
            [True, True],
        ),
        (
            "3.2.2",
            ask(BOB, None, evaluations=[{"action": READ}, {"action": WRITE}]),
            [True, False],
        ),
        (
            "3.2.3",
            ask(
                action=WRITE,
                resource=None,
                evaluations=[
                    {"resource": {**RECORD, "properties": {"status": "active"}}},
                    {"resource": ARCHIVED},
                ],
            ),
            [True, False],
        ),
        (
            "3.2.4",
            ask(None, WRITE, ARCHIVED, evaluations=[{"subject": ALICE}, {"subject": ADMIN_BOB}]),
            [False, True],
        ),
        ("3.2.5", {"evaluations": [ask(), ask(BOB, WRITE)]}, [True, False]),
        (
            "3.2.6",
            ask(
                resource=None,
                context={"time": "2025-06-27T18:03-07:00"},
                evaluations=[
                    {"resource": RECORD},
                    {
                        "resource": {"type": "record", "id": "record-2"},
                        "context": {"time": "2025-06-27T19:00-07:00", "source": "batch-override"},
                    },
                ],
            ),
            [True, True],
        ),
        (
            "3.2.7",
            ask(
                action=WRITE,
                resource={"type": "record"},
                evaluations=[
                    {"resource": {"id": "record-1", "properties": {"status": "active"}}},
                    {"resource": ARCHIVED},
                ],
            ),
            [True, False],
        ),
        ("3.4.1", ask(resource=None, evaluations=[{"resource": RECORD}, {}]), [True, False]),
        (
            "ill-typed",
            ask(resource=None, evaluations=[7, {"resource": "record-1"}, {"resource": RECORD}]),
            [False, False, True],
        ),
    ],
)
def test_batch(point: httpx.Client, number: str, body: Any, expected: list[bool]) -> None:
    assert decide_all(point, body) == expected


@pytest.mark.parametrize("more", [{}, {"evaluations": []}, {"evaluations": None}])
def test_without_evaluations_it_is_one(point: httpx.Client, more: Any) -> None:
    """3.4.2, 3.4.3"""
    found = post(point, MANY, {**ask(), **more})
    assert found["decision"] is True
    assert "evaluations" not in found


def test_semantics(point: httpx.Client) -> None:
    items = [{"action": READ}, {"action": WRITE}, {"action": READ}]
    for semantic, expected in (
        ("execute_all", [True, False, True]),
        ("deny_on_first_deny", [True, False]),
        ("permit_on_first_permit", [True]),
    ):
        body = ask(BOB, None, evaluations=items, options={"evaluations_semantic": semantic})
        assert decide_all(point, body) == expected
        failing = [{}, *items]
        body = ask(BOB, None, evaluations=failing, options={"evaluations_semantic": semantic})
        found = decide_all(point, body)
        assert found == ([False] if semantic == "deny_on_first_deny" else [False, *expected])
    body = ask(BOB, None, evaluations=items, options={"evaluations_semantic": "guess"})
    assert point.post(MANY, json=body).status_code == 400


# Search


def search(point: httpx.Client, target: str, **body: Any) -> list[Any]:
    found = post(point, f"{SEARCH}/{target}", body)
    assert isinstance(found["page"]["next_token"], str)
    results: list[Any] = found["results"]
    return results


USER, ANY_RECORD = {"type": "user"}, {"type": "record"}


def test_subject_search(point: httpx.Client) -> None:
    both = [ALICE, BOB]
    assert search(point, "subject", subject=USER, action=READ, resource=RECORD) == both  # 4.2.1
    with_context = search(
        point, "subject", subject=USER, action=READ, resource=RECORD, context={"time": "now"}
    )
    assert with_context == both  # 4.2.2
    ignored = search(point, "subject", subject=BOB, action=READ, resource=RECORD)
    assert ignored == both
    assert search(point, "subject", subject=USER, action=WRITE, resource=ARCHIVED) == [BOB]  # 4.2.4


def test_resource_search(point: httpx.Client) -> None:
    records = [RECORD, {"type": "record", "id": "record-2"}]
    assert search(point, "resource", subject=ALICE, action=READ, resource=ANY_RECORD) == records
    found = search(point, "resource", subject=ADMIN_BOB, action=WRITE, resource=ANY_RECORD)
    assert found == records[1:]  # 4.3.3


def test_action_search(point: httpx.Client) -> None:
    found = search(point, "action", subject=ALICE, resource=RECORD)
    assert found == [READ, WRITE]  # 4.4.1
    assert search(point, "action", subject=ALICE, resource=RECORD, context={}) == found  # 4.4.2
    found = search(point, "action", subject=ADMIN_BOB, resource=ARCHIVED)
    assert found == [READ, WRITE]  # 4.4.3


def test_pages(point: httpx.Client) -> None:
    """4.5"""
    body = {"subject": USER, "action": READ, "resource": RECORD}
    first = post(point, f"{SEARCH}/subject", {**body, "page": {"limit": 1}})
    assert (first["results"], first["page"]["count"]) == ([ALICE], 1)
    token = first["page"]["next_token"]
    second = post(point, f"{SEARCH}/subject", {**body, "page": {"token": token}})
    assert second == {"results": [BOB], "page": {"next_token": "", "count": 1}}
    for broken in (token[:-2], f"{token}A", "x", "A" * 8000):
        answer = point.post(f"{SEARCH}/subject", json={**body, "page": {"token": broken}})
        assert answer.status_code == 400
    other = {**body, "action": WRITE, "page": {"token": token}}
    assert point.post(f"{SEARCH}/subject", json=other).status_code == 400
    for limit in (0, -1, "1", 1.5):
        answer = point.post(f"{SEARCH}/subject", json={**body, "page": {"limit": limit}})
        assert answer.status_code == 400


def test_nothing_is_found_of_what_is_unknown(point: httpx.Client) -> None:
    nobody = {"type": "user", "id": "nonexistent-user"}
    assert search(point, "action", subject=nobody, resource=RECORD) == []  # 4.6.1
    ships = {"type": "spaceship"}
    assert search(point, "subject", subject=ships, action=READ, resource=RECORD) == []  # 4.6.2
    assert search(point, "resource", subject=ALICE, action=READ, resource=ships) == []
    strange = {"type": "spaceship", "id": "1"}
    assert search(point, "subject", subject=USER, action=READ, resource=strange) == []


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("subject", {"subject": USER, "resource": RECORD}),  # 4.7.1
        ("resource", {"action": READ, "resource": ANY_RECORD}),
        ("action", {"subject": ALICE}),
        ("subject", {"subject": USER, "action": READ, "resource": ANY_RECORD}),  # 4.7.2
        ("resource", {"subject": USER, "action": READ, "resource": ANY_RECORD}),
    ],
)
def test_what_is_no_search_is_refused(point: httpx.Client, target: str, body: Any) -> None:
    assert point.post(f"{SEARCH}/{target}", json=body).status_code == 400


# Discovery


def test_metadata(troth: Server, point: httpx.Client) -> None:
    """6, on the public listener, with its signature checked by PyJWT."""
    trusted = ssl.create_default_context(cafile=str(troth.data / "ca.pem"))
    with httpx.Client(verify=trusted, trust_env=False) as client:
        answer = client.get(f"{troth.url}/.well-known/authzen-configuration")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        found = answer.json()
        assert client.post(f"{troth.url}/.well-known/authzen-configuration").status_code == 405
    assert found["policy_decision_point"] == troth.url
    signed = found.pop("signed_metadata")
    endpoints = {name: url for name, url in found.items() if name.endswith("_endpoint")}
    assert len(endpoints) == 5
    assert all(url.startswith(f"{troth.url}/access/v1/") for url in endpoints.values())
    key = PyJWKClient(f"{troth.url}/oauth/jwks", ssl_context=trusted)
    claims = jwt.decode(
        signed,
        key.get_signing_key_from_jwt(signed).key,
        algorithms=["ES256"],
        issuer=troth.url,
        options={"require": ["iss", "iat", "exp"]},
    )
    assert found.items() <= claims.items()
    assert "signed_metadata" not in claims
    assert jwt.get_unverified_header(signed)["typ"] == "authzen-configuration+jwt"


# Who asks


def test_nobody_gets_no_answer(troth: Server, point: httpx.Client) -> None:
    trusted = ssl.create_default_context(cafile=str(troth.data / "ca.pem"))
    with httpx.Client(verify=trusted, trust_env=False, base_url=troth.url) as client:
        for path in (ONE, MANY, f"{SEARCH}/subject"):
            tries: tuple[dict[str, str], ...] = ({}, {"authorization": "Bearer a.b.c"})
            for headers in tries:
                answer = client.post(path, json=ask(), headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.headers["content-type"].startswith("text/plain")
        assert client.get(ONE).status_code == 405


@pytest.fixture
def call_as(
    troth: Server, point: httpx.Client, programs: Any, run_program: Any, folder: Path
) -> Iterator[Any]:
    """A client with the certificate of a new identity."""
    clients = []

    def call(name: str) -> httpx.Client:
        troth.register(name, *programs.selectors(name))
        place = folder / name
        place.mkdir()
        assert "svids" in run_program(name, troth.endpoint).ask("write", folder=str(place))
        trusted = ssl.create_default_context(cafile=str(troth.data / "ca.pem"))
        trusted.load_cert_chain(place / "svid.pem", place / "svid.key")
        port = urlsplit(troth.mutual).port
        url = f"https://localhost:{port}"
        clients.append(httpx.Client(verify=trusted, trust_env=False, base_url=url))
        return clients[-1]

    yield call
    for client in clients:
        client.close()


def test_a_workload_asks_about_what_it_serves(
    troth: Server, point: httpx.Client, call_as: Any
) -> None:
    body = submit_examples("authzen-certification")
    records = next(d for d in body.documents if d.value["metadata"]["name"] == "records")
    records.value["spec"]["servers"] = ["record-api"]
    troth.call("manifest.apply", body)
    api, other = call_as("record-api"), call_as("bystander")
    assert api.post(ONE, json=ask()).json()["decision"] is True
    unknown = ask(resource={"type": "spaceship", "id": "1"})
    todo = ask(resource={"type": "todo", "id": "1"})
    refusals = [
        client.post(ONE, json=question)
        for client, question in ((api, unknown), (api, todo), (other, ask()), (other, unknown))
    ]
    assert {one.status_code for one in refusals} == {403}
    assert len({one.text for one in refusals}) == 1
    found = api.post(MANY, json={"evaluations": [ask(), todo, unknown]}).json()["evaluations"]
    assert [one["decision"] for one in found] == [True, False, False]
    assert [one["context"].get("error", {}).get("status") for one in found] == [None, 403, 403]
    assert found[1]["context"] == found[2]["context"]
    mine = {"subject": ALICE, "action": READ, "resource": ANY_RECORD}
    assert len(api.post(f"{SEARCH}/resource", json=mine).json()["results"]) == 2
    assert other.post(f"{SEARCH}/resource", json=mine).json()["results"] == []
    metadata = api.get("/.well-known/authzen-configuration").json()
    assert metadata["policy_decision_point"] == str(api.base_url).rstrip("/")
    troth.move("record-api", "quarantine")
    wait_for(lambda: api.post(ONE, json=ask()).status_code == 401, "that it is cut off", 5)


def test_answers_can_be_looked_up(troth: Server, point: httpx.Client) -> None:
    found = post(point, ONE, ask(BOB, WRITE))
    id_ = found["context"]["id"]
    shown = run_troth("decision", "show", id_, "--data", troth.data, "--json")
    assert shown.returncode == 0, shown.stderr
    decision = json.loads(shown.stdout)["decision"]
    assert (decision["subject"], decision["action"], decision["allowed"]) == ("bob", "write", False)
    listed = run_troth("decision", "ls", "--subject", "bob", "--denied", "--data", troth.data)
    assert id_ in listed.stdout, listed.stderr
