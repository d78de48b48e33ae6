"""Messages for sinks, and how they are known again at a receiver."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from troth.drivers.sinks import Message

T = TypeVar("T", int, str)
NOW = datetime(2026, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)


def make_message(number: int, **changes: Any) -> Message:
    """A message with `number` in it; its text has what syslog, CEF and JSON must take care of."""
    content = {
        "time": 1_767_268_800_000 + number,
        "metadata": {"uid": f"example.org:{number}", "sequence": number},
        "message": f'[{number}] "Größe" \\ a=b | \u2028 \U0001f511\n',
        "padding": "x" * (number % 7),
    }
    values: dict[str, Any] = {
        "id": f"{number}-{number:016x}",
        "source": "journal",
        "at": NOW + timedelta(milliseconds=number),
        "type": "identity.registered",
        "severity": 1 + number % 5,
        "content": json.dumps(content, ensure_ascii=False).encode(),
    }
    return Message(**values | changes)


def make_messages(count: int, start: int = 1) -> list[Message]:
    """Several, in order."""
    return [make_message(number) for number in range(start, start + count)]


def read_number(content: bytes | str | dict[str, Any]) -> int:
    """The number that a message was made with; whatever else it must hold is there too."""
    found = content if isinstance(content, dict) else json.loads(content)
    number = int(found["metadata"]["sequence"])
    assert found == json.loads(make_message(number).content), "a message was altered"
    return number


def drop_repeats(names: Iterable[T]) -> list[T]:
    """Each where it stands first."""
    return list(dict.fromkeys(names))
