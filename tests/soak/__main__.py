"""`python -m tests.soak`: kill servers under load, hundreds of times, and see that nothing is lost.

Its last line is one JSON object; it exits 1 at the first broken promise, which it names.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable
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
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    reports = []
    for name in [options.database] if options.database else ENGINES:
        make, servers = ENGINES[name]
        try:
            reports.append(soak(make(), servers, options.kills, seed, options.brief))
        except BrokenPromise as broken:
            print(f"broken on {name}, seed {seed}: {broken}", file=sys.stderr)
            return 1
        print(json.dumps(reports[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"name": "soak", "seed": seed, "runs": reports}))
    return 0


def soak(database: Database, servers: int, kills: int, seed: int, brief: bool) -> dict[str, Any]:
    """One campaign; its report."""
    began = time.monotonic()
    with open_folder() as folder:
        campaign = Campaign(folder, database, servers, seed, speak(database.name))
        try:
            campaign.run(kills, patient=not brief)
        finally:
            campaign.close()
        return campaign.report(time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
