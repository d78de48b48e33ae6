"""Following a server: values as they come, over its restarts, and waits that Ctrl-C ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from troth.cli.terminal import Terminal
from troth.cli.words import clean_text
from troth.core.errors import TrothError

RETRY_SECONDS = 1.0
PATIENCE = 60
"""How many times in a row a lost server is tried again; one that never answered isn't."""


def pause(seconds: float) -> None:
    """Wait; Ctrl-C ends it."""
    threading.Event().wait(seconds)


def follow_stream(
    terminal: Terminal,
    name: str,
    asked: msgspec.Struct,
    field: str,
    find_position: Callable[[Any], int | None],
) -> Iterator[Any]:
    """Values of the subscription `name`, heartbeats among them; a server that went away is waited
    for.

    `field` of the request is the position after which it goes on: the last one that
    `find_position` found in a value. Raises what isn't to be tried again.
    """
    failures = PATIENCE
    while True:
        try:
            with terminal.connect() as client:
                for value in client.stream(name, asked):
                    failures = 0
                    yield value
                    reached = find_position(value)
                    if reached is not None:
                        asked = msgspec.structs.replace(asked, **{field: reached})
        except TrothError as error:
            if not error.retryable or failures >= PATIENCE:
                raise
            failures += 1
            begin = getattr(asked, field)
            where = f" from position {begin}" if begin >= 0 else ""
            terminal.say(f"{clean_text(error.detail)} Trying again{where}.")
            pause(RETRY_SECONDS)
