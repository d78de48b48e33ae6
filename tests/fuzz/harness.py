"""One fuzz target: where its inputs come from, and what must hold for each of them.

The same target runs briefly and always alike under pytest, and at random for hours by
``python -m tests.fuzz`` (``make fuzz-NAME``, ``make fuzz``). What must hold everywhere: a parser
answers, or refuses with a kind of `TrothError` whose detail can be shown; it does so within
`MOST_SECONDS` of processor time and without growing by more than `MOST_GROWTH`.
"""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from cryptography.utils import CryptographyDeprecationWarning
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

from troth.core.errors import KINDS, Internal, TrothError

T = TypeVar("T")

MOST_SECONDS = 2.0
"""Processor time for one input: far above what any takes, far below what would hurt a server."""

MOST_GROWTH = 256 << 20
"""Bytes by which a run may raise the peak of the process' memory."""

LONGEST_DETAIL = 4 << 20
ROUND = 1_000
_CHECKS = list(HealthCheck)


@dataclass(frozen=True)
class Target:
    """`check` is called with each of `inputs` and, if there is a `stage`, with what that opens."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[..., None]
    examples: int
    stage: Callable[[], AbstractContextManager[Any]] | None = None

    def run_briefly(self) -> None:
        """The same inputs on each run, for continuous integration."""
        profile = settings(
            max_examples=self.examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            suppress_health_check=_CHECKS,
        )
        self._run(profile, until=0.0)

    def run_until(self, moment: float, corpus: Path) -> int:
        """Random inputs until the monotonic clock shows `moment`; how many there were.

        Failing ones stay in `corpus`, and come first the next time, as long as they fail.
        """
        profile = settings(
            max_examples=ROUND,
            database=DirectoryBasedExampleDatabase(corpus / self.name),
            deadline=None,
            print_blob=True,
            suppress_health_check=_CHECKS,
        )
        return self._run(profile, until=moment)

    def _run(self, profile: settings, until: float) -> int:
        count = 0
        with warnings.catch_warnings(), self.stage() if self.stage else nullcontext() as staged:
            # Serial numbers below 1: still read, and of no consequence here.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            arguments = (staged,) if self.stage else ()

            def play(found: Any) -> None:
                nonlocal count
                count += 1
                start = time.process_time()
                self.check(found, *arguments)
                spent = time.process_time() - start
                assert spent < MOST_SECONDS, f"took {spent:.1f} s"

            # Hypothesis files failing examples under this name.
            play.__name__ = play.__qualname__ = self.name.replace("-", "_")
            bounded = profile(given(self.inputs)(play))
            before = measure_peak()
            bounded()
            while time.monotonic() < until:
                bounded()
            grown = measure_peak() - before
            assert grown < MOST_GROWTH, f"took {grown >> 20} MiB"
        return count


def fuzz(
    inputs: st.SearchStrategy[Any],
    *,
    examples: int = 80,
    stage: Callable[[], AbstractContextManager[Any]] | None = None,
) -> Callable[[Callable[..., None]], Target]:
    """Make the decorated function a target; ``fuzz_csr`` becomes ``csr``."""

    def make(check: Callable[..., None]) -> Target:
        name = check.__name__.removeprefix("fuzz_").replace("_", "-")
        return Target(name, inputs, check, examples, stage)

    return make


def measure_peak() -> int:
    """The most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answer(parse: Callable[..., T], *arguments: Any, internal: bool = False) -> T | None:
    """What `parse` makes of it, or None if it refuses as it should.

    `internal` says that the input comes from our own server, whose mistakes are `Internal`.
    """
    try:
        return parse(*arguments)
    except TrothError as error:
        check_refusal(error, internal=internal)
        return None


def check_refusal(error: TrothError, *, internal: bool = False) -> None:
    """A refusal is of a known kind, says something, and can be written into a document."""
    assert isinstance(error, KINDS)
    assert internal or not isinstance(error, Internal), error.detail
    assert error.detail.strip()
    assert len(error.detail) < LONGEST_DETAIL
    msgspec.json.encode(error.detail)
