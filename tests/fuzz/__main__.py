"""Fuzzing at random: ``python -m tests.fuzz [--hours H] [NAME …]``; without names, all in turn."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from pathlib import Path

import structlog

from tests.fuzz.targets import TARGETS

CORPUS = Path(".cache/fuzz")
TURN = 60.0
"""Seconds that a target runs before the next has its turn."""


def main() -> int:
    """0 if nothing was found, 1 with every finding printed, 2 for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--hours", type=float, default=1.0)
    chosen = parser.parse_args()
    if chosen.names == ["list"]:
        print("\n".join(TARGETS))
        return 0
    unknown = set(chosen.names) - TARGETS.keys()
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    names = chosen.names or list(TARGETS)
    end = time.monotonic() + chosen.hours * 3600
    turn = min(TURN, chosen.hours * 3600 / len(names))
    found: set[str] = set()
    counts = dict.fromkeys(names, 0)
    while time.monotonic() < end and len(found) < len(names):
        for name in names:
            if name in found:
                continue
            count = _take_turn(name, min(time.monotonic() + turn, end))
            counts[name] += count or 0
            if count is None:
                found.add(name)
    print("\n".join(f"fuzz: {name}: {counts[name]:,} inputs" for name in names), file=sys.stderr)
    print(f"fuzz: {', '.join(sorted(found)) or 'nothing'} found", file=sys.stderr)
    return 1 if found else 0


def _take_turn(name: str, until: float) -> int | None:
    """How many inputs it took; None if one of them was a finding."""
    print(f"fuzz: {name}", file=sys.stderr)
    try:
        return TARGETS[name].run_until(until, CORPUS)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        traceback.print_exc()
        return None


if __name__ == "__main__":
    sys.exit(main())
