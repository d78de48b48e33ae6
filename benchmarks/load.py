"""Load on a server: requests on many connections at once, run by run, with a reference beside each.

A run's rate depends on who else uses the machine, so the server's processor time for each request
stands beside it: the reciprocal of that is what one core can do at best.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.installation import SERVER_CORES, Installation, run_together
from benchmarks.report import say
from benchmarks.requests import Line, quantile

SIGNATURES = 3000

Batches = Sequence[Sequence[bytes]]
"""Requests by connection."""


@dataclass(slots=True)
class Measured:
    """Runs: rates and references, a second; seconds of each request; the server's processor seconds
    for each, and its share of its core; processor seconds of the reference."""

    rates: list[float] = field(default_factory=list)
    references: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def measure_bare(self, *, sign: bool) -> None:
        """P-256 verifications by the library alone, each with a signature if `sign`, on the
        server's core."""
        key, data = ec.generate_private_key(ec.SECP256R1()), bytes(400)
        algorithm = ec.ECDSA(hashes.SHA256())
        public, signature = key.public_key(), key.sign(data, algorithm)
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, SERVER_CORES)
        try:
            began, used = time.perf_counter(), time.thread_time()
            for _ in range(SIGNATURES):
                public.verify(signature, data, algorithm)
                if sign:
                    key.sign(data, algorithm)
            self.bare.append((time.thread_time() - used) / SIGNATURES)
            self.references.append(SIGNATURES / (time.perf_counter() - began))
        finally:
            os.sched_setaffinity(0, cores)

    def describe(self) -> dict[str, Any]:
        """What belongs into a detail of the result that has a rate of its own."""
        value = statistics.median(self.rates)
        return {
            "value": round(value, 1),
            "ratio": round(value / statistics.median(self.references), 4),
            **self.describe_times(),
        }

    def describe_times(self) -> dict[str, Any]:
        """The same without the rate. `ratio_by_cpu` is what the ratio would be of a server that has
        its core for itself and never waits."""
        return {
            "ratio_by_cpu": round(statistics.median(self.bare) / statistics.median(self.costs), 4),
            "p50_ms": round(quantile(self.times, 0.5) * 1e3, 2),
            "p99_ms": round(quantile(self.times, 0.99) * 1e3, 2),
            "server_cpu_us_each": round(statistics.median(self.costs) * 1e6, 1),
            "server_core_share": round(statistics.median(self.shares), 2),
        }


def run_load(
    server: Installation,
    lines: Sequence[Line],
    batches: Batches,
    expect: bytes,
    into: Measured,
    name: str,
    *,
    sign: bool,
) -> None:
    """One run, and the bare cryptography after it (with a signature if `sign`). Every answer must
    be a 200 with `expect` in it."""
    before = server.measure_cpu()
    seconds = ask_all(lines, batches, expect, into.times)
    used, count = server.measure_cpu() - before, sum(map(len, batches))
    into.rates.append(count / seconds)
    into.shares.append(used / seconds)
    into.costs.append(used / count)
    into.measure_bare(sign=sign)
    say(
        f"{name}: {into.rates[-1]:.0f} a second, {into.costs[-1] * 1e6:.0f} µs of processor each, "
        f"reference {into.references[-1]:.0f}"
    )


def ask_all(
    lines: Sequence[Line],
    batches: Batches,
    expect: bytes,
    times: list[float] | None = None,
    answers: list[bytes] | None = None,
) -> float:
    """Ask all of it, each connection its own batch; seconds until all is answered."""

    def work(number: int) -> None:
        line = lines[number]
        for request in batches[number]:
            began = time.perf_counter()
            status, body = line.ask(request)
            if times is not None:
                times.append(time.perf_counter() - began)
            if status != 200 or expect not in body:
                raise RuntimeError(f"{status}: {body[:500]!r}")
            if answers is not None:
                answers.append(body)

    return run_together(len(lines), work)
