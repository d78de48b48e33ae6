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


class AccessChange(Struct, frozen=True, kw_only=True):
    """Access that `turn` says appears (gains), disappears (loses) or has another condition
    (changes). `before` and `after` are always, conditional or never."""

    turn: str
    subject_type: str
    subject: str
    resource: str
    actions: list[str]
    before: str
    after: str
    condition: str = ""
    condition_before: str = ""
    words: str = ""


class ManifestPlan(Struct, frozen=True, kw_only=True):
    """What applying would do, or did when `applied`; `warnings` never stop it.

    `access` lists whose access changes, `access_more` counts what isn't listed, and unless
    `access_complete` there was too much to look at all of it. A change that needs somebody else's
    approval is `held` under that number, for the `reasons` that are told; a plan has the reasons
    alone.
    """

    changes: list[ManifestChange]
    warnings: list[str] = []
    applied: bool = False
    access: list[AccessChange] = []
    access_more: int = 0
    access_complete: bool = True
    held: int | None = None
    reasons: list[str] = []
