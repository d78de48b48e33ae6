from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.unit.server.http.stage import in_loop, open_stage
from troth.policy.permissions import ROLES
from troth.server.http import openapi
from troth.server.http.openapi import render_openapi
from troth.wire.api.routes import ROUTES


def operations(document: dict[str, Any]) -> dict[str, tuple[str, str, dict[str, Any]]]:
    return {
        operation["operationId"]: (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


@in_loop
async def test_the_document_is_made_once_and_not_for_each_who_asks(tmp_path: Path, monkeypatch):
    made = []

    def render(routes):
        made.append(routes)
        return render_openapi(routes)

    monkeypatch.setattr(openapi, "render_openapi", render)
    async with open_stage(tmp_path) as stage:
        assert made == [], "nobody has asked yet"
        client = await stage.public_client()
        first, second = [await client.get("/v1/openapi.json") for _ in range(2)]
        assert first.status_code == 200
        assert first.json() == second.json() == json.loads(json.dumps(render_openapi(ROUTES)))
        assert len(made) <= 1, "an earlier test may have asked"


def test_every_route_of_the_table_is_described():
    found = operations(render_openapi(ROUTES))
    assert set(found) == {route.name for route in ROUTES}
    for route in ROUTES:
        path, method, operation = found[route.name]
        assert (path, method.upper()) == (route.path, route.method)
        assert operation["summary"] == route.summary
        content = operation["responses"]["200"]["content"]
        assert set(content) == {"application/jsonl" if route.stream else "application/json"}
        in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert in_path == set(route.path_fields)
        assert ("requestBody" in operation) is (route.method != "GET")


def test_the_document_has_the_shape_that_openapi_3_1_demands():
    """OpenAPI 3.1.0, sections 4.8.1 (root), 4.8.10 (operation), 4.8.12 (parameter)."""
    document = render_openapi(ROUTES)
    assert document["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(document["info"])
    schemas = document["components"]["schemas"]
    responses = document["components"]["responses"]
    for reference in references(document):
        _, place, kind, name = reference.split("/")
        assert place == "components"
        assert name in {"schemas": schemas, "responses": responses}[kind], reference
    for _, _, operation in operations(document).values():
        names = [(p["name"], p["in"]) for p in operation["parameters"]]
        assert len(names) == len(set(names))
        for parameter in operation["parameters"]:
            assert parameter["in"] in ("path", "query")
            assert parameter["required"] or parameter["in"] == "query"
            assert parameter["schema"]
        for status, response in operation["responses"].items():
            assert status.isdecimal()
            assert "description" in response or "$ref" in response
    for response in responses.values():
        assert set(response["content"]) == {"application/problem+json"}


def test_bodies_leave_out_what_stands_in_the_path_and_say_what_is_required():
    found = operations(render_openapi(ROUTES))
    _, _, suspend = found["identity.suspend"]
    body = suspend["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"reason"}
    assert schema["required"] == ["reason"]
    assert schema["additionalProperties"] is False
    assert body["required"] is True
    _, _, report = found["node.report"]
    assert report["requestBody"]["required"] is False
    _, _, listing = found["identity.ls"]
    limit = next(p for p in listing["parameters"] if p["name"] == "limit")
    assert limit == {
        "name": "limit",
        "in": "query",
        "required": False,
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    }


def test_who_may_call_stands_with_each_operation():
    for name, (_, _, operation) in operations(render_openapi(ROUTES)).items():
        assert operation["x-troth-roles"]
        assert all(name in ROLES[role] for role in operation["x-troth-roles"])


@in_loop
async def test_anybody_may_read_it(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.public_client()
        answer = await client.get("/v1/openapi.json")
        assert answer.status_code == 200
        assert answer.json() == json.loads(json.dumps(render_openapi(ROUTES)))
