"""A kind of manifest: its name, its fields, and what its domain makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from troth.core.manifest.field import Field
from troth.core.manifest.problem import Node

API_VERSION = "troth/v1"


@dataclass(frozen=True, slots=True)
class ManifestKind:
    """One kind. `make` gets the document and its values by attribute, all of them read without an
    error; it returns the domain's value, or None with what is wrong noted."""

    name: str
    spec: tuple[Field, ...]
    make: Callable[[Node, dict[str, Any]], Any]
