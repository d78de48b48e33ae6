"""What every benchmark ends with: one JSON object as the last line, always of the same shape."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def say(text: str) -> None:
    """A word on the way: the standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


def print_result(
    name: str,
    *,
    value: float,
    unit: str,
    reference: float,
    targets: Mapping[str, float],
    met: bool,
    digits: int = 1,
    **detail: Any,
) -> None:
    """The last line. `value` and `reference` come from the same run, in the same unit."""
    result = {
        "name": name,
        "value": round(value, digits),
        "unit": unit,
        "reference": round(reference, digits),
        "ratio": round(value / reference, 4),
        "detail": {**detail, "targets": dict(targets), "met": met, "cores": os.cpu_count()},
    }
    print(json.dumps(result))


def print_rates(
    name: str,
    rates: Sequence[float],
    references: Sequence[float],
    *,
    least: float,
    **detail: Any,
) -> None:
    """The last line of a benchmark of how many a second: medians of runs, and the least ratio."""
    value, reference = statistics.median(rates), statistics.median(references)
    print_result(
        name,
        value=value,
        unit="1/s",
        reference=reference,
        targets={"ratio": least},
        met=value / reference >= least,
        runs=[round(rate, 1) for rate in rates],
        references=[round(rate, 1) for rate in references],
        **detail,
    )
