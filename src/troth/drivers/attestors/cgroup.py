"""The systemd unit and the container of a process, from its control group.

A control group is a path, and whoever owns a folder of that tree can make folders below it with
any name. systemd hands folders over: ``user@1000.service`` belongs to user 1000, and so does every
service with ``Delegate=`` and ``User=``. A user could therefore make
``…/user@1000.service/payments.service`` or ``…/docker-<id>.scope`` and move into it. So a name
counts only where nobody but root could have put it: every folder above it is a slice (or a
container engine's own folder at the root), which makes it the *first* unit on the path. What
follows is ignored, and so are user units: they all are ``user@<uid>.service``.

Paths outside our control group namespace (``/../…``, cgroup_namespaces(7)) prove nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from troth.core.errors import Denied, Invalid
from troth.drivers.attestors import (
    RECHECK_AFTER,
    Examination,
    Peer,
    WorkloadAttestor,
    attest_alone,
)
from troth.drivers.attestors.procfs import PROC, read_proc_file, watch_process
from troth.identity.selectors import Selector

_MOVED = "The calling process moved to another control group while it was looked at; connect again."
_ID = r"(?P<id>[0-9a-f]{64})"
_POD = r"pod[0-9a-fA-F_-]{32,36}"
_CONTAINERS = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        # the systemd driver of Docker, containerd, CRI-O and Podman: a scope below slices
        rf"(?:/[^/]+\.slice)*/(?:docker|cri-containerd|crio|libpod)-{_ID}\.scope(?:/.*)?",
        # containerd as a service of its own, which only root may write below
        rf"/system\.slice/containerd\.service/kubepods[^/:]*\.slice:cri-containerd:{_ID}",
        # the cgroupfs drivers of Docker, Podman and Kubernetes
        rf"/docker/{_ID}(?:/.*)?",
        rf"/libpod_parent/libpod-{_ID}(?:/.*)?",
        rf"/kubepods/(?:(?:burstable|besteffort)/)?{_POD}/{_ID}(?:/.*)?",
    )
)


class CgroupAttestor:
    """Proves ``systemd:unit`` and ``container:id``. See the module for what is believed."""

    name = "cgroup"

    def __init__(self, *, proc: Path, wait: Callable[[float], None], recheck_after: float) -> None:
        self._proc = proc
        self._wait = wait
        self._recheck_after = recheck_after

    def attest(self, peer: Peer) -> tuple[str, ...]:
        """The selectors of `peer`; raises `Denied` if it is gone or moves while looked at."""
        return attest_alone(self.examine(peer), self._wait, self._recheck_after)

    def examine(self, peer: Peer) -> Examination:
        """The same in two looks; see `WorkloadAttestor`."""
        watch = watch_process(self._proc, peer)
        if watch is None:
            return ()
        first = read_proc_file(watch.folder / "cgroup")
        yield
        watch.check()
        if read_proc_file(watch.folder / "cgroup") != first:
            raise Denied(_MOVED)
        return find_selectors(first)


def open_attestor(
    *,
    proc: Path = PROC,
    wait: Callable[[float], None] = time.sleep,
    recheck_after: float = RECHECK_AFTER,
) -> WorkloadAttestor:
    """The attestor. `wait` takes seconds."""
    return CgroupAttestor(proc=proc, wait=wait, recheck_after=recheck_after)


def find_selectors(data: bytes) -> tuple[str, ...]:
    """What a ``/proc/<pid>/cgroup`` proves (cgroups(7)): v2's path, or v1's of systemd."""
    path = _find_path(data)
    if path is None or path == "/" or ".." in path.split("/") or path.endswith(" (deleted)"):
        return ()
    proved = []
    unit = _find_unit(path)
    if unit is not None:
        proved.append(f"systemd:unit:{unit}")
    for pattern in _CONTAINERS:
        if found := pattern.fullmatch(path):
            proved.append(f"container:id:{found['id']}")
            break
    return tuple(proved)


def _find_path(data: bytes) -> str | None:
    """The unified path; where everything still lives in v1 (it is ``/`` then), systemd's."""
    paths: dict[str, str] = {}
    for line in data.splitlines():
        hierarchy, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        try:
            if hierarchy == b"0" and not controllers:
                paths["unified"] = path.decode("utf-8")
            elif controllers == b"name=systemd":
                paths["systemd"] = path.decode("utf-8")
        except UnicodeDecodeError:  # a name that no registration can hold
            return None
    unified = paths.get("unified", "/")
    return unified if unified != "/" else paths.get("systemd")


def _find_unit(path: str) -> str | None:
    """The first service or scope, if only slices stand above it."""
    for segment in path[1:].split("/"):
        if segment.endswith(".slice"):
            continue
        try:
            return Selector.parse(f"systemd:unit:{segment}").value
        except Invalid:
            return None
    return None
