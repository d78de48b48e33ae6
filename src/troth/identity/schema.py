"""JSON Schema of manifests, for editors: made from the table that the parser reads by.

It can't say everything (a time in the past, a name that is there twice), so what it accepts may
still be refused with a reason; what the parser accepts it accepts too.
"""

from __future__ import annotations

from typing import Any

from troth.identity.fields import METADATA, SPEC, Field
from troth.identity.manifest import API_VERSION, KIND, TEMPLATE
from troth.identity.problem import Limits
from troth.identity.template_fields import TEMPLATE_SPEC

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def identity_schema(limits: Limits | None = None) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one manifest of kind Identity."""
    return _render_kind(KIND, SPEC, limits)


def template_schema(limits: Limits | None = None) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one manifest of kind Template."""
    return _render_kind(TEMPLATE, TEMPLATE_SPEC, limits)


def manifest_schema(limits: Limits | None = None) -> dict[str, Any]:
    """The JSON Schema of one manifest of any kind."""
    kinds = (identity_schema(limits), template_schema(limits))
    return {
        "$schema": DIALECT,
        "$id": "urn:troth:schema:v1:manifest",
        "title": "troth manifest",
        "oneOf": [{k: v for k, v in kind.items() if k != "$schema"} for kind in kinds],
    }


def _render_kind(kind: str, spec: tuple[Field, ...], limits: Limits | None) -> dict[str, Any]:
    ceilings = limits if limits is not None else Limits()
    return {
        "$schema": DIALECT,
        "$id": f"urn:troth:schema:v1:{kind.lower()}",
        "title": f"troth manifest: {kind}",
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind},
            "metadata": _render_members(METADATA, ceilings),
            "spec": _render_members(spec, ceilings),
        },
    }


def _render_members(fields: tuple[Field, ...], limits: Limits) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {field.name: _render_field(field, limits) for field in fields},
    }
    required = [field.name for field in fields if field.required]
    return {**shape, "required": required} if required else shape


def _render_field(field: Field, limits: Limits) -> dict[str, Any]:
    if field.members:
        return {"description": field.description, **_render_members(field.members, limits)}
    return {"description": field.description, **field.schema(limits)}
