"""The snapshot: who is cut off and what is revoked, complete, as of one position of the journal;
and facts of identities, as asked for.

It is fed by sealed events in order and is stale once its source has been silent for longer than
its lease. A stale snapshot denies: `check_fresh` raises.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from troth.core.clock import Clock
from troth.core.errors import Unavailable
from troth.core.events import SealedEvent
from troth.core.ids import IdentityId
from troth.identity.identity import State
from troth.live.bundle import Bundle
from troth.live.facts import Facts
from troth.live.recent import CUT_OFF as CUT_OFF
from troth.live.recent import (
    About,
    Change,
    RecentChanges,
    count_seconds,
    mark_event,
    read_change,
)
from troth.live.tokens import TokenRevocations
from troth.live.touched import TouchedIdentities
from troth.live.trust import Standings

INDIFFERENT = frozenset(
    {
        "certificate.intended",
        "certificate.issued",
        "jwtsvid.intended",
        "jwtsvid.issued",
        "token.issued",
        "token.rejected",
        "token.exchanged",
    }
)
"""Types of events that change nothing here, and are most of all events: whoever feeds a snapshot
may leave them out."""

_DECLARED_NOUNS = ("declaration.", "authority.")
_SHARED_NOUNS = ("instance.", "authority.", "crl.", "node.", "template.")
NODES = 10_000
"""Nodes of which it is known when something last changed for them alone."""


@dataclass(frozen=True, slots=True)
class Seed:
    """What a snapshot starts from: read from the store in one consistent read.

    `cut_off` maps SPIFFE IDs to states, `revoked` serials (hex) to when they expire, and
    `distrusted` the key identifiers (hex) of revoked authorities to theirs. `ended` are SPIFFE IDs
    of retired identities, and until when a token of theirs may live. `tokens` maps the ``jti`` of
    revoked tokens to when they expire, and `issued_until` SPIFFE IDs to the moment up to which
    tokens were issued to them that count no more.
    """

    epoch: int
    cut_off: Mapping[str, State]
    revoked: Mapping[str, datetime]
    distrusted: Mapping[str, datetime] = field(default_factory=dict)
    ended: Mapping[str, datetime] = field(default_factory=dict)
    tokens: Mapping[str, datetime] = field(default_factory=dict)
    issued_until: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusals:
    """Whom to refuse, complete: as in `Seed`, with retired identities among those that are cut off,
    and expiries as whole seconds of the Unix epoch. Shared by all who ask: nobody changes it."""

    cut_off: Mapping[str, str]
    revoked: Mapping[str, int]
    distrusted: Mapping[str, int]
    tokens: Mapping[str, int]
    issued_until: Mapping[str, int]


class Snapshot:
    """What is true now. Belongs to one event loop; reads never wait."""

    def __init__(self, clock: Clock, lease: timedelta) -> None:
        self._clock = clock
        self._lease = lease
        self._heard: float | None = None
        self._cut_off: dict[str, State] = {}
        self._revoked: dict[str, datetime] = {}
        self._distrusted: dict[str, datetime] = {}
        self._ended: dict[str, datetime] = {}
        self._touched: OrderedDict[str, int] = OrderedDict()
        self._refused: tuple[datetime | None, Refusals] | None = None
        self._changed = asyncio.Condition()
        self._declared = 0
        self.bundle: Bundle | None = None
        """What is declared; None if it must be read from the store."""
        self.facts = Facts()
        self.trust = Standings()
        self.tokens = TokenRevocations(clock)
        self.recent = RecentChanges()
        self.touched = TouchedIdentities()
        self.reading = asyncio.Lock()
        """Held while the bundle is read from the store: once is enough for all who want it."""
        self.epoch = 0
        self.policies_epoch = 0
        self.nodes_epoch = 0
        self.refusals_epoch = 0
        self.loads = 0
        self._last: SealedEvent | None = None

    def load(self, seed: Seed) -> None:
        """Start from `seed`; applying events it already covers again changes nothing."""
        self.reload(seed)
        self.hear()

    def reload(self, seed: Seed) -> None:
        """Start again, perhaps from an earlier epoch, since the journal isn't the one that was
        followed. That is no word from the source: the lease goes on as it was."""
        self._cut_off = dict(seed.cut_off)
        self._revoked = dict(seed.revoked)
        self._distrusted = dict(seed.distrusted)
        self._ended = dict(seed.ended)
        self.tokens.load(seed.tokens, seed.issued_until)
        self._refused = None
        self._touched.clear()
        self.facts.clear(seed.epoch)
        self.trust.clear(seed.epoch)
        self.bundle, self._declared = None, seed.epoch
        self.recent.clear(seed.epoch)
        self.touched.clear(seed.epoch)
        self.epoch = self.nodes_epoch = self.refusals_epoch = seed.epoch
        self.policies_epoch = seed.epoch
        self._last = None
        self.loads += 1

    def check_same(self, loads: int) -> None:
        """Raise `Unavailable` if this started again since `loads` was read: positions from before
        mean nothing now."""
        if self.loads != loads:
            raise Unavailable(
                "The database was set back, so this stream ends; come back for a complete value."
            )

    def keep_bundle(self, bundle: Bundle) -> None:
        """Keep what was read at its epoch or later, unless it may have changed since."""
        if bundle.epoch >= self._declared:
            self.bundle = bundle

    def hear(self, asked: float | None = None) -> None:
        """Note that the source is alive, whether or not there was news.

        `asked` is the monotonic time at which it was asked, if not now: an answer that took long
        is as old as the question.
        """
        asked = self._clock.monotonic() if asked is None else asked
        self._heard = asked if self._heard is None else max(self._heard, asked)

    def apply(self, events: Iterable[SealedEvent]) -> None:
        """Take in sealed events, in order. Events up to the present epoch are passed over."""
        for sealed in events:
            if sealed.position <= self.epoch:
                continue
            kind, body = sealed.event.type, sealed.event.body
            if kind.startswith("identity."):
                self.facts.drop(IdentityId(str(body["id"])), sealed.position)
                self.trust.forget(IdentityId(str(body["id"])))
                self._touch_identity(str(body["id"]), sealed.position)
            elif kind.startswith("evidence."):
                self.trust.drop(IdentityId(str(body["identity_id"])), sealed.position)
                self._touch_identity(str(body["identity_id"]), sealed.position)
            elif kind.startswith(_DECLARED_NOUNS):
                self.bundle, self._declared = None, sealed.position
                self.policies_epoch = sealed.position
            change = read_change(sealed)
            refusing = change is not None and self._take(change)
            # Who is new is told always: a reader may know a retired one of that name for longer.
            if change is not None and (refusing or kind == "identity.registered"):
                self.recent.note(change)
                self.refusals_epoch = sealed.position
            # Last: an event that was not understood is met again, and until then nothing is heard.
            self.epoch = sealed.position
            if kind not in INDIFFERENT:
                self._last = sealed
            if kind.startswith("identity.") and not refusing:
                self._touch(body.get("nodes"), sealed.position)
            elif kind.startswith(("identity.", *_SHARED_NOUNS)):
                self.nodes_epoch = sealed.position

    def _touch_identity(self, identity_id: str, position: int) -> None:
        self.touched.note(IdentityId(identity_id), position)
        self.policies_epoch = position

    def _touch(self, nodes: object, position: int) -> None:
        """Note for whom an identity changed that is cut off neither before nor after.

        Whoever is cut off is told to all nodes; so is what doesn't say where it belongs, as the
        events of earlier versions don't.
        """
        if not isinstance(nodes, list) or "*" in nodes:
            self.nodes_epoch = position
            return
        for name in nodes:
            self._touched[name] = position
            self._touched.move_to_end(name)
        while len(self._touched) > NODES:
            # Forgotten alone, it counts for everybody: who has read since then loses nothing.
            self.nodes_epoch = max(self.nodes_epoch, self._touched.popitem(last=False)[1])

    def find_change(self, node: str) -> int:
        """The position of the last event that can change what `node` is sent."""
        return max(self.nodes_epoch, self._touched.get(node, 0))

    def advance(self, epoch: int) -> None:
        """Note that all up to `epoch` was taken in, or was indifferent."""
        self.epoch = max(self.epoch, epoch)

    def _take(self, change: Change) -> bool:
        """Note a change; false if it is none for whoever asks whom to refuse."""
        key, until, state = change.key, change.until, change.state
        self._refused = None
        if change.since is not None:
            self.tokens.end_issued(key, change.since)
        if change.about is About.TOKEN and until is not None:
            self.tokens.revoke(key, until)
        elif change.about is About.CERTIFICATE and until is not None:
            self._revoked[key] = until
        elif change.about is About.AUTHORITY and until is not None:
            self._distrusted[key] = until
        elif state is not None:
            known = (self._cut_off.pop(key, None), self._ended.pop(key, None))
            if state in CUT_OFF:
                self._cut_off[key] = state
            elif until is not None:
                self._ended[key] = until
            else:
                return known != (None, None)
        return True

    def list_cut_off(self) -> list[str]:
        """SPIFFE IDs, in order, that are suspended or quarantined, or retired while a token of
        theirs may still live."""
        return sorted({*self._cut_off, *self._list_ended()})

    def _list_ended(self) -> list[str]:
        now = self._clock.now()
        return [name for name, end in self._ended.items() if end > now]

    def list_refused(self) -> Refusals:
        """Whom to refuse, all of it, as of `last_position`.

        Made once and shared, until a change or until the next of the retired needs no refusal more:
        whoever comes back after an outage comes with a thousand others.
        """
        now = self._clock.now()
        if self._refused is not None and (self._refused[0] is None or now < self._refused[0]):
            return self._refused[1]
        retired = dict.fromkeys(self._list_ended(), State.RETIRED.value)
        refusals = Refusals(
            cut_off=retired | {name: state.value for name, state in self._cut_off.items()},
            revoked=count_seconds(self._revoked.items()),
            distrusted=count_seconds(self._distrusted.items()),
            tokens=self.tokens.list_revoked(),
            issued_until=self.tokens.list_issued_until(),
        )
        self._refused = (min((self._ended[name] for name in retired), default=None), refusals)
        return refusals

    def check_fresh(self) -> None:
        """Raise `Unavailable` once nothing was heard from the source for longer than the lease."""
        if self._heard is None:
            raise Unavailable("The server is still loading its state; try again in a moment.")
        silent = self.age
        if silent > self._lease.total_seconds():
            raise Unavailable(
                f"The journal has been silent for {silent:.0f} s, longer than the lease of "
                f"{self._lease.total_seconds():.0f} s, so nothing is permitted until it is back."
            )

    @property
    def age(self) -> float:
        """Seconds since the source was last heard; infinite before the first time."""
        return math.inf if self._heard is None else self._clock.monotonic() - self._heard

    @property
    def last_position(self) -> int:
        """The position of the last event that was taken in: `epoch`, less what was indifferent."""
        return self.epoch if self._last is None else self._last.position

    @property
    def mark(self) -> str:
        """What tells the event at `last_position` from another journal's; "" before the first."""
        return "" if self._last is None else mark_event(self._last)

    def find_cut_off(self, spiffe_id: str) -> State | None:
        """The state that cuts this SPIFFE ID off, or None; that of a retired one as long as a token
        of it may live, or a certificate that is still to be revoked."""
        end = self._ended.get(spiffe_id)
        ended = end is not None and end > self._clock.now()
        return State.RETIRED if ended else self._cut_off.get(spiffe_id)

    def is_revoked(self, serial: str) -> bool:
        """Whether the certificate with this serial (lower-case hex) is revoked."""
        return serial in self._revoked

    def is_distrusted(self, key_id: str) -> bool:
        """Whether the authority with this key identifier (lower-case hex) is revoked."""
        return key_id in self._distrusted

    def drop_expired(self) -> None:
        """Forget revocations of what has expired by itself."""
        now = self._clock.now()
        self._refused = None
        self.tokens.drop_expired()
        self._distrusted = {k: end for k, end in self._distrusted.items() if end > now}
        self._revoked = {s: end for s, end in self._revoked.items() if end > now}
        self._ended = {name: end for name, end in self._ended.items() if end > now}

    async def announce(self) -> None:
        """Wake everybody who waits for a newer epoch."""
        async with self._changed:
            self._changed.notify_all()

    async def wait_beyond(
        self,
        epoch: int,
        seconds: float,
        *,
        node: str | None = None,
        refusals: bool = False,
        policies: bool = False,
    ) -> int:
        """The present epoch, once it is past `epoch`, or starts again, or after `seconds`.

        With `node`, only events that can change what the node of that name is sent count; with
        `refusals`, only those that change whom to refuse; with `policies`, those about what is
        declared, about identities and about evidence.
        """

        def current() -> int:
            if refusals:
                return self.refusals_epoch
            if policies:
                return self.policies_epoch
            return self.epoch if node is None else self.find_change(node)

        loads = self.loads
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: current() > epoch or self.loads != loads)
        except TimeoutError:
            pass
        return current()
