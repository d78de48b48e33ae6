"""Every target, in the order in which they run."""

from __future__ import annotations

from tests.fuzz import (
    agent,
    api,
    backups,
    delegation,
    devices,
    files,
    http1,
    issuance,
    machine,
    manifests,
    names,
    oauth,
    protobufs,
    sdk,
    sockets,
    store,
    workload,
)
from tests.fuzz.harness import Target

MODULES = (
    names,
    manifests,
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
    oauth,
    delegation,
    workload,
    sockets,
    store,
)

TARGETS: dict[str, Target] = {
    target.name: target
    for module in MODULES
    for target in vars(module).values()
    if isinstance(target, Target)
}
