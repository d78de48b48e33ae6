"""Sinks as operators see them: how far each is, and what its receiver would not take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from troth.archive.record import DecisionRecord, decode_record
from troth.archive.resuming import split_place
from troth.audit.entry import StoredEvent
from troth.core.clock import Clock
from troth.core.errors import Invalid, NotFound, TrothError
from troth.drivers.sinks import Away, Message, Rejected
from troth.operations.call import Call
from troth.operations.journalsource import revive_event
from troth.operations.portrayal import DECISION, JOURNAL, Portrayer
from troth.operations.recording import record_event
from troth.operations.sinking import Channel, Source, find_trouble, name_cursor
from troth.store.dead_letters import DeadLetter
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import sinks as wire

log = structlog.get_logger(__name__)

RETRY_SECONDS = 10.0
"""After so long one call sends no other dead letter: who called goes on with the next."""


@dataclass(frozen=True, slots=True)
class ListSinks:
    """``sink.ls``: the sinks of this server's configuration, as the database knows them."""

    store: Store
    channels: Sequence[Channel]

    async def __call__(self, call: Call[wire.ListSinks]) -> wire.SinkList:
        """All of them; looks at no receiver."""
        return await self.store.read(self._list)

    def _list(self, tx: Transaction) -> wire.SinkList:
        letters = tx.dead_letters.count()
        return wire.SinkList(
            items=[
                wire.SinkView(
                    name=channel.name,
                    driver=channel.outlet.driver,
                    where=channel.outlet.target.where,
                    format=channel.outlet.target.format.value,
                    dead_letters=letters.get(channel.name, 0),
                    sources=[_view(tx, channel.name, source) for source in channel.sources],
                )
                for channel in self.channels
            ]
        )


def _view(tx: Transaction, sink: str, source: Source) -> wire.SinkSource:
    cursor = name_cursor(sink, source.name)
    position = tx.cursors.get(cursor)
    trouble = find_trouble(tx, cursor)
    journal = source.name == JOURNAL
    return wire.SinkSource(
        source=source.name,
        position=position if journal else split_place(position)[0],
        behind=tx.journal.head() - position if journal else source.count_behind(position),
        trouble=trouble.reason if trouble else "",
        since=trouble.since if trouble else None,
    )


@dataclass(frozen=True, slots=True)
class ListDeadLetters:
    """``dead_letter.ls``: what a sink didn't deliver. Also of a sink that is no longer there."""

    store: Store

    async def __call__(self, call: Call[wire.ListDeadLetters]) -> wire.DeadLetterPage:
        """A page of it."""
        body = call.body
        found = await self.store.read(
            lambda tx: tx.dead_letters.page(body.sink, body.limit + 1, (body.source, body.position))
        )
        shown = found[: body.limit]
        return wire.DeadLetterPage(
            items=[view_letter(letter) for letter in shown], more=len(found) > len(shown)
        )


@dataclass(frozen=True, slots=True)
class RetryDeadLetters:
    """``dead_letter.retry``: each is sent by itself, whatever the order was. What is delivered is
    forgotten; what is refused again stays, and holds up none behind it."""

    store: Store
    clock: Clock
    channels: Sequence[Channel]

    async def __call__(self, call: Call[wire.RetryDeadLetters]) -> wire.DeadLettersDone:
        """Until one can't be sent because the receiver is away, or it takes too long for one call.
        `NotFound` for no such sink or letter."""
        body = call.body
        channel = self._find_channel(body.sink)
        letters, more = await self.store.read(lambda tx: _list_to_retry(tx, body))
        end = self.clock.monotonic() + RETRY_SECONDS
        done = refused = 0
        trouble, last = "", body.after
        for letter in letters:
            if self.clock.monotonic() >= end:
                more = True
                break
            try:
                delivered = await self._retry(channel, letter)
            except Away as error:
                trouble, more = error.detail, True
                break
            done, refused = done + delivered, refused + (not delivered)
            last = f"{letter.source}/{letter.position}"
        left = await self.store.transact(lambda tx: self._record(tx, call, done, refused))
        return wire.DeadLettersDone(
            done=done,
            refused=refused,
            left=left,
            trouble=trouble,
            next=last if more and body.all else "",
        )

    async def _retry(self, channel: Channel, letter: DeadLetter) -> bool:
        """Send one and forget it; False if it stays, since it was refused again or there is nothing
        to send. Raises `Away`."""
        try:
            await self._send(channel, letter)
        except Away:
            raise
        except TrothError as error:
            log.info("sink.refused_again", sink=channel.name, reason=error.detail)
            return False
        except Exception:
            # Whatever is wrong with this one, those behind it must not wait for it.
            log.exception("sink.not_portrayed", source=letter.source, position=letter.position)
            return False
        await self.store.transact(partial(_remove, letter))
        return True

    def _find_channel(self, name: str) -> Channel:
        for channel in self.channels:
            if channel.name == name:
                return channel
        raise NotFound(
            f"This server's configuration has no sink {name!r}, so nothing can be sent to it. "
            "`troth audit sinks` lists those that there are."
        )

    async def _send(self, channel: Channel, letter: DeadLetter) -> None:
        message = await self._revive(channel.portrayer, letter)
        if len(message.content) > channel.largest:
            raise Rejected(f"It is larger than this sink sends ({channel.largest} bytes).")
        await channel.outlet.send_again(message)

    async def _revive(self, portrayer: Portrayer, letter: DeadLetter) -> Message:
        """As it is rendered now, which may be otherwise than when it was refused."""
        if letter.source != JOURNAL:
            return portrayer.portray_decision(_read_decision(letter), letter.source)
        event = _read_event(letter)
        if event is None:
            event = await self.store.read(lambda tx: tx.journal.find_stored(letter.position))
        if event is None:
            raise NotFound("What it was lies only in the log's tiles and in the archive.")
        return portrayer.portray_event(event)

    def _record(self, tx: Transaction, call: Call[Any], done: int, refused: int) -> int:
        sink = call.body.sink
        record_event(
            tx,
            call,
            "dead_letter.retried",
            sink,
            self.clock.now(),
            delivered=done,
            refused=refused,
        )
        return tx.dead_letters.count().get(sink, 0)


