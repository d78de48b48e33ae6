"""A house with witnesses around it."""

from __future__ import annotations

from functools import partial

from tests.fakes.house import FakeHouse
from tests.fakes.witnesses import DeskWitness, make_desk, make_signer
from troth.audit.checkpoint import Checkpoint, parse_checkpoint
from troth.audit.note import parse_note, verify_note
from troth.audit.tile import prove_consistency
from troth.audit.witness import WitnessPolicy
from troth.drivers.witnesses import Witness
from troth.operations.feed import FollowJournal
from troth.operations.log import WriteLog
from troth.operations.recording import BACKGROUND, record_event
from troth.operations.witnessing import GatherCosignatures, Seat
from troth.server.witness.signer import WitnessSigner
from troth.store.checkpoints import StoredCheckpoint
from troth.store.sealer import Sealer

SECONDS = 5.0


class Meter:
    """Remembers what was told last."""

    cosigned = disputing = -1

    def observe_witnesses(self, cosigned: int, disputing: int) -> None:
        self.cosigned, self.disputing = cosigned, disputing


class Circle:
    """A house, its log, and witnesses of it."""

    def __init__(self, house: FakeHouse, quorum: int = 0, seconds: float = SECONDS) -> None:
        self.house = house
        self.signers: list[WitnessSigner] = []
        self.seats: list[Seat] = []
        self.quorum = quorum
        self.seconds = seconds
        self.meter = Meter()
        p = house.parts
        sealer = Sealer(p.store, clock=p.clock, holder=p.store.holder, memory=p.log)
        self.feed = FollowJournal(p.store, sealer, p.snapshot)
        self.write = WriteLog(p.store, p.clock, p.log, p.signer, sealer, alone=False)

    def seat(self, witness: Witness | None = None, *, keys: int = 2) -> DeskWitness | Witness:
        """One more witness; an honest one if none is given."""
        number = len(self.seats) + 1
        signer = make_signer(f"witness.example/w{number}", number)
        if witness is None:
            folder = self.house.directory / f"witness{number}"
            desk = make_desk(folder, *self.house.parts.signer.keys, signer=signer)
            witness = DeskWitness(desk)
        self.signers.append(signer)
        self.seats.append(Seat(signer.public[0].name, signer.public[:keys], witness, self.seconds))
        return witness

    def gather(self) -> GatherCosignatures:
        p = self.house.parts
        keys = tuple(key for seat in self.seats for key in seat.keys)
        return GatherCosignatures(
            p.store,
            p.clock,
            WitnessPolicy(keys, self.quorum or len(self.seats)),
            tuple(self.seats),
            partial(prove_consistency, p.log.read),
            self.meter,
        )

    async def grow(self, count: int = 5) -> None:
        """Events, sealed, written and signed."""
        now = self.house.clock.now()

        def record(tx) -> None:
            for number in range(count):
                record_event(tx, BACKGROUND, "test.noted", "x", now, number=number)

        await self.house.parts.store.transact(record)
        await self.feed()
        await self.write()

    async def newest(self) -> StoredCheckpoint:
        found = await self.house.parts.store.read(lambda tx: tx.checkpoints.newest())
        assert found is not None
        return found

    async def cosigners(self) -> set[str]:
        """Names of the witnesses whose valid cosignatures the newest checkpoint has."""
        note = parse_note((await self.newest()).note.encode())
        log = self.house.parts.signer.keys
        keys = [key for signer in self.signers for key in signer.public]
        return {key.name for key in verify_note(note, (*log, *keys))} - {log[0].name}

    async def disputes(self) -> list[dict[str, object]]:
        await self.feed()
        found = await self.house.parts.store.read(lambda tx: tx.journal.after(0, 10_000))
        events = [one.event for one in found if one.event.type == "log.disputed"]
        return [{"subject": one.subject, **one.body} for one in events]

    async def read(self) -> tuple[Checkpoint, str]:
        """The newest checkpoint, and its note's text."""
        text = parse_note((await self.newest()).note.encode()).text
        return parse_checkpoint(text), text
