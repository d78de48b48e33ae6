"""The OpenAPI 3.1 document of the API, from the table of routes and the types on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from troth import __version__
from troth.policy.permissions import ROLES
from troth.wire.api.problems import MEDIA_TYPE, Problem
from troth.wire.api.routes import JSON_LINES, Route

_REF = "#/components/schemas/{name}"
PROBLEM_STATUSES = {
    400: "The request is malformed.",
    401: "The caller is unknown.",
    403: "The caller may not do this.",
    404: "What is named doesn't exist.",
    409: "The present state doesn't allow it.",
    413: "The request is too large.",
    429: "Too many requests.",
    500: "Something broke; the log has the reason.",
    503: "Something that must be there is away; come back later.",
}


def render_openapi(routes: Iterable[Route], origin: str = "") -> dict[str, Any]:
    """The document as plain values; `origin` is the server's URL, or "" for the document's own."""
    table = list(routes)
    types = [Problem, *(route.request for route in table), *(route.result for route in table)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    results = dict(zip((route.name for route in table), schemas[1 + len(table) :], strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        item = paths.setdefault(route.path, {})
        item[route.method.lower()] = _describe_route(route, components, results[route.name])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "troth",
            "version": __version__,
            "summary": "Identities of machines: who they are, what they may do, and their end.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": origin or "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                str(status): {
                    "description": words,
                    "content": {MEDIA_TYPE: {"schema": schemas[0]}},
                }
                for status, words in PROBLEM_STATUSES.items()
            },
        },
    }


def _describe_route(
    route: Route, components: Mapping[str, Any], result: Mapping[str, Any]
) -> dict[str, Any]:
    request = components[route.request.__name__]
    properties: dict[str, Any] = request["properties"]
    required = set(request.get("required", ()))
    media_type = JSON_LINES if route.stream else "application/json"
    described: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.name.partition(".")[0]],
        "x-troth-roles": sorted(role for role, names in ROLES.items() if route.name in names),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": properties[name]}
            for name in route.path_fields
        ],
        "responses": {
            "200": {
                "description": "One value a line." if route.stream else "Done.",
                "content": {media_type: {"schema": result}},
            },
            **{
                str(status): {"$ref": f"#/components/responses/{status}"}
                for status in PROBLEM_STATUSES
            },
        },
    }
    rest = {name: schema for name, schema in properties.items() if name not in route.path_fields}
    if route.method == "GET":
        described["parameters"] += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in rest.items()
        ]
    else:
        described["requestBody"] = {
            "required": bool(required - set(route.path_fields)),
            "content": {"application/json": {"schema": _describe_body(request, rest)}},
        }
    return described


def _describe_body(request: Mapping[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    """The request's schema without its path fields."""
    required = [name for name in request.get("required", ()) if name in rest]
    return {**request, "properties": dict(rest), "required": required}
