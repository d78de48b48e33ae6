"""Words that every line of the log has while one exchange is served, such as its request id.

One mapping for all of them: to bind each by itself costs more than many an answer does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_WORDS: ContextVar[Mapping[str, str] | None] = ContextVar("troth.log.words", default=None)


@contextmanager
def log_words(words: Mapping[str, str]) -> Iterator[None]:
    """Have these words in the lines of this context, in place of any others."""
    token = _WORDS.set(words)
    try:
        yield
    finally:
        _WORDS.reset(token)


def add_words(logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog's that adds them; what the line says itself stays."""
    words = _WORDS.get()
    if words is not None:
        for name, text in words.items():
            line.setdefault(name, text)
    return line
