"""The editor's schema: it has what the parser has, and agrees with it on the patterns."""

import json
import re

import pytest

from tests.fakes.identities import NOW
from troth.core.manifest.field import METADATA
from troth.core.manifest.problem import Limits, PlainDocument
from troth.identity.fields import SPEC, TTL
from troth.identity.identity_manifest import IDENTITY
from troth.manifests.reading import parse_manifests
from troth.manifests.schema import render_kind

SCHEMA = render_kind(IDENTITY)
SPEC_SHAPES = SCHEMA["properties"]["spec"]["properties"]


def walk(schema):
    yield schema
    for key in ("properties",):
        for inner in schema.get(key, {}).values():
            yield from walk(inner)
    for key in ("items", "propertyNames", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from walk(schema[key])


def test_it_is_json_and_names_its_dialect():
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_field_of_the_table_is_there_with_its_description():
    for fields, shape in (
        (METADATA, SCHEMA["properties"]["metadata"]),
        (SPEC, SCHEMA["properties"]["spec"]),
        (TTL, SPEC_SHAPES["ttl"]),
    ):
        assert set(shape["properties"]) == {field.name for field in fields}
        assert shape.get("required", []) == [field.name for field in fields if field.required]
        assert shape["additionalProperties"] is False
        for field in fields:
            assert shape["properties"][field.name]["description"] == field.description
            assert len(field.description) > 20


def test_every_pattern_compiles_and_is_anchored():
    patterns = [shape["pattern"] for shape in walk(SCHEMA) if "pattern" in shape]
    assert len(patterns) > 10
    for pattern in patterns:
        re.compile(pattern)
        assert pattern.startswith("^")


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("environment", ["prod", "a", "a.b_c-1", "Prod", "-a", "a-", "a b"]),
        ("path", ["/a", "/a/b", "/a.b_c-D", "a", "/", "/a/", "/a//b", "/a b", "/é"]),
        ("expires", ["2027-06-30T00:00:00Z", "90d", "2027-06-30t00:00:00+02:00", "0d", "x", "1h"]),
    ],
)
def test_schema_and_parser_agree_on_texts(field, texts):
    for text in texts:
        fits = re.search(SPEC_SHAPES[field]["pattern"], text) is not None
        assert fits == is_accepted({field: text}), text


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("nodes", ["*", "local", "a.b", "Local", "a_b"]),
        ("dnsNames", ["a.example.org", "xn--bcher-kva.example", "*.a", "A.b", "a_b", "a..b"]),
        ("selectors", ["unix:uid:1", "k8s:ns:x", "unix"]),
    ],
)
def test_schema_and_parser_agree_on_items(field, texts):
    for text in texts:
        fits = re.search(SPEC_SHAPES[field]["items"]["pattern"], text) is not None
        assert fits == is_accepted({field: [text]}), text


def test_schema_and_parser_agree_on_durations():
    for text in ["1h", "5m", "1h30m", "90s", "", "h", "1", "1m1h", "1 h"]:
        fits = re.search(SPEC_SHAPES["ttl"]["properties"]["jwt"]["pattern"], text) is not None
        assert fits == is_accepted({"ttl": {"x509": text}}), text


def is_accepted(fields: dict) -> bool:
    value = {
        "apiVersion": "troth/v1",
        "kind": "Identity",
        "metadata": {"name": "a"},
        "spec": {"kind": "job", "owner": "o", "purpose": "p", **fields},
    }
    return not parse_manifests([PlainDocument(value)], Limits(), NOW).errors
