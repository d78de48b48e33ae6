"""JSON Schema of manifests, for editors: made from the table that the parser reads by.

It can't say everything (a time in the past, a name that is there twice), so what it accepts may
still be refused with a reason; what the parser accepts it accepts too.
"""

from __future__ import annotations

from typing import Any

from troth.core.manifest.field import METADATA, Field
from troth.core.manifest.kind import API_VERSION, ManifestKind
from troth.core.manifest.problem import Limits
from troth.manifests.reading import KINDS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def manifest_schema(limits: Limits | None = None) -> dict[str, Any]:
    """The JSON Schema of one manifest of any kind."""
    kinds = [render_kind(kind, limits) for kind in KINDS]
    return {
        "$schema": DIALECT,
        "$id": "urn:troth:schema:v1:manifest",
        "title": "troth manifest",
        "oneOf": [{k: v for k, v in kind.items() if k != "$schema"} for kind in kinds],
    }


def render_kind(kind: ManifestKind, limits: Limits | None = None) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one manifest of that kind."""
    ceilings = limits if limits is not None else Limits()
    return {
        "$schema": DIALECT,
        "$id": f"urn:troth:schema:v1:{kind.name.lower()}",
        "title": f"troth manifest: {kind.name}",
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind.name},
            "metadata": _render_members(METADATA, ceilings),
            "spec": _render_members(kind.spec, ceilings),
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
