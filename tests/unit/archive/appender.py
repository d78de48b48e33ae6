"""Appends decisions until it is killed, and says which are acknowledged. Run by test_kills.

    python -m tests.unit.archive.appender FOLDER ROUNDS

In each round a child appends in eight tasks and writes a line for each acknowledged record; after
some of them it is killed with SIGKILL. Then another round follows, on the same folder.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.fakes.decisions import make_records
from troth.archive.log import DecisionLog
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy

TASKS = 8
EACH = 100_000


async def append(log: DecisionLog, start: int, out: int) -> None:
    for number in range(start, start + EACH, 3):
        records = make_records(3, number)
        await log.append(records)
        os.write(out, "".join(f"{one.id}\n" for one in records).encode())


async def work(folder: Path, turn: int, out: int) -> None:
    # So small that segments are closed and opened all the time.
    log = DecisionLog(folder, SystemClock(), SystemEntropy(), "a1b2", largest=20_000)
    starts = [(turn * TASKS + task) * EACH for task in range(TASKS)]
    await asyncio.gather(*(append(log, start, out) for start in starts))


def main(folder: Path, rounds: int) -> None:
    for turn in range(rounds):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            asyncio.run(work(folder, turn, writing))
            os._exit(1)  # it should have been killed long before
        os.close(writing)
        with os.fdopen(reading, "rb") as acknowledged:
            for _ in range(turn * 37 % 400):
                sys.stdout.write(acknowledged.readline().decode())
            os.kill(child, signal.SIGKILL)
            sys.stdout.writelines(line.decode() for line in acknowledged)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            sys.exit(f"round {turn}: the child ended by itself: {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
