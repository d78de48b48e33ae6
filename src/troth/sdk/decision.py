"""The answer to "may I talk to this peer", with its reasons."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a peer is accepted. Ask `.allowed`; `reasons` say why not, in sentences.

    `spiffe_id` is who it is, and "" if that isn't known.
    """

    allowed: bool
    reasons: tuple[str, ...]
    spiffe_id: str = ""

    def __bool__(self) -> bool:
        raise TypeError("a Decision is not a truth value: ask .allowed")
