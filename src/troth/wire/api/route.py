"""What a route of the API is; the table of them all stands in `troth.wire.api.routes`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

_FIELD = re.compile(r"{(\w+)}")


@dataclass(frozen=True, slots=True)
class Route:
    """How one operation or subscription is reached under ``/v1``.

    `result` is the type of the answer, for a stream of one line. `path_fields` are named in
    `path` in braces.
    """

    name: str
    method: str
    path: str
    request: type[msgspec.Struct]
    result: Any
    summary: str
    stream: bool = False

    @property
    def path_fields(self) -> tuple[str, ...]:
        """The request's fields that stand in the path."""
        return tuple(_FIELD.findall(self.path))
