"""Witnesses are asked to cosign the newest checkpoint, and it is published once enough have.

All are asked at once and each has a time of its own, so one that hangs, lies or answers rubbish
holds up nobody else. One that doesn't answer is asked less and less often. One that says that the
log isn't what it was before is told of: that is what witnesses are for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Protocol

import structlog

from troth.audit.note import (
    Note,
    Signature,
    VerifierKey,
    merge_signatures,
    parse_note,
    render_note,
)
from troth.audit.witness import (
    Cosigned,
    Declined,
    Reason,
    Submission,
    WitnessPolicy,
    select_cosignatures,
)
from troth.core.clock import Clock
from troth.core.errors import Invalid, TrothError, Unavailable
from troth.drivers.witnesses import Witness
from troth.operations.recording import BACKGROUND, record_event
from troth.store.checkpoints import StoredCheckpoint
from troth.store.engine import Store
from troth.store.transaction import Transaction

LEASE = "log.witness"
LEASE_TTL = timedelta(seconds=60)
LINGER = 2.0
"""Seconds for which the others are waited for once enough have cosigned."""
LONGEST_PAUSE = 60.0
"""Seconds until a witness that fails is asked again."""
MOST_CALLS = 3
"""Of one witness about one checkpoint: the second starts from the size that it told."""
UNKNOWN = "It doesn't know this log: give its operator the log's vkeys (troth serves /log/vkey)."

log = structlog.get_logger(__name__)


class WitnessMeter(Protocol):
    """Told how the witnesses stand."""

    def observe_witnesses(self, cosigned: int, disputing: int) -> None:
        """How many cosigned the newest checkpoint, and how many say that the log was another."""
        ...


class Disputed(Unavailable):
    """The witness has seen another log; `size` is that of what it saw."""

    def __init__(self, detail: str, reason: str, size: int) -> None:
        super().__init__(detail)
        self.reason = reason
        self.size = size


@dataclass(frozen=True, slots=True)
class Seat:
    """A configured witness: its keys, all under its name, how it is reached, and the seconds that
    it has for everything about one checkpoint."""

    name: str
    keys: tuple[VerifierKey, ...]
    witness: Witness
    seconds: float

    def has_signed(self, note: Note) -> bool:
        """Whether one of its keys has."""
        ids = {(key.name, key.key_id) for key in self.keys}
        return any((one.name, one.key_id) in ids for one in note.signatures)


@dataclass(slots=True)
class _Memory:
    """What is kept in mind of a witness: the size that it had last, how often it failed since it
    cosigned, until when it isn't asked, and which disputes were logged since then. What it
    disputes is in the store alone: another server may have asked it meanwhile."""

    size: int = 0
    failures: int = 0
    until: float = 0.0
    logged: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class GatherCosignatures:
    """Background: ask every witness about the newest checkpoint. Idempotent.

    `prove` makes the consistency proof between two sizes of the log, and may block.
    """

    store: Store
    clock: Clock
    policy: WitnessPolicy
    seats: tuple[Seat, ...]
    prove: Callable[[int, int], tuple[bytes, ...]]
    meter: WitnessMeter | None = None
    _memories: dict[str, _Memory] = field(default_factory=dict)

    async def __call__(self) -> None:
        """Ask those who haven't signed it yet, add what they sign, publish."""
        newest = await self.store.read(lambda tx: tx.checkpoints.newest())
        if newest is None:
            return
        note = parse_note(newest.note.encode())
        now = self.clock.monotonic()
        asked = [
            seat
            for seat in self.seats
            if not seat.has_signed(note) and self._recall(seat).until <= now
        ]
        if not newest.published and self._is_enough(note):  # fewer are asked for than before
            await self._save(newest.size, note)
        if asked:
            mine = await self.store.transact(self._take_lease)
            note = await self._ask_all(asked, newest, note) if mine else note
        if self.meter is not None:
            cosigned = sum(seat.has_signed(note) for seat in self.seats)
            self.meter.observe_witnesses(cosigned, await self.store.read(self._count_disputing))

    def _take_lease(self, tx: Transaction) -> bool:
        return tx.leases.take(LEASE, self.store.holder, self.clock.now(), LEASE_TTL)

    def _recall(self, seat: Seat) -> _Memory:
        return self._memories.setdefault(seat.name, _Memory())

    def _count_disputing(self, tx: Transaction) -> int:
        return sum(bool(_list_disputes(tx, seat)) for seat in self.seats)

    # All of them

    async def _ask_all(self, asked: list[Seat], newest: StoredCheckpoint, note: Note) -> Note:
        """The note with what was gathered; saved and, if that is enough, published on the way.

        Once it is enough the others have a moment. Where it was before they have all of their
        time, so that a slow one comes to sign at all, until there is a newer checkpoint to ask for.
        """
        before = self._is_enough(note)
        waiting = {asyncio.create_task(self._try(seat, newest, note)) for seat in asked}
        try:
            while waiting:
                enough = self._is_enough(note)
                lingers = enough and not before
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=LINGER if enough else None,
                    return_when=asyncio.ALL_COMPLETED if lingers else asyncio.FIRST_COMPLETED,
                )
                found = [one for task in done for one in task.result()]
                if found:
                    note = await self._save(newest.size, merge_signatures(note, found))
                if lingers or (enough and await self._is_over(newest)):
                    return note
            return note
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _is_enough(self, note: Note) -> bool:
        signed = {(one.name, one.key_id) for one in note.signatures}
        keys = (key for key in self.policy.witnesses if (key.name, key.key_id) in signed)
        return self.policy.is_met(keys)

    async def _is_over(self, asked: StoredCheckpoint) -> bool:
        newest = await self.store.read(lambda tx: tx.checkpoints.newest())
        return newest is None or newest.size != asked.size

    async def _save(self, size: int, note: Note) -> Note:
        return await self.store.transact(partial(self._merge, size, note))

    def _merge(self, size: int, note: Note, tx: Transaction) -> Note:
        """Add to what is kept: another server, whose lease ran out, may have gathered as well."""
        known = (tx.checkpoints.newest(), tx.checkpoints.newest_published())
        for stored in known:
            if stored is not None and stored.size == size:
                kept = parse_note(stored.note.encode())
                if kept.text != note.text:
                    break  # the log was begun anew
                note = merge_signatures(kept, note.signatures)
                text, enough = render_note(note).decode(), self._is_enough(note)
                tx.checkpoints.save_note(size, text, published=enough)
                break
        return note

    # One of them

    async def _try(self, seat: Seat, newest: StoredCheckpoint, note: Note) -> tuple[Signature, ...]:
        """The witness's cosignatures; none if it fails, which is told and kept in mind."""
        memory = self._recall(seat)
        memory.failures += 1  # unless it cosigns, whatever comes in between
        pause = min(LONGEST_PAUSE, 2.0 ** min(memory.failures - 1, 10))
        memory.until = self.clock.monotonic() + pause
        try:
            async with asyncio.timeout(seat.seconds):
                found = await self._ask(seat, newest, note)
        except TimeoutError:
            log.warning("witness.silent", witness=seat.name, seconds=seat.seconds)
            return ()
        except Disputed as error:
            await self._dispute(seat, newest, error)
            return ()
        except TrothError as error:
            log.warning("witness.failed", witness=seat.name, detail=error.detail)
            return ()
        except Exception:
            # Whatever goes wrong with one of them must not keep the others from being heard.
            log.exception("witness.broke", witness=seat.name)
            return ()
        memory.failures, memory.until, memory.size = 0, 0.0, newest.size
        memory.logged.clear()
        if await self.store.read(lambda tx: _list_disputes(tx, seat)):
            await self.store.transact(lambda tx: tx.settings.drop(_name_dispute(seat)))
        return found

    async def _ask(self, seat: Seat, newest: StoredCheckpoint, note: Note) -> tuple[Signature, ...]:
        names = self.policy.names
        bare = Note(note.text, tuple(one for one in note.signatures if one.name not in names))
        old = self._recall(seat).size
        if old > newest.size:
            old = 0
        for _ in range(MOST_CALLS):
            proof = await asyncio.to_thread(self.prove, old, newest.size)
            answer = await seat.witness.add_checkpoint(Submission(old, proof, bare))
            if isinstance(answer, Cosigned):
                return select_cosignatures(note.text, answer.signatures, seat.keys)
            had, old = old, await self._read_refusal(answer, old, newest)
            if old < had:
                log.warning("witness.forgot", witness=seat.name, had=had, has=old)
            self._recall(seat).size = old
        raise Invalid("It says that it has another size each time.")

    async def _read_refusal(self, answer: Declined, old: int, newest: StoredCheckpoint) -> int:
        """The size to start from instead; raises what the refusal means."""
        match answer.reason:
            case Reason.STALE if answer.size > newest.size:
                # Another server of ours may have signed and shown it more meanwhile.
                known = await self.store.read(lambda tx: tx.checkpoints.newest())
                if known is not None and known.size >= answer.size:
                    raise Unavailable("A newer checkpoint was signed meanwhile.")
                raise Disputed(
                    f"It has cosigned {answer.size} entries, and this log has {newest.size}.",
                    "rolled_back",
                    answer.size,
                )
            case Reason.STALE if answer.size == old != newest.size:
                raise Invalid("It refuses the very size that it says it has.")
            case Reason.STALE if answer.size != old:
                return answer.size
            case Reason.STALE | Reason.FORKED | Reason.INCONSISTENT if not old:
                raise Invalid("It has cosigned nothing yet, and refuses what it could begin with.")
            case Reason.STALE | Reason.FORKED | Reason.INCONSISTENT:
                # Of the same size, some witnesses say 422, and some which size they have.
                same = old == newest.size
                raise Disputed(
                    f"It has cosigned {old} entries that this log doesn't continue.",
                    (Reason.FORKED if same else Reason.INCONSISTENT).value,
                    old,
                )
            case Reason.UNKNOWN_LOG:
                raise Invalid(UNKNOWN)
            case Reason.UNSIGNED:
                raise Invalid("It knows this log by other keys than those that sign it.")
        raise Invalid("It can't read what it was sent.")

    # What must not be

    async def _dispute(self, seat: Seat, newest: StoredCheckpoint, found: Disputed) -> None:
        logged = self._recall(seat).logged
        recorded = await self.store.transact(partial(self._record, seat, newest, found))
        if recorded or found.reason not in logged:
            logged.add(found.reason)
            log.error(
                "log.disputed",
                by=seat.name,
                why=found.reason,
                size=found.size,
                own_size=newest.size,
                own_root=newest.root.hex(),
                detail=found.detail,
            )

    def _record(
        self, seat: Seat, newest: StoredCheckpoint, found: Disputed, tx: Transaction
    ) -> bool:
        """Once for each thing that a witness can say, until it cosigns again."""
        known = _list_disputes(tx, seat)
        if found.reason in known:
            return False
        tx.settings.set(_name_dispute(seat), " ".join(sorted({*known, found.reason})))
        record_event(
            tx,
            BACKGROUND,
            "log.disputed",
            seat.name,
            self.clock.now(),
            why=found.reason,
            size=found.size,
            own_size=newest.size,
            own_root=newest.root.hex(),
            detail=found.detail,
        )
        return True


def _name_dispute(seat: Seat) -> str:
    return f"log.disputed/{seat.name}"


def _list_disputes(tx: Transaction, seat: Seat) -> list[str]:
    """Why the witness says that the log was another, each reason once; none if it doesn't."""
    return (tx.settings.get(_name_dispute(seat)) or "").split()
