"""What the servers acknowledged to the soak's clients: a promise each, to be found later."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


class BrokenPromise(Exception):
    """Something that the soak must never see; its text says what and where."""


@dataclass(frozen=True, slots=True)
class Move:
    """An acknowledged step of an identity; `reason` is in its event and nowhere else."""

    identity: str
    verbed: str
    reason: str


@dataclass(slots=True)
class Promises:
    """A consistent copy of all that was acknowledged since the last one."""

    certificates: dict[str, str] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    identities: dict[str, str] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    moves: list[Move] = field(default_factory=list)
    joined: dict[str, str] = field(default_factory=dict)
    invited: set[str] = field(default_factory=set)
    activated: set[str] = field(default_factory=set)


class Ledger:
    """Collects promises from all clients; whoever audits takes them in turns."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._fresh = Promises()
        self._serials: dict[str, str] = {}
        self._joins: dict[str, str] = {}
        self._broken: list[str] = []
        self._cut_off: set[str] = set()
        self.counts: dict[str, int] = {}
        self.refusals: dict[str, int] = {}

    def take(self) -> Promises:
        """What was acknowledged since this was last called."""
        with self._guard:
            taken, self._fresh = self._fresh, Promises()
            return taken

    def complain(self, what: str) -> None:
        """Note a broken promise that a client saw for itself."""
        with self._guard:
            self._broken.append(what)

    def check(self) -> None:
        """Raise what a client has complained of."""
        with self._guard:
            if self._broken:
                raise BrokenPromise("; ".join(self._broken[:5]))

    def count_refusal(self, code: str) -> None:
        """Note an answer that wasn't success."""
        with self._guard:
            self.refusals[code] = self.refusals.get(code, 0) + 1

    def note_certificate(self, serial: str, digest: str) -> None:
        """A certificate in a client's hands; the same serial on other bytes is a broken promise."""
        with self._guard:
            if self._serials.setdefault(serial, digest) != digest:
                self._broken.append(f"the serial {serial} was given to two certificates")
            self._fresh.certificates[serial] = digest
            self._count("certificates")

    def note_token(self, jti: str) -> None:
        with self._guard:
            if jti in self._fresh.tokens:
                self._broken.append(f"the token id {jti} was given twice")
            self._fresh.tokens.add(jti)
            self._count("tokens")

    def note_identity(self, identity_id: str, name: str) -> None:
        with self._guard:
            self._fresh.identities[identity_id] = name
            self._count("registrations")

    def note_revocation(self, serial: str) -> None:
        with self._guard:
            self._fresh.revoked.add(serial)
            self._count("revocations")

    def note_move(self, move: Move) -> None:
        with self._guard:
            self._fresh.moves.append(move)
            self._count(move.verbed)

    def note_invitation(self, token_id: str) -> None:
        with self._guard:
            self._fresh.invited.add(token_id)
            self._count("join tokens")

    def note_join(self, token_id: str, serial: str) -> None:
        """A node that got a certificate for a join token, which works once."""
        with self._guard:
            before = self._joins.setdefault(token_id, serial)
            if before != serial:
                self._broken.append(f"the join token {token_id} was taken twice")
            self._fresh.joined[token_id] = serial
            self._count("joins")

    def note_activation(self, authority_id: str) -> None:
        with self._guard:
            self._fresh.activated.add(authority_id)
            self._count("rotations")

    def cut_off(self, identity_id: str) -> None:
        """This identity is quarantined from now on, acknowledged and for good."""
        with self._guard:
            self._cut_off.add(identity_id)

    def list_cut_off(self, limit: int) -> list[str]:
        """Identities that must get nothing, the same ones each time."""
        with self._guard:
            return sorted(self._cut_off)[-limit:]

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
