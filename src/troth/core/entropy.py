"""The only place that reads randomness. Everything else is handed an `Entropy`."""

from __future__ import annotations

import hashlib
import os
from typing import Protocol


class Entropy(Protocol):
    """A source of random bytes."""

    def token(self, size: int) -> bytes:
        """`size` random bytes."""
        ...


class SystemEntropy:
    """The operating system's generator."""

    def token(self, size: int) -> bytes:
        """`size` bytes of ``os.urandom``."""
        return os.urandom(size)


class SeededEntropy:
    """Reproducible bytes from a seed: for tests and simulation, never for keys in production."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._count = 0

    def token(self, size: int) -> bytes:
        """The next `size` bytes of the seed's stream."""
        self._count += 1
        return hashlib.shake_256(f"{self._seed}:{self._count}".encode()).digest(size)


def fraction(entropy: Entropy) -> float:
    """A number in [0, 1), for jitter."""
    return (int.from_bytes(entropy.token(7), "big") >> 3) / (1 << 53)  # what a float can hold
