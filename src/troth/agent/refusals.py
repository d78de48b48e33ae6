"""Processes that got no identity: why, in words for the administrator, until the next report.

What the caller is told names only what was attested about itself. What the nearest registrations
demand goes to the server alone, since it would tell an impostor what to imitate.
"""

from __future__ import annotations

from dataclasses import dataclass

from troth.agent.cache import Process
from troth.agent.snapshot import Registration, Snapshot
from troth.agent.timing import Broadcast
from troth.core.errors import Denied
from troth.identity.selectors import Match, Selector
from troth.wire.api.nodes import WorkloadRefused

MAX_REFUSALS = 100
MAX_REASON = 1000
NEAREST = 3


@dataclass(slots=True)
class _Refusal:
    pid: int
    selectors: tuple[str, ...]
    reason: str
    count: int


class Refusals:
    """Refused processes since the last report, those with the same selectors counted together.

    `changes` are announced for each one that is new.
    """

    def __init__(self) -> None:
        self._refused: dict[tuple[str, ...], _Refusal] = {}
        self.changes = Broadcast()

    def note(self, process: Process, snapshot: Snapshot) -> bool:
        """Remember that `process` matched nothing; whether that is news.

        Past the bound only the known are counted.
        """
        known = self._refused.get(process.selectors)
        if known is not None:
            known.count += 1
            known.pid = process.pid
        elif len(self._refused) < MAX_REFUSALS:
            reason = explain_mismatch(process.attested, snapshot)
            self._refused[process.selectors] = _Refusal(
                process.pid, process.selectors, reason, count=1
            )
            self.changes.announce()
            return True
        return False

    def take(self) -> list[WorkloadRefused]:
        """All of them for a report; they are forgotten here."""
        refused, self._refused = self._refused, {}
        return [
            WorkloadRefused(
                pid=entry.pid,
                selectors=list(entry.selectors),
                reason=entry.reason,
                count=entry.count,
            )
            for entry in refused.values()
        ]

    def put_back(self, report: list[WorkloadRefused]) -> None:
        """The report didn't get through: keep its refusals for the next one."""
        for entry in report:
            key = tuple(entry.selectors)
            known = self._refused.get(key)
            if known is not None:
                known.count += entry.count
            elif len(self._refused) < MAX_REFUSALS:
                self._refused[key] = _Refusal(entry.pid, key, entry.reason, entry.count)

    def __len__(self) -> int:
        return len(self._refused)


def refuse_process(process: Process) -> Denied:
    """What the refused process is told: only what it may know about itself."""
    return Denied(
        "No identity is registered for this process; attested: "
        f"{_cut(', '.join(process.selectors), 700)}. "
        f"Ask an administrator, who can run: troth doctor --pid {process.pid}"
    )


def explain_mismatch(attested: frozenset[Selector], snapshot: Snapshot) -> str:
    """Which registrations came nearest, and which selector of each failed."""
    if not snapshot.registrations:
        return "No identity is registered for this node."
    nearest = snapshot.rank_nearest(attested, NEAREST)
    words = "; ".join(
        _explain_match(registration, match, attested) for registration, match in nearest
    )
    return _cut(f"Nearest: {words}.", MAX_REASON)


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
