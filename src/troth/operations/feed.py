"""The feed: seals the journal and keeps the live snapshot in step with what is sealed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog

from troth.core.events import SealedEvent
from troth.core.ids import IdentityId
from troth.identity.identity import State
from troth.issuance.authorities import TOKEN_ALGORITHMS, Authority, AuthorityState, Use
from troth.issuance.profiles import JWT_TTL_CEILING, TOKENS_OVER
from troth.live.recent import mark_event
from troth.live.snapshot import CUT_OFF, INDIFFERENT, Seed, Snapshot
from troth.operations.recording import name_key
from troth.store.engine import Store
from troth.store.sealer import Sealer
from troth.store.transaction import Transaction

log = structlog.get_logger(__name__)

BATCH = 1000
MOST_WAITING = 10_000
"""How many events that wait to be sealed are counted."""
LOOK_SECONDS = 1.0
"""How often the node that seals looks whether the journal is still the one it follows."""


async def read_seed(store: Store, now: datetime) -> Seed:
    """What a snapshot starts from, in one consistent read."""

    def read(tx: Transaction) -> Seed:
        retired = tx.identities.list_retired_since(now - TOKENS_OVER)
        revoking = [withdrawal.holder for withdrawal in tx.withdrawals.list_open()]
        retiring = tx.identities.find_all(map(IdentityId, revoking)).values()
        ended = tx.token_revocations.list_issued_until(now)
        return Seed(
            epoch=tx.journal.head(),
            cut_off={str(name): state for name, state in tx.identities.list_in_states(CUT_OFF)},
            revoked=dict(tx.certificates.list_revoked(now)),
            distrusted={
                name_key(authority): authority.not_after
                for use in (Use.X509, *TOKEN_ALGORITHMS)
                for authority in tx.authorities.list(use)
                if _is_distrusted(authority) and authority.not_after > now
            },
            tokens=dict(tx.token_revocations.list_tokens(now)),
            issued_until=_find_last([(str(n), at) for n, at, _ in retired] + ended),
            ended={
                str(name): now + JWT_TTL_CEILING
                for name in (
                    *(n for n, at, held in retired if not held and at >= now - JWT_TTL_CEILING),
                    *(one.spiffe_id for one in retiring if one.state is State.RETIRED),
                )
            },
        )

    return await store.read(read)


def _is_distrusted(authority: Authority) -> bool:
    """A certificate of a tainted authority is replaced while it lasts; a token counts no more."""
    tainted = authority.use in TOKEN_ALGORITHMS and authority.state is AuthorityState.TAINTED
    return tainted or authority.state is AuthorityState.REVOKED


def _find_last(moments: Iterable[tuple[str, datetime]]) -> dict[str, datetime]:
    found: dict[str, datetime] = {}
    for name, moment in moments:
        found[name] = max(moment, found.get(name, moment))
    return found


class FeedMeter(Protocol):
    """Counts what the feed did."""

    def observe_feed(self, waiting: int | None, lag: float | None) -> None:
        """How many committed events wait to be sealed, if that was found out; if events were taken
        in, seconds from the oldest of them to the snapshot that knows it."""
        ...


@dataclass(frozen=True, slots=True)
class _News:
    """What a read of the journal found.

    `events` are the next that matter, `last` the last of all that are sealed, `first_waiting` and
    `last_waiting` the row ids of those that aren't sealed (0: none), and `asked` the monotonic time
    before the read. `same` says whether this is the journal that was followed so far.
    """

    asked: float
    same: bool
    events: list[SealedEvent]
    last: SealedEvent | None
    waiting: int
    first_waiting: int
    last_waiting: int

    @property
    def head(self) -> int:
        return 0 if self.last is None else self.last.position


@dataclass(slots=True)
class _Watch:
    """What the feed keeps in mind from one run to the next.

    `last` is the last sealed event that was seen; `looked` when the journal was read last. All that
    waited at `since` had a row id of at most `until`; None while nothing is waited for.
    """

    last: SealedEvent | None = None
    looked: float | None = None
    since: float = 0.0
    until: int | None = None


@dataclass(frozen=True, slots=True)
class FollowJournal:
    """Background: seal what is committed, and take in what is sealed, whoever sealed it.

    What is new is live after one transaction: the one that sealed it, or a read of what another
    node has sealed, before anything else is done.

    If the database was set back, by a failover that lost commits or by a restored backup, the
    snapshot starts again from what is there.
    """

    store: Store
    sealer: Sealer
    snapshot: Snapshot
    meter: FeedMeter | None = None
    _watch: _Watch = field(default_factory=_Watch)

    async def __call__(self) -> set[str]:
        """Seal, apply, announce; the types of the events taken in, but for the indifferent ones.

        The lease counts from the last moment of which all that was committed is sealed and taken
        in: a sealer that is stuck or slow, here or on another node, must not pass for a quiet
        journal.
        """
        types: set[str] = set()
        if not self.sealer.leads:
            if not await self._look(types):
                return types
        elif self._is_look_due():
            await self._catch_up(types)
        if not await self._seal(types):
            await self._look(types)
        return types

    def _is_look_due(self) -> bool:
        looked = self._watch.looked
        return looked is None or self.store.clock.monotonic() - looked >= LOOK_SECONDS

    async def _seal(self, types: set[str]) -> bool:
        """Seal and take in all that is committed; False if that is another node's turn."""
        asked = self.store.clock.monotonic()
        while (sealed := await self.sealer.seal_batch()) is not None:
            if sealed.restored:
                await self._start_again(sealed.head)
            elif sealed.before == self.snapshot.epoch:
                await self._take_in(sealed.events, sealed.head, types)
            else:
                await self._catch_up(types)  # another one has sealed in between
            if not sealed.more:
                self.snapshot.hear(asked)
                self._watch.until = None
                self._tell(0, [])
                return True
            if self._is_look_due():
                # Under a stream of full batches the end is never seen, and yet all is live.
                await self._look(types)
            asked = self.store.clock.monotonic()
        return False

    async def _look(self, types: set[str]) -> bool:
        """Take in what others have sealed, and hear as of when; whether anything waits.

        Under a steady stream of commits something always waits. So what waited at one look is
        remembered, until none of it does: then all that was committed at that look is live.
        """
        news, watch = await self._catch_up(types), self._watch
        if not news.waiting:
            self.snapshot.hear(news.asked)
            watch.until = None
            return False
        if watch.until is not None and news.first_waiting <= watch.until:
            return True
        if watch.until is not None:
            self.snapshot.hear(watch.since)
        watch.since, watch.until = news.asked, news.last_waiting
        return True

    async def _catch_up(self, types: set[str]) -> _News:
        """Take in all that is sealed; what the last read found."""
        while True:
            news = await self._read_news(self.snapshot.epoch)
            if not news.same:
                await self._start_again(news.head)
                continue
            all_read = len(news.events) < BATCH
            await self._take_in(news.events, news.head if all_read else 0, types)
            if all_read:
                self._watch.last, self._watch.looked = news.last, news.asked
                self._tell(news.waiting, [])
                return news

    async def _start_again(self, head: int) -> None:
        """Positions and what came with them are void: everything is read anew."""
        log.warning("feed.set_back", before=self.snapshot.epoch, now=head)
        seed = await read_seed(self.store, self.store.clock.now())
        self._watch.last, self._watch.until = None, None
        self.snapshot.reload(seed)
        await self.snapshot.announce()

    async def _take_in(self, events: list[SealedEvent], head: int, types: set[str]) -> None:
        """Apply `events`, after which nothing up to `head` is left that matters."""
        if any(sealed.event.redacted for sealed in events):
            # What it told is in the state, and nowhere else any more.
            types.update(sealed.event.type for sealed in events)
            await self._start_again(events[-1].position)
            return
        before = self.snapshot.epoch
        self.snapshot.apply(events)
        self.snapshot.advance(head)
        types.update(sealed.event.type for sealed in events)
        if events:
            self._watch.last = events[-1]
            self._tell(None, events)
        if self.snapshot.epoch > before:
            await self.snapshot.announce()

    def _tell(self, waiting: int | None, events: list[SealedEvent]) -> None:
        if self.meter is not None:
            oldest = min((sealed.event.at for sealed in events), default=None)
            lag = None if oldest is None else (self.store.clock.now() - oldest).total_seconds()
            self.meter.observe_feed(waiting, lag)

    async def _read_news(self, epoch: int) -> _News:
        """What is new after `epoch`, in one consistent read."""
        asked, known = self.store.clock.monotonic(), self._watch.last

        def read(tx: Transaction) -> _News:
            last = next(iter(tx.journal.recent(1)), None)
            waiting = tx.journal.list_waiting(MOST_WAITING)
            counted = len(waiting) < MOST_WAITING
            return _News(
                asked=asked,
                same=epoch <= (0 if last is None else last.position) and _is_there(tx, known),
                events=tx.journal.after(epoch, BATCH, without=INDIFFERENT),
                last=last,
                waiting=len(waiting),
                first_waiting=min(waiting, default=0),
                last_waiting=max(waiting, default=0) if counted else tx.journal.last_waiting(),
            )

        return await self.store.read(read)


def _is_there(tx: Transaction, known: SealedEvent | None) -> bool:
    """Whether the journal holds this event at its position, and not another one."""
    if known is None:
        return True
    (found,) = tx.journal.after(known.position - 1, 1) or (None,)
    return (
        found is not None
        and found.position == known.position
        and mark_event(found) == mark_event(known)
    )
