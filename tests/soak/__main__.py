"""`python -m tests.soak`: kill servers under load, hundreds of times, and see that nothing is lost.

It tells how far it is on standard error. Its last line is one JSON object with the totals, whatever
came of it; it exits 1 at the first broken promise, or whatever else goes wrong, which it names.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from tests.e2e.processes import open_folder
from tests.soak.campaign import Campaign, speak
from tests.soak.databases import Database, Postgres, Sqlite
from tests.soak.ledger import BrokenPromise

ENGINES: dict[str, tuple[Callable[[], Database], int]] = {
    "sqlite": (Sqlite, 1),
    "postgresql": (Postgres, 2),
}
"""How each is made, and how many servers work on it."""


def main() -> int:
    """Both engines, one after the other, or the one that was named."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=500, help="kills of servers for each engine")
    parser.add_argument("--database", choices=ENGINES, help="one engine instead of both")
    parser.add_argument("--seed", type=int, help="the seed that an earlier run printed")
    parser.add_argument(
        "--brief", action="store_true", help="no minute under load, no minutes for the reconciler"
    )
    parser.add_argument(
        "--pace",
        type=float,
        default=1.0,
        help="how many times longer clients pause: more kills in the same time on a slow machine",
    )
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    reports: list[dict[str, Any]] = []
    for name in [options.database] if options.database else ENGINES:
        make, servers = ENGINES[name]
        reports.append(soak(make(), servers, options, seed))
        print(json.dumps(reports[-1]), file=sys.stderr, flush=True)
        if reports[-1]["broken"]:
            break
    totals = add_up(reports)
    print(json.dumps({"name": "soak", "seed": seed, **totals, "runs": reports}))
    return 0 if totals["broken"] is None else 1


def soak(
    database: Database, servers: int, options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """One campaign; its report, in which `broken` says what went wrong, if anything did."""
    began = time.monotonic()
    broken = None
    say = speak(database.name)
    with open_folder() as folder:
        campaign = Campaign(folder, database, servers, seed, say, options.pace)
        try:
            campaign.run(options.kills, patient=not options.brief)
        except Exception as error:  # told, and never success
            broken = f"{type(error).__name__}: {error}"
            say(f"seed {seed}: {broken}")
            if not isinstance(error, BrokenPromise):
                traceback.print_exc()
        finally:
            campaign.close()
        return {**campaign.report(time.monotonic() - began), "broken": broken}


def add_up(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The totals of all campaigns."""
    return {
        "kills": sum(report["killed"] for report in reports),
        "operations": sum(report["operations"] for report in reports),
        "seconds": sum(report["seconds"] for report in reports),
        "broken": next((report["broken"] for report in reports if report["broken"]), None),
    }


if __name__ == "__main__":
    sys.exit(main())