@dataclass(frozen=True, slots=True)
class DropDeadLetters:
    """``dead_letter.drop``: what is forgotten stays where it was recorded, and never reaches the
    receiver."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.DropDeadLetters]) -> wire.DeadLettersDone:
        """All or none of what is meant. `NotFound` for no such letter."""
        return await self.store.transact(lambda tx: self._drop(tx, call))

    def _drop(self, tx: Transaction, call: Call[wire.DropDeadLetters]) -> wire.DeadLettersDone:
        sink = call.body.sink
        letters = _list_wanted(tx, call.body)
        for letter in letters:
            tx.dead_letters.remove(sink, letter.source, letter.position)
        record_event(
            tx,
            call,
            "dead_letter.dropped",
            sink,
            self.clock.now(),
            letters=[f"{letter.source}/{letter.position}" for letter in letters],
        )
        left = tx.dead_letters.count().get(sink, 0)
        return wire.DeadLettersDone(done=len(letters), refused=0, left=left)


def _list_to_retry(tx: Transaction, body: wire.RetryDeadLetters) -> tuple[list[DeadLetter], bool]:
    """What is meant, and whether there are others behind it."""
    if not (body.all and body.after):
        letters = _list_wanted(tx, body)
        return letters, body.all and len(letters) == body.limit
    source, _, position = body.after.rpartition("/")
    if not (source and position.isascii() and position.isdecimal()):
        raise Invalid("after: it is what `next` of an earlier answer says.")
    letters = tx.dead_letters.page(body.sink, body.limit, (source, int(position)))
    return letters, len(letters) == body.limit


def _list_wanted(
    tx: Transaction, body: wire.RetryDeadLetters | wire.DropDeadLetters
) -> list[DeadLetter]:
    if body.all and body.source is None and body.position is None:
        return tx.dead_letters.page(body.sink, body.limit)
    if body.all or body.source is None or body.position is None:
        raise Invalid("Name one by its source and position, or say that all are meant.")
    letter = tx.dead_letters.find(body.sink, body.source, body.position)
    if letter is None:
        raise NotFound(
            f"The sink {body.sink!r} has no dead letter {body.source}/{body.position}. "
            "`troth audit dead-letters ls SINK` lists them."
        )
    return [letter]


def _remove(letter: DeadLetter, tx: Transaction) -> None:
    tx.dead_letters.remove(letter.sink, letter.source, letter.position)


def view_letter(letter: DeadLetter) -> wire.DeadLetterView:
    """A dead letter as the API shows it."""
    type_, id_ = "", ""
    try:
        if letter.source == JOURNAL:
            event = _read_event(letter)
            type_, id_ = (event.type, str(event.position)) if event else ("", "")
        elif letter.content:
            type_, id_ = DECISION, _read_decision(letter).id
    except Invalid:
        pass  # of a later version: what is known of it is shown
    return wire.DeadLetterView(
        source=letter.source,
        position=letter.position,
        at=letter.at,
        reason=letter.reason,
        type=type_,
        id=id_,
        size=len(letter.content),
    )


def _read_event(letter: DeadLetter) -> StoredEvent | None:
    """As it was recorded; None if it isn't kept, so that it is looked up."""
    return revive_event(letter.content) if letter.content else None


def _read_decision(letter: DeadLetter) -> DecisionRecord:
    if not letter.content:
        raise NotFound("Nothing is kept of it: the segments that it is about are gone.")
    return decode_record(letter.content)
