"""Processes that got no identity: why, in words for the administrator.

What the caller is told names only what was attested about itself. What the nearest registrations
demand goes to the server alone, since it would tell an impostor what to imitate.

Every report becomes a row of the server's journal, for good. A refused process tries again many
times a second, so the same refusal is reported once, then as a count every ten minutes at most,
and a uid that thinks of ever new ones only so often.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from itertools import islice

from troth.agent.cache import Process
from troth.agent.snapshot import Registration, Snapshot
from troth.agent.timing import Broadcast
from troth.core.errors import Denied
from troth.identity.selectors import Match, Selector
from troth.wire.api.nodes import WorkloadRefused

MAX_REFUSALS = 100
"""In one report."""
MAX_REASON = 1000
NEAREST = 3
MAX_COMPARED = 2_000
"""Registrations compared for one explanation: some milliseconds of the agent's time."""
REPEAT_AFTER = 600.0
"""Seconds until the same refusal is worth another row and another line in the log."""
MAX_KNOWN = 1_000
MAX_KNOWN_PER_UID = 20
"""Different refusals of one uid within `REPEAT_AFTER`."""

Key = tuple[str, ...]


@dataclass(slots=True)
class _Refusal:
    uid: int
    pid: int
    selectors: Key
    reason: str
    count: int
    noted_at: float


class Refusals:
    """Refused processes, those with the same selectors counted together.

    `changes` are announced for each one that is news.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Key, _Refusal] = OrderedDict()
        """All that were news lately, the one whose news is oldest first."""
        self._counts: Counter[int] = Counter()
        self._pending: dict[Key, _Refusal] = {}
        self.changes = Broadcast()

    def note(
        self, process: Process, snapshot: Snapshot, now: float, reason: str | None = None
    ) -> bool:
        """Remember that `process` got nothing; whether that is news.

        `reason` is the server's, if it was asked. Past the bounds only the known are counted.
        `now` is of a monotonic clock, in seconds.
        """
        self._forget_old(now)
        known = self._known.get(process.selectors)
        if known is not None:
            known.count += 1
            known.pid = process.pid
            return False
        if len(self._known) >= MAX_KNOWN or self._counts[process.uid] >= MAX_KNOWN_PER_UID:
            return False
        refusal = self._pending.get(process.selectors)
        if refusal is None:
            why = reason or explain_mismatch(process.attested, snapshot)
            refusal = _Refusal(
                process.uid, process.pid, process.selectors, _cut(why, MAX_REASON), 0, now
            )
        refusal.count += 1
        refusal.noted_at = now
        self._known[process.selectors] = self._pending[process.selectors] = refusal
        self._counts[process.uid] += 1
        self.changes.announce()
        return True

    def take(self) -> list[WorkloadRefused]:
        """What the next report says, with how often each was refused since it was news."""
        taken = list(islice(self._pending.values(), MAX_REFUSALS))
        report = [
            WorkloadRefused(
                pid=entry.pid,
                selectors=list(entry.selectors),
                reason=entry.reason,
                count=entry.count,
            )
            for entry in taken
        ]
        for entry in taken:
            del self._pending[entry.selectors]
            entry.count = 0
        return report

    def put_back(self, report: list[WorkloadRefused]) -> None:
        """The report didn't get through: keep its refusals for the next one."""
        back: dict[Key, _Refusal] = {}
        for entry in report:
            key = tuple(entry.selectors)
            refusal = self._pending.pop(key, None) or self._known.get(key)
            if refusal is not None:  # or it was forgotten meanwhile: ten minutes have passed
                refusal.count += entry.count
                back[key] = refusal
        self._pending = back | self._pending

    def __len__(self) -> int:
        return len(self._pending)

    def _forget_old(self, now: float) -> None:
        """What was news long ago may be news again; what came since is told with it."""
        while self._known:
            key, oldest = next(iter(self._known.items()))
            if now - oldest.noted_at < REPEAT_AFTER:
                return
            del self._known[key]
            self._counts[oldest.uid] -= 1
            if not self._counts[oldest.uid]:
                del self._counts[oldest.uid]
            if oldest.count and key not in self._pending and len(self._pending) < MAX_KNOWN:
                self._pending[key] = oldest
                self.changes.announce()


def refuse_process(process: Process) -> Denied:
    """What the refused process is told: only what it may know about itself."""
    return Denied(
        "No identity is registered for this process; attested: "
        f"{_cut(', '.join(process.selectors), 700)}. "
        f"Ask an administrator, who can run: troth doctor --pid {process.pid}"
    )


def explain_mismatch(attested: frozenset[Selector], snapshot: Snapshot) -> str:
    """Which registrations came nearest, and which selector of each failed; templates too."""
    rivals = snapshot.offers.choose(attested).rivals
    if rivals:
        names = ", ".join(rivals[:NEAREST])
        return f"The templates {_cut(names, 400)} fit alike; make one of them narrower."
    offers = _explain_offers(attested, snapshot)
    if not snapshot.registrations:
        return _cut(f"No identity is registered for this node.{offers}", MAX_REASON)
    nearest = snapshot.rank_nearest(attested, NEAREST, MAX_COMPARED)
    words = "; ".join(
        _explain_match(registration, match, attested) for registration, match in nearest
    )
    return _cut(f"Nearest: {words}.{offers}", MAX_REASON)


def _explain_offers(attested: frozenset[Selector], snapshot: Snapshot) -> str:
    """Which templates lack a single pattern."""
    near = snapshot.offers.list_nearest(attested, NEAREST)
    words = "; ".join(f"template {one.name}: wants {_cut(str(p), 150)}" for one, p in near)
    return f" {words}." if words else ""


def _explain_match(registration: Registration, match: Match, attested: frozenset[Selector]) -> str:
    if not registration.selectors:
        return f"{registration.name} has no selectors, so it matches nothing"
    failed = []
    for selector in match.missing:
        found = sorted(other.value for other in attested if other.key == selector.key)
        instead = f"attested {_cut(', '.join(found), 100)}" if found else "not attested"
        failed.append(f"{_cut(str(selector), 150)} ({instead})")
    return f"{registration.name}: {len(match.held)} hold, failed {', '.join(failed)}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
