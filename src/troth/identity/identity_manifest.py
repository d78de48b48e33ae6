"""A manifest of kind Identity, from its fields to a spec, with what is wrong or doubtful."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from troth.core.errors import Invalid
from troth.core.manifest.kind import ManifestKind
from troth.core.manifest.problem import Node
from troth.identity.client import Client
from troth.identity.fields import SPEC
from troth.identity.identity import IdentitySpec, Kind
from troth.identity.readers import read_path
from troth.identity.selectors import find_weakness


def make_spec(node: Node, values: dict[str, Any]) -> IdentitySpec | None:
    """The spec of a document whose fields are read; None with its errors noted."""
    before = len(node.problems)
    if values["path"] is None:
        values["path"] = _derive_path(node, values["name"])
    expires = values.pop("expires")
    values["expires_at"] = expires if isinstance(expires, datetime) else None
    values["lifetime"] = expires if isinstance(expires, timedelta) else None
    values["client"] = Client(values.pop("client_keys"), values.pop("client_certificates"))
    if node.failed_since(before):
        return None
    spec = IdentitySpec(**values)
    _report_weakness(node, spec)
    return spec


def _derive_path(node: Node, name: str) -> str:
    path = f"/{name}"
    inner = Node(path, ("metadata", "name"), node.document, node.limits, node.now, node.problems)
    try:
        read_path(inner)
    except Invalid as error:
        inner.error(error.detail)
    return path


def _report_weakness(node: Node, spec: IdentitySpec) -> None:
    section = node.section("spec")
    if not spec.selectors and spec.kind is not Kind.DEVICE:  # that may enrol with a code
        section.warn("no selectors: no process can obtain this identity from an agent.")
    elif (weakness := find_weakness(spec.selectors)) is not None:
        section.child("selectors").warn(weakness)
    if spec.expires_at is None and spec.lifetime is None:
        days = node.limits.lifetime_default.days
        section.warn(f"no 'expires': it ends {days} days after its registration.")


IDENTITY = ManifestKind("Identity", SPEC, make_spec)
