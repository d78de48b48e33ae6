"""Sinks: where events and decisions go, such as a SIEM. One file a driver, loaded when configured.

Delivery is at least once and in order: a batch is done when the receiver has it, and whoever calls
sends again from the first message that it may not have. So each message has an id by which a
receiver knows what it has already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from troth.core.clock import Clock
from troth.core.errors import Refused, Unavailable

BUILT_IN: dict[str, str] = {
    "elastic": "troth.drivers.sinks.elastic:open_sink",
    "file": "troth.drivers.sinks.file:open_sink",
    "kafka": "troth.drivers.sinks.kafka:open_sink",
    "nats": "troth.drivers.sinks.nats:open_sink",
    "otlp": "troth.drivers.sinks.otlp:open_sink",
    "splunk": "troth.drivers.sinks.splunk:open_sink",
    "syslog": "troth.drivers.sinks.syslog:open_sink",
}
"""Name → ``module:factory``; loaded only when configured."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading a receiver's JSON raises where it is none, or another one."""
TIMEOUT_SECONDS = 15.0
"""How long a driver waits for one step: a connection, an answer, room to write."""


class Format(StrEnum):
    """How a message is written down."""

    OCSF = "ocsf"
    CEF = "cef"


@dataclass(frozen=True, slots=True)
class Message:
    """One event or decision, as a receiver gets it.

    `id` is the same whenever it is sent again, and no other message ever has it: at most 128
    printable characters of ASCII, no space. `source` is ``journal``, or ``decisions/SERVER``; the
    messages of one are in order. `at` is when it happened, in UTC; `type` the event's type, or
    ``decision``; `severity` 1 to 5, as OCSF's ``severity_id``. `content` is one line of UTF-8: a
    JSON object or CEF.
    """

    id: str
    source: str
    at: datetime
    type: str
    severity: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """Where one sink delivers to, and how.

    `url` holds no secret; what it must look like depends on the driver. `user` goes with the
    secret where a receiver wants both. `authorities`, `certificate` and `key` are PEM files for
    TLS: read whenever a connection is opened, so they may be renewed. `host` is this installation's
    name for receivers, `version` troth's. `rotate_bytes` and `keep_files` are for files.
    """

    name: str
    url: str
    format: Format = Format.OCSF
    user: str = ""
    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    host: str = "localhost"
    version: str = "0"
    rotate_bytes: int = 256 << 20
    keep_files: int = 0
    timeout: float = field(default=TIMEOUT_SECONDS)

    @property
    def where(self) -> str:
        """The URL as it may be shown: without user and query, should somebody have put them in."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


class Away(Unavailable):
    """The receiver can't take it now, or not as it is configured: to be sent again later, as it is.

    `detail` names the receiver's reason, and no secret.
    """


class Slow(Away):
    """The receiver took too long, so it may be too slow for so much at once."""


class Rejected(Refused):
    """The receiver will never take some of the batch.

    `messages` maps places in the batch, from 0 on, to the receiver's reasons: all others of the
    batch are delivered. None says that it took nothing, because of something in the batch that it
    didn't name: parts of it may be taken.
    """

    def __init__(self, detail: str, messages: Mapping[int, str] | None = None) -> None:
        super().__init__(detail)
        self.messages = messages


class Sink(Protocol):
    """One receiver. Belongs to one task at a time; connections are made when they are needed."""

    async def deliver(self, batch: Sequence[Message]) -> None:
        """Return once the receiver has the whole batch, in its order; the batch isn't empty.

        Raises `Away`, such as `Slow`, or `Rejected`. After `Away`, or when cancelled, part of it
        may be there.
        """
        ...

    async def close(self) -> None:
        """Close what is open; again is no error. What is under way is given up."""
        ...


OpenSink = Callable[[Target, str, Clock], Sink]
"""A driver's factory: where to, the secret that goes with it ("" for none), and the time."""


def load_driver(name: str) -> OpenSink:
    """The factory of the driver called `name`, imported now."""
    module, _, factory = BUILT_IN[name].partition(":")
    made: OpenSink = getattr(import_module(module), factory)
    return made
