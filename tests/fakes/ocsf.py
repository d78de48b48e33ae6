"""A judge of OCSF events: the schema's own classes, objects and types, read as it says they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parents[1] / "vectors" / "ocsf" / "schema-1.5.0.json"


@cache
def read_schema() -> dict[str, Any]:
    """Classes, objects and types of OCSF 1.5.0."""
    read: dict[str, Any] = json.loads(SCHEMA.read_text())
    return read


def list_faults(event: Mapping[str, Any]) -> list[str]:
    """What is wrong with an event by the schema: where, and what. Empty if it is valid."""
    classes = {one["uid"]: one for one in read_schema()["classes"].values()}
    found = classes.get(event.get("class_uid"))
    if found is None:
        return [f"class_uid: {event.get('class_uid')} is no class"]
    faults = list(_judge(found, event, "", frozenset(event["metadata"].get("profiles", ()))))
    if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
        faults.append("type_uid: isn't the class and the activity")
    if event["category_uid"] != event["class_uid"] // 1000:
        faults.append("category_uid: isn't the class's")
    unknown = set(event["metadata"].get("profiles", ())) - set(found["profiles"])
    return faults + [f"metadata.profiles: {one} isn't one of the class" for one in sorted(unknown)]


def _judge(
    kind: Mapping[str, Any], value: Mapping[str, Any], where: str, profiles: frozenset[str]
) -> Iterator[str]:
    if kind["name"] == "object":  # what is unmapped may be anything
        return
    attributes = kind["attributes"]
    for name, attribute in attributes.items():
        applies = attribute.get("profile") is None or attribute["profile"] in profiles
        if name in value and not applies:
            yield f"{where}{name}: is of the profile {attribute['profile']}"
        if name not in value and applies and attribute["requirement"] == "required":
            yield f"{where}{name}: is required"
    for name, one in value.items():
        if name not in attributes:
            yield f"{where}{name}: is no attribute of {kind['name']}"
        else:
            yield from _judge_attribute(attributes[name], one, f"{where}{name}", profiles)
    for rule, names in kind.get("constraints", {}).items():
        count = sum(name in value for name in names)
        if (count < 1) if rule == "at_least_one" else (count != 1):
            yield f"{where or 'event'}: {rule} of {names}"


def _judge_attribute(
    attribute: Mapping[str, Any], value: Any, where: str, profiles: frozenset[str]
) -> Iterator[str]:
    if attribute.get("is_array"):
        if not isinstance(value, list):
            yield f"{where}: is no array"
            return
        values = value
    else:
        values = [value]
    for one in values:
        if attribute["type"] == "object_t":
            if not isinstance(one, dict):
                yield f"{where}: is no object"
            else:
                kind = read_schema()["objects"][attribute["object_type"]]
                yield from _judge(kind, one, f"{where}.", profiles)
        elif fault := _judge_scalar(attribute["type"], one):
            yield f"{where}: {fault}"
        elif "enum" in attribute and str(one) not in attribute["enum"]:
            yield f"{where}: {one} isn't one of its values"


def _judge_scalar(type_: str, value: Any) -> str:
    types = read_schema()["types"]
    if type_ == "json_t":
        json.dumps(value)
        return ""
    base = types[type_].get("type", type_)
    base = types[base].get("type", base)
    wanted: Any = {"string_t": str, "integer_t": int, "long_t": int, "boolean_t": bool}[base]
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        return f"{value!r} is no {type_}"
    kind = types[type_]
    if "regex" in kind and not re.search(kind["regex"], value):
        return f"{value!r} doesn't look like {type_}"
    if "max_len" in kind and len(value) > kind["max_len"]:
        return f"is longer than a {type_}"
    if "range" in kind and not kind["range"][0] <= value <= kind["range"][1]:
        return f"{value} is outside of {kind['range']}"
    return ""
