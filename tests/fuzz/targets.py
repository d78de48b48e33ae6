"""Every target, in the order in which they run."""

from __future__ import annotations

from tests.fuzz import (
    agent,
    api,
    backups,
    bearers,
    devices,
    http1,
    issuance,
    machine,
    manifests,
    names,
    protobufs,
    sdk,
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
    backups,
    sdk,
    bearers,
)

TARGETS: dict[str, Target] = {
    target.name: target
    for module in MODULES
    for target in vars(module).values()
    if isinstance(target, Target)
}
