"""How often operations are called and how long they take, from two looks at a server's counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from troth.wire.api.status import OperationUse, StatusView


@dataclass(frozen=True, slots=True)
class Rate:
    """One operation between two looks: calls a second, how many of them in vain, durations.

    `median` and `slowest` (the 99th percentile) are seconds; None without a call, infinite beyond
    what the server tells apart.
    """

    name: str
    calls: float
    refused: float
    failed: float
    median: float | None
    slowest: float | None


def compare_looks(before: StatusView | None, after: StatusView, seconds: float) -> list[Rate]:
    """What was called between two looks `seconds` apart, the most called first.

    Without an earlier look, or after a restart, it is since the start, `seconds` ago.
    """
    if before is not None and before.started_at != after.started_at:
        before = None
    known = {use.name: use for use in before.operations} if before is not None else {}
    rates = [
        _compare(known.get(use.name), use, after.bounds, max(seconds, 1e-3))
        for use in after.operations
    ]
    return sorted((rate for rate in rates if rate.calls), key=lambda rate: (-rate.calls, rate.name))


def _compare(
    before: OperationUse | None, after: OperationUse, bounds: Sequence[float], seconds: float
) -> Rate:
    old = before or OperationUse(name=after.name, calls=0, refused=0, failed=0, buckets=[])
    counts = [now - then for now, then in zip(after.buckets, [*old.buckets, *_ZEROS], strict=False)]
    total = after.calls - old.calls
    return Rate(
        name=after.name,
        calls=total / seconds,
        refused=(after.refused - old.refused) / seconds,
        failed=(after.failed - old.failed) / seconds,
        median=find_quantile(0.5, bounds, counts, total),
        slowest=find_quantile(0.99, bounds, counts, total),
    )


_ZEROS = [0] * 64


def find_quantile(
    share: float, bounds: Sequence[float], counts: Sequence[int], total: int
) -> float | None:
    """The duration that `share` of `total` calls didn't exceed, as Prometheus estimates it: evenly
    spread in each bucket. `counts` are cumulative."""
    if total <= 0:
        return None
    wanted = share * total
    low, below = 0.0, 0
    for bound, count in zip(bounds, counts, strict=False):
        if count >= wanted:
            return low + (bound - low) * (wanted - below) / max(1, count - below)
        low, below = bound, count
    return math.inf
