"""Patterns in which ``*`` stands for any characters, none included. Nothing else is special, so
matching takes linear time and no pattern can explode."""

from __future__ import annotations

ANY = "*"


def matches(pattern: str, text: str) -> bool:
    """Whether `text` as a whole fits `pattern`."""
    if ANY not in pattern:
        return pattern == text
    first, *middle, last = pattern.split(ANY)
    if len(text) < len(first) + len(last):
        return False
    if not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def fill(pattern: str) -> str:
    """The shortest text that fits `pattern`."""
    return pattern.replace(ANY, "")


def weigh(pattern: str) -> tuple[bool, int, int]:
    """How much a pattern says: of two that fit, the one that weighs more is meant. One without a
    ``*`` says most, then what begins with more, then what has more in all."""
    return (ANY not in pattern, len(pattern.split(ANY, 1)[0]), len(pattern.replace(ANY, "")))
