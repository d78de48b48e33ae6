"""Every target, in the order in which they run."""

from __future__ import annotations

from tests.fuzz import (
    agent,
    api,
    authzen,
    backups,
    bearers,
    cases,
    decisions,
    delegation,
    devices,
    files,
    http1,
    issuance,
    logs,
    machine,
    manifests,
    names,
    oauth,
    outsiders,
    policies,
    protobufs,
    proxies,
    sdk,
    searches,
    shown,
    sinks,
    sockets,
    store,
    terminal,
    tokens,
    trees,
    witnesses,
    workload,
)
from tests.fuzz.harness import Target

MODULES = (
    names,
    manifests,
    policies,
    cases,
    outsiders,
    issuance,
    api,
    protobufs,
    proxies,
    machine,
    agent,
    http1,
    devices,
    files,
    backups,
    sdk,
    searches,
    shown,
    sinks,
    oauth,
    bearers,
    authzen,
    tokens,
    delegation,
    workload,
    sockets,
    store,
    decisions,
    terminal,
    trees,
    witnesses,
    logs,
)


def _gather() -> dict[str, Target]:
    found: dict[str, Target] = {}
    for module in MODULES:
        for target in vars(module).values():
            if isinstance(target, Target) and found.setdefault(target.name, target) is not target:
                raise ValueError(f"two targets have the name {target.name}; one would never run")
    return found


TARGETS = _gather()
