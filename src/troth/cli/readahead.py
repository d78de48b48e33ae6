"""Files of a log that will be wanted next are fetched while the last ones are looked at.

A log is verified in its order, 256 entries at a time, and each file is a request: over a long way
the verifier would wait for most of its time.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from troth.audit.tile import WIDTH, Kind, Read, TileName, parse_name
from troth.core.errors import Invalid

THREADS = 8
AHEAD = 16
"""Bundles that are fetched ahead: at most as many times 16 MiB, and mostly less than a hundredth
of that."""


class _Ahead:
    """`read` hands out what was fetched, and has what follows fetched."""

    def __init__(self, read: Read, end: int, pool: ThreadPoolExecutor) -> None:
        self._read, self._end, self._pool = read, end, pool
        self._fetched: dict[str, Future[bytes]] = {}

    def read(self, name: str) -> bytes:
        """The file's bytes, as `Read` has it."""
        try:
            tile = parse_name(name)
        except Invalid:  # the checkpoint
            return self._read(name)
        ready = self._fetched.pop(name, None)
        data = self._read(name) if ready is None else b""  # what isn't there has nothing after it
        if tile.level == 0 and tile.width == WIDTH and tile.kind is not Kind.DETAILS:
            self._fetch_after(tile)
        return data if ready is None else ready.result()

    def _fetch_after(self, tile: TileName) -> None:
        for index in range(tile.index + 1, min(tile.index + 1 + AHEAD, self._end // WIDTH)):
            name = str(TileName(tile.kind, 0, index, WIDTH))
            if name not in self._fetched:
                self._fetched[name] = self._pool.submit(self._read, name)


@contextmanager
def read_ahead(read: Read, end: int) -> Iterator[Read]:
    """The same as `read`, which must bear threads, for entries before `end` in their order."""
    with ThreadPoolExecutor(THREADS, "troth-log") as pool:
        try:
            yield _Ahead(read, end, pool).read
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
