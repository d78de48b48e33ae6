"""Syslog messages, and how they follow each other on a TLS connection.

Source: RFC 5424 (the message), RFC 5425 (octet counting over TLS).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

NIL = "-"
LOG_AUDIT = 13
"""The facility (RFC 5424, section 6.2.1)."""
LARGEST_SURE = 8192
"""Bytes of a message that receivers should be able to take (RFC 5425, section 4.3.1)."""
LARGEST_HEAD = 512
"""Bytes before the content: more than the fields of `render_message` can have."""

_SEVERITIES = {1: 6, 2: 5, 3: 4, 4: 3, 5: 2}
"""OCSF's ``severity_id`` → syslog's severity: informational, notice, warning, error, critical."""
_BOM = b"\xef\xbb\xbf"
_UNPRINTABLE = re.compile(r"[^!-~]")
_UNNAMEABLE = re.compile(r"[^!-~]|[=\]\"]")


@dataclass(frozen=True, slots=True)
class SyslogMessage:
    """One message. `severity` is OCSF's, 1 to 5; `content` UTF-8.

    `data` are structured data elements by their names, which must be registered or end in ``@`` and
    an enterprise number (section 6.3.2).
    """

    at: datetime
    severity: int
    host: str
    app: str
    kind: str
    content: bytes
    data: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def render_message(message: SyslogMessage) -> bytes:
    """The message's bytes (RFC 5424, section 6). What a field can't hold is replaced or cut."""
    priority = LOG_AUDIT * 8 + _SEVERITIES.get(message.severity, 5)
    at = message.at.astimezone(UTC)
    words = (
        f"<{priority}>1",
        f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}Z",
        _render_word(message.host, 255),
        _render_word(message.app, 48),
        NIL,
        _render_word(message.kind, 32),
        render_data(message.data),
    )
    head = " ".join(words).encode()
    # Text that isn't ASCII must begin with the byte order mark (section 6.4).
    mark = b"" if message.content.isascii() else _BOM
    return b"%b %b%b" % (head, mark, message.content)


def render_data(data: Mapping[str, Mapping[str, str]]) -> str:
    """Structured data (section 6.3): its values may be any text."""
    found = []
    for name, parameters in data.items():
        texts = [f' {_render_name(key)}="{_escape(value)}"' for key, value in parameters.items()]
        found.append(f"[{_render_name(name)}{''.join(texts)}]")
    return "".join(found) or NIL


def frame_message(message: bytes) -> bytes:
    """The message with its length before it (RFC 5425, section 4.3)."""
    return b"%d %b" % (len(message), message)


def _render_word(text: str, most: int) -> str:
    return _UNPRINTABLE.sub("?", text)[:most] or NIL


def _render_name(text: str) -> str:
    return _UNNAMEABLE.sub("?", text)[:32] or "?"


def _escape(value: str) -> str:
    """Section 6.3.3: three characters have a backslash before them, and no others."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    # A lone surrogate has no UTF-8.
    return escaped.encode("utf-8", errors="replace").decode()
