"""The only place that reads randomness. Everything else is handed an `Entropy`."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from typing import Protocol


class Entropy(Protocol):
    """A source of random bytes."""

    def token(self, size: int) -> bytes:
        """`size` random bytes."""
        ...


SMALL = 16
"""Bytes up to which something is an id or a nonce, and no key or secret."""
POOL = 1024


class SystemEntropy:
    """The operating system's generator.

    Ids and nonces are cut from what was drawn at once, since a call of the kernel costs more than
    all else about an id. Keys and secrets come straight from it, and are kept nowhere here.
    """

    def __init__(self) -> None:
        self._pool: deque[bytes] = deque()
        self._owner = 0

    def token(self, size: int) -> bytes:
        """`size` bytes of ``os.urandom``."""
        if size > SMALL:
            return os.urandom(size)
        if self._owner != os.getpid():  # a fork has the same pool
            self._pool, self._owner = deque(), os.getpid()
        try:
            return self._pool.popleft()[:size]  # in one step: no other thread gets the same
        except IndexError:
            drawn = os.urandom(POOL)
            self._pool.extend(drawn[at : at + SMALL] for at in range(SMALL, POOL, SMALL))
            return drawn[:size]


class SeededEntropy:
    """Reproducible bytes from a seed: for tests and simulation, never for keys in production."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._count = 0

    def token(self, size: int) -> bytes:
        """The next `size` bytes of the seed's stream."""
        self._count += 1
        return hashlib.shake_256(f"{self._seed}:{self._count}".encode()).digest(size)


def draw_nonce(entropy: Entropy, size: int) -> bytes:
    """`size` bytes drawn now, and not in advance: so that no copy of this process, as in a restored
    snapshot of its machine, has them too."""
    return entropy.token(max(size, SMALL + 1))[:size]


def fraction(entropy: Entropy) -> float:
    """A number in [0, 1), for jitter."""
    return (int.from_bytes(entropy.token(7), "big") >> 3) / (1 << 53)  # what a float can hold
