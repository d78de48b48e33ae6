"""Every target, in the order in which they run."""

from __future__ import annotations

from tests.fuzz import (
    agent,
    api,
    authzen,
    backups,
    bearers,
    decisions,
    delegation,
    devices,
    files,
    http1,
    issuance,
    machine,
    manifests,
    names,
    oauth,
    outsiders,
    policies,
    protobufs,
    sdk,
    shown,
    sockets,
    store,
    terminal,
    tokens,
    trees,
    workload,
)
from tests.fuzz.harness import Target

MODULES = (
    names,
    manifests,
    policies,
    outsiders,
    issuance,
    api,
    protobufs,
    machine,
    agent,
    http1,
    devices,
    files,
    backups,
    sdk,
    shown,
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
)

TARGETS: dict[str, Target] = {
    target.name: target
    for module in MODULES
    for target in vars(module).values()
    if isinstance(target, Target)
}
