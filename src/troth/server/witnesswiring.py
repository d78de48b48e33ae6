"""How witnesses and anchors are reached: built once, as everything in `troth.server.wiring`."""

from __future__ import annotations

from functools import partial

from troth.audit.tile import prove_consistency
from troth.drivers import anchors, witnesses
from troth.drivers.posting import show_url
from troth.operations.anchoring import AnchorCheckpoints, Mooring
from troth.operations.table import Parts
from troth.operations.witnessing import GatherCosignatures, Seat, WitnessMeter
from troth.server.background import Task
from troth.server.config import Config

PERIOD = 1.0
"""How often is looked whether there is a checkpoint that somebody hasn't yet: one read."""


def list_outsider_tasks(parts: Parts, config: Config, meter: WitnessMeter) -> list[Task]:
    """Background work that tells others what the log is; none where nobody is configured."""
    found = []
    outsiders = config.outsiders
    if outsiders.witnesses:
        open_witness = witnesses.load_driver("https")
        seats = tuple(
            Seat(
                one.name,
                one.keys,
                open_witness(one.where, float(outsiders.timeout)),
                float(outsiders.timeout),
            )
            for one in outsiders.witnesses
        )
        prove = partial(prove_consistency, parts.log.read)
        gather = GatherCosignatures(parts.store, parts.clock, outsiders.policy, seats, prove, meter)
        found.append(Task("log.witness", PERIOD, gather, quiet=True))
    if outsiders.anchors:
        moorings = tuple(
            Mooring(
                show_url(one.target) if one.driver == "http" else one.target,
                anchors.load_driver(one.driver)(anchors.Place(one.target)),
                float(one.every),
                one.target,
            )
            for one in outsiders.anchors
        )
        anchor = AnchorCheckpoints(parts.store, parts.clock, moorings)
        found.append(Task("log.anchor", PERIOD, anchor, quiet=True))
    return found
