"""Policies: what is permitted or forbidden beyond the permissions of roles, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from troth.policy.rule import Effect, Subjects


class BuiltIn(StrEnum):
    """Forbids that hold without being written down, and that a policy can relax."""

    ENVIRONMENTS = "environments"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a manifest of kind Policy says.

    No `actions` or `resources` stand for any. `when` is the condition as the manifest writes it.
    A policy in Cedar has its text in `cedar`, and nothing of the others. What it `relaxes` doesn't
    forbid what it permits. It isn't there any more from `expires_at` on.
    """

    name: str
    labels: Mapping[str, str]
    owner: str
    purpose: str
    effect: Effect
    subjects: Subjects
    actions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    when: tuple[Any, ...] = ()
    cedar: str = ""
    relaxes: tuple[BuiltIn, ...] = ()
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """What a manifest of kind Segment says: a name for networks (CIDR), as conditions use it."""

    name: str
    labels: Mapping[str, str]
    owner: str
    purpose: str
    networks: tuple[str, ...]
