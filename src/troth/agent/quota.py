"""What each uid may take of the agent's socket, so that one of them can't starve the others.

Everybody on the node may connect; the kernel says who did, so the uid is what is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from troth.core.bucket import Bucket
from troth.core.clock import Clock

_FORGET_ABOVE = 1024
"""How many idle uids are remembered before the longest idle are forgotten."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for each uid, unless said otherwise.

    `frames` are what costs us more than the sender (PING, RST_STREAM, SETTINGS, PRIORITY, unknown
    and empty frames, calls over the limit, new connections): rapid reset (CVE-2023-44487) and its
    relatives. A rate comes as burst and as what grows back each second. `connections_total` is
    for all uids together, and no uid gets more than half of it. `attestations` are under way at
    once, `attestations_waiting` queue behind them.
    """

    connections: int = 1_000
    connections_total: int = 8_000
    streams: int = 2_000
    calls_burst: int = 4_000
    calls_per_second: int = 1_000
    frames_burst: int = 4_000
    frames_per_second: int = 1_000
    attestations: int = 16
    attestations_waiting: int = 1_000
    message_bytes: int = 64 * 1024
    request_seconds: float = 10.0
    """How long a caller may take for its first message."""
    idle_seconds: float = 60.0
    """How long a connection may stay without a call; clients connect again when they need it."""

    @property
    def share(self) -> int:
        """How many connections one uid may have: never more than half of all."""
        return min(self.connections, (self.connections_total + 1) // 2)


class _Account:
    """What one uid has taken."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.connections = 0
        self.streams = 0
        self.calls = Bucket(limits.calls_burst, limits.calls_per_second, now)
        self.frames = Bucket(limits.frames_burst, limits.frames_per_second, now)
        self.seen = now


class Quota:
    """Counts by uid. Whoever opens something closes it again, exactly once."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits = limits
        self._clock = clock
        self._accounts: dict[int, _Account] = {}
        self._connections = 0

    def open_connection(self, uid: int) -> bool:
        """Whether `uid` may have one more connection; counts it if so."""
        account = self._account(uid)
        if (
            account.connections >= self.limits.share
            or self._connections >= self.limits.connections_total
        ):
            return False
        if not account.frames.take(1, self._clock.monotonic()):
            return False
        account.connections += 1
        self._connections += 1
        return True

    def close_connection(self, uid: int) -> None:
        """Give back what `open_connection` counted."""
        self._account(uid).connections -= 1
        self._connections -= 1

    def open_stream(self, uid: int) -> bool:
        """Whether `uid` may have one more stream and make one more call; counts both if so."""
        account = self._account(uid)
        if account.streams >= self.limits.streams:
            return False
        if not account.calls.take(1, self._clock.monotonic()):
            return False
        account.streams += 1
        return True

    def close_stream(self, uid: int) -> None:
        """Give back the stream that `open_stream` counted."""
        self._account(uid).streams -= 1

    def take_frame(self, uid: int, cost: float) -> bool:
        """Whether `uid` may send one more control frame."""
        return self._account(uid).frames.take(cost, self._clock.monotonic())

    def _account(self, uid: int) -> _Account:
        account = self._accounts.get(uid)
        now = self._clock.monotonic()
        if account is None:
            if len(self._accounts) >= _FORGET_ABOVE:
                self._forget_idle()
            account = self._accounts[uid] = _Account(self.limits, now)
        account.seen = now
        return account

    def _forget_idle(self) -> None:
        idle = [
            (account.seen, uid)
            for uid, account in self._accounts.items()
            if not account.connections and not account.streams
        ]
        for _, uid in sorted(idle)[: len(idle) // 2 + 1]:
            del self._accounts[uid]
