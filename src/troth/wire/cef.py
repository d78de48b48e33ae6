"""CEF, ArcSight's Common Event Format: what SIEMs read that don't read OCSF.

Source: ArcSight Common Event Format (CEF) Implementation Standard: "CEF Format", "Character
Encoding" and "Extension Dictionary", whose lengths cut what is longer. It has no place for all
that an event says: whoever wants the whole event takes OCSF.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

VERSION = 0
_SEVERITIES = {1: 1, 2: 3, 3: 5, 4: 8, 5: 10}
"""OCSF's ``severity_id`` → Low (0-3), Medium (4-6), High (7-8), Very-High (9-10)."""
_CONTROL = re.compile(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]")
_LENGTHS = {
    "act": 63,
    "c6a2": 45,
    "cat": 1023,
    "cs1": 4000,
    "cs2": 4000,
    "cs3": 4000,
    "cs4": 4000,
    "cs5": 4000,
    "cs6": 4000,
    "deviceExternalId": 255,
    "duid": 1023,
    "duser": 1023,
    "dvchost": 100,
    "externalId": 40,
    "msg": 1023,
    "outcome": 63,
    "reason": 1023,
    "suid": 1023,
    "suser": 1023,
}
_encoder = msgspec.json.Encoder(order="deterministic")


def render_cef(document: Mapping[str, Any], host: str) -> bytes:
    """An OCSF event, as `troth.wire.ocsf` renders it, in CEF; one line of UTF-8."""
    metadata = document["metadata"]
    product = metadata["product"]
    head = (
        product["vendor_name"],
        product["name"],
        product["version"],
        metadata["event_code"],
        f"{document['class_name']}: {document['activity_name']}",
        str(_SEVERITIES.get(document["severity_id"], 5)),
    )
    extension = _list_extension(document, host)
    pairs = (f"{key}={escape_value(_cut(key, value))}" for key, value in extension.items() if value)
    line = f"CEF:{VERSION}|{'|'.join(map(escape_header, head))}|{' '.join(pairs)}"
    return line.encode("utf-8", errors="replace")


def escape_header(text: str) -> str:
    """A field of the header: backslash and pipe have a backslash before them; it is one line."""
    plain = _CONTROL.sub(" ", text).replace("\r", " ").replace("\n", " ")
    return plain.replace("\\", "\\\\").replace("|", "\\|")


def escape_value(text: str) -> str:
    """A value of the extension: backslash, equals sign and line ends are escaped."""
    plain = _CONTROL.sub(" ", text).replace("\\", "\\\\").replace("=", "\\=")
    return plain.replace("\r", "\\r").replace("\n", "\\n")


def _list_extension(document: Mapping[str, Any], host: str) -> dict[str, str]:
    metadata, unmapped = document["metadata"], document.get("unmapped", {})
    actor = document.get("actor", {}).get("user", {})
    target = document.get("user") or document.get("entity") or _first(document, "resources")
    return {
        "rt": str(document["time"]),
        "externalId": str(metadata["uid"]),
        "deviceExternalId": str(metadata.get("tenant_uid", "")),
        "dvchost": host,
        "cat": document["class_name"],
        "act": str(document.get("api", {}).get("operation") or metadata["event_code"]),
        "outcome": str(document.get("status", "")).lower(),
        "reason": str(document.get("status_detail", "")),
        "suid": str(actor.get("uid", "")),
        "suser": str(actor.get("name", "")),
        "duid": str(target.get("uid", "")),
        "duser": str(target.get("name", "")),
        **_place_source(document.get("src_endpoint", {})),
        **_label("cs1", "requestId", str(metadata.get("correlation_uid", ""))),
        **_label("cs2", "resource", str(unmapped.get("resource", ""))),
        **_label("cs3", "task", str(unmapped.get("task", ""))),
        **_label("cs4", "askedBy", str(unmapped.get("asked_by", ""))),
        **_label("cs5", "policies", " ".join(_list_policies(document))),
        **_label("cs6", "detail", _encoder.encode(unmapped.get("detail", {})).decode()),
        "msg": str(document.get("message", "")),
    }


def _place_source(endpoint: Mapping[str, Any]) -> dict[str, str]:
    """The address it came from: the dictionary has other keys for IPv6."""
    address = str(endpoint.get("ip", ""))
    port = {"spt": str(endpoint["port"])} if "port" in endpoint else {}
    if not address:
        return {}
    if ":" in address:
        return {**_label("c6a2", "Source IPv6 Address", address), **port}
    return {"src": address, **port}


def _list_policies(document: Mapping[str, Any]) -> list[str]:
    found = (one.get("policy", {}).get("uid") for one in document.get("authorizations", ()))
    return [str(uid) for uid in found if uid]


def _first(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: list[Mapping[str, Any]] = document.get(name) or [{}]
    return found[0]


def _label(key: str, name: str, value: str) -> dict[str, str]:
    return {key: value, f"{key}Label": name} if value else {}


def _cut(key: str, value: str) -> str:
    return value[: _LENGTHS.get(key, len(value))]
