"""`troth up` on a wall clock that can be set: seconds of difference stand in a file."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

import uvloop

from troth.cli.logs import configure_logs
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy
from troth.server.config import load_config
from troth.server.main import _serve


class SetClock(SystemClock):
    """The machine's clock, set forwards or back; monotonic time goes on as it does."""

    def __init__(self, difference: Path) -> None:
        self._difference = difference

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=float(self._difference.read_text() or "0"))


def main() -> None:
    data, difference = map(Path, sys.argv[1:])
    configure_logs("info", "json")
    config = load_config(data=data, listen="localhost:0", environ=os.environ)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            _serve(
                config,
                SetClock(difference),
                SystemEntropy(),
                False,
                lambda settled: print(json.dumps({"url": settled.origin}), flush=True),
            )
        )


if __name__ == "__main__":
    main()
