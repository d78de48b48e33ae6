"""Manifests on the wire: plain documents in, a plan in words out."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class ManifestDocument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One manifest document and where it came from, for messages."""

    value: Any
    source: str = ""
    line: int = 0


class SubmitManifests(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole desired state; `prune` retires managed identities that are not in it."""

    documents: list[ManifestDocument]
    prune: bool = False


class ManifestChange(Struct, frozen=True, kw_only=True):
    """One change in words: `action` is add, change, remove or keep."""

    action: str
    kind: str
    name: str
    words: list[str]


class ManifestPlan(Struct, frozen=True, kw_only=True):
    """What applying would do, or did when `applied`; `warnings` never stop it."""

    changes: list[ManifestChange]
    warnings: list[str] = []
    applied: bool = False
