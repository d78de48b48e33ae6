"""In step with the server: follows ``node.sync`` and keeps the newest snapshot.

While the server is away the last snapshot stays; who needs to know how old it is asks `silence`.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from troth.agent.connection import Api, CredentialChanged, Unreachable
from troth.agent.snapshot import Snapshot, read_snapshot
from troth.agent.timing import Backoff, Broadcast, Sleep
from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import (
    Denied,
    Internal,
    TrothError,
    Unauthenticated,
    Unavailable,
    error_of,
)
from troth.identity.template import Catalogue
from troth.wire.api.nodes import Heartbeat, NodeSnapshot, StreamEnd, SyncNode

log = structlog.get_logger(__name__)

FIRST_WAIT = 0.2
LONGEST_WAIT = 5.0
"""Seconds between two tries at most: for so long a node doesn't notice that a server is back. In a
large fleet it is up to twice the spread that the server names (`Snapshot.spread`)."""
QUIET = 10.0
"""Seconds without a word, two heartbeats, after which the next word is the server coming back."""


class Sync:
    """The newest snapshot, and `changes` that are announced whenever it is replaced.

    `message` is what it was read from, None while the server won't have this node; `is_restored`
    says that it is one from before our own restart. `returns` are announced before a change, with
    the first word after a break or a silence; `refusals` whenever the server won't have this node.
    """

    def __init__(self, api: Api, clock: Clock, entropy: Entropy, sleep: Sleep) -> None:
        self._api = api
        self._clock = clock
        self._sleep = sleep
        self._backoff = Backoff(entropy, FIRST_WAIT, LONGEST_WAIT)
        self._heard: float | None = None
        self._broken = False
        self._kept: NodeSnapshot | None = None
        self.snapshot: Snapshot | None = None
        self.message: NodeSnapshot | None = None
        self.is_restored = False
        self.changes = Broadcast()
        self.returns = Broadcast()
        self.refusals = Broadcast()

    def offer(self, kept: NodeSnapshot) -> None:
        """What to go by if the server can't be reached before its first word."""
        self._kept = kept

    def require_snapshot(self) -> Snapshot:
        """The newest snapshot; raises `Unavailable` before there was any."""
        if self.snapshot is None:
            raise Unavailable(
                "The agent has not heard from its server yet; try again in a moment. "
                "If this lasts, the agent's log says why."
            )
        return self.snapshot

    def measure_silence(self) -> float:
        """Seconds since the last word from the server, infinite before the first."""
        if self._heard is None:
            return float("inf")
        return self._clock.monotonic() - self._heard

    async def run(self) -> None:
        """Follow for ever; comes back after every failure, at first fast, then every 5 s."""
        while True:
            try:
                await self._follow()
            except CredentialChanged:
                self._broken = True  # and come back at once: no outage has brought others too
            except TrothError as error:
                self._broken = True
                if isinstance(error, Denied):
                    self._cut_off()
                if isinstance(error, Denied | Unauthenticated):
                    self._kept = self.message = None
                    self.refusals.announce()
                if isinstance(error, Unreachable):
                    self._restore()
                delay = self._backoff.take(error)
                self._tell_failure(error, delay)
                await self._sleep(delay)

    async def _follow(self) -> None:
        first = True
        async for message in self._api.stream("node.sync", SyncNode()):
            self._take(message)
            if not first:
                self._backoff.reset()  # a stream that only ever brings one message isn't healthy
            first = False
        raise Unavailable("The server ended the stream without saying why.")

    def _restore(self) -> None:
        """The server is away and never told us anything: go by what it said before."""
        kept, self._kept = self._kept, None
        if kept is None or self.snapshot is not None:
            return
        try:
            snapshot = read_snapshot(kept, None)
        except Internal as error:
            log.warning("sync.not_restored", reason=error.detail)
            return
        self.is_restored = True
        log.warning("sync.restored", epoch=snapshot.epoch, identities=len(snapshot.registrations))
        self.message = kept
        self._replace(snapshot)

    def _take(self, message: object) -> None:
        match message:
            case NodeSnapshot():
                snapshot = read_snapshot(message, self.snapshot)
                self._note_word()
                self._kept, self.message, self.is_restored = None, message, False
                self._backoff.widen(
                    max(FIRST_WAIT, snapshot.spread), max(LONGEST_WAIT, 2 * snapshot.spread)
                )
                self._replace(snapshot)
            case Heartbeat():
                self._note_word()
            case StreamEnd():
                raise error_of(message.code, message.detail)
            case _:
                raise Internal("The server's stream brought something unknown.")

    def _note_word(self) -> None:
        if self._broken or (self._heard is not None and self.measure_silence() > QUIET):
            self.returns.announce()
        self._broken = False
        self._heard = self._clock.monotonic()

    def _replace(self, snapshot: Snapshot) -> None:
        before = self.snapshot
        if before is not None and snapshot.epoch < before.epoch:
            # A server restored from a backup is behind; it is still the one that decides.
            log.warning("sync.went_back", before=before.epoch, now=snapshot.epoch)
        self.snapshot = snapshot
        log.debug("sync.snapshot", epoch=snapshot.epoch, entries=len(snapshot.registrations))
        self.changes.announce()

    def _cut_off(self) -> None:
        """The server refuses this node, as after an eviction: nothing is served here any more."""
        if self.snapshot is not None and (self.snapshot.registrations or self.snapshot.offers):
            log.error("sync.cut_off", identities=len(self.snapshot.registrations))
            self.snapshot = replace(self.snapshot, registrations={}, index={}, offers=Catalogue())
            self.changes.announce()

    def _tell_failure(self, error: TrothError, delay: float) -> None:
        silence = self.measure_silence()
        overdue = self.snapshot is not None and silence > self.snapshot.lease
        log.log(
            40 if overdue else 30,
            "sync.interrupted",
            code=error.code,
            reason=error.detail,
            retry_seconds=round(delay, 1),
            silent_seconds=None if self._heard is None else round(silence, 1),
        )
