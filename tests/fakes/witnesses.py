"""A log of somebody else's, made with aics-tlog, and witnesses of every character."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import aics_tlog
from cryptography.hazmat.primitives.asymmetric import ed25519

from troth.audit.note import ED25519, Note, VerifierKey, make_verifier_key, parse_note, raw_public
from troth.audit.witness import (
    Cosigned,
    Declined,
    Reason,
    Refusal,
    Submission,
    render_submission,
)
from troth.core.clock import Clock, VirtualClock
from troth.core.entropy import SeededEntropy
from troth.drivers.keystores import KeyKind
from troth.drivers.keystores.memory import MemoryKeystore
from troth.server.witness.desk import WitnessDesk
from troth.server.witness.records import Records
from troth.server.witness.signer import KEYS, WitnessSigner


@dataclass
class OtherLog:
    """A log whose leaves, proofs and signatures are aics-tlog's. Two of one origin sign with the
    same key, so one of them is a fork of the other."""

    origin: str = "log.example/one"
    history: str = "true"
    tree: aics_tlog.MerkleTree = field(default_factory=aics_tlog.MerkleTree)

    def __post_init__(self) -> None:
        self.private = ed25519.Ed25519PrivateKey.from_private_bytes(
            self.origin.encode().ljust(32)[:32]
        )

    @property
    def key(self) -> VerifierKey:
        public = self.private.public_key().public_bytes_raw()
        return make_verifier_key(self.origin, ED25519, public)

    def grow(self, count: int) -> int:
        """Append so many entries; the new size."""
        for _ in range(count):
            self.tree.append(f"{self.history} {self.tree.size}".encode())
        return int(self.tree.size)

    def sign(self, size: int | None = None, *extensions: str) -> Note:
        """The checkpoint at a size; that of now if none is given."""
        at = self.tree.size if size is None else size
        checkpoint = aics_tlog.Checkpoint(self.origin, at, self.tree.root(at), extensions)
        return parse_note(
            aics_tlog.sign_checkpoint(checkpoint, self.private, self.origin).to_bytes()
        )

    def prove(self, old: int, new: int) -> tuple[bytes, ...]:
        return tuple(self.tree.consistency_proof(old, new)) if 0 < old < new else ()

    def submit(self, old: int, new: int | None = None) -> bytes:
        """A request that is as it should be."""
        at = self.tree.size if new is None else new
        return render_submission(Submission(old, self.prove(old, at), self.sign(at)))


def make_signer(name: str = "witness.example/w1", seed: int = 7) -> WitnessSigner:
    """Keys of a witness that are in memory."""
    keystore = MemoryKeystore(SeededEntropy(seed))
    keys = {
        key_ref: make_verifier_key(
            name, signs_as, raw_public(keystore.create_key(key_ref, KeyKind(kind)))
        )
        for key_ref, (kind, signs_as) in KEYS.items()
    }
    return WitnessSigner(keystore, keys)


def make_desk(
    folder: Path,
    *logs: VerifierKey,
    signer: WitnessSigner | None = None,
    clock: Clock | None = None,
) -> WitnessDesk:
    """A witness's desk on a folder."""
    signer = signer or make_signer()
    records = Records(folder, signer.public)
    return WitnessDesk(records, signer, logs, clock or VirtualClock())


@dataclass
class DeskWitness:
    """A witness by its desk, without HTTP; remembers what it was asked."""

    desk: WitnessDesk
    asked: list[Submission] = field(default_factory=list)

    async def add_checkpoint(self, submission: Submission) -> Cosigned | Declined:
        self.asked.append(submission)
        found = await asyncio.to_thread(self.desk.submit, render_submission(submission))
        if isinstance(found, Refusal):
            return Declined(found.reason, found.size)
        return Cosigned(found)


class HangingWitness:
    """Never answers."""

    def __init__(self) -> None:
        self.asked = 0

    async def add_checkpoint(self, submission: Submission) -> Cosigned | Declined:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


class SlowWitness:
    """Answers when it is told to, and whoever still asks then."""

    def __init__(self) -> None:
        self.asked = 0
        self._changed = asyncio.Condition()
        self._answer: asyncio.Future[Cosigned | Declined] = asyncio.Future()

    async def add_checkpoint(self, submission: Submission) -> Cosigned | Declined:
        async with self._changed:
            self.asked += 1
            self._changed.notify_all()
        return await asyncio.shield(self._answer)

    async def wait_until_asked(self, times: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.asked >= times)

    def answer(self, found: Cosigned | Declined) -> None:
        self._answer.set_result(found)


@dataclass
class SayingWitness:
    """Answers one thing after the other, and the last one for ever."""

    answers: list[Cosigned | Declined | Exception]
    asked: list[Submission] = field(default_factory=list)

    async def add_checkpoint(self, submission: Submission) -> Cosigned | Declined:
        self.asked.append(submission)
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


STALE = Declined(Reason.STALE, 1 << 40)
