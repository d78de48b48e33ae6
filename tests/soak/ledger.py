"""What the servers acknowledged to the soak's clients: a promise each, to be found later."""

from __future__ import annotations

import threading
from collections.abc import Iterable
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
    joined: set[str] = field(default_factory=set)
    invited: set[str] = field(default_factory=set)
    activated: set[str] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)
    devices: dict[str, str] = field(default_factory=dict)
    """The instance of each device that enrolled, by the id of its code."""
    device_serials: set[str] = field(default_factory=set)
    sighted: dict[str, str] = field(default_factory=dict)
    """The uid of the workload that each identity was made for, by the identity's id."""
    applied: int = 0
    """The last round of manifests that was answered so far, from the first one on."""
    rounds: set[str] = field(default_factory=set)


class Ledger:
    """Collects promises from all clients; whoever audits takes them in turns."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._fresh = Promises()
        self._serials: dict[str, str] = {}
        self._joins: dict[str, str] = {}
        self._broken: list[str] = []
        self._cut_off: set[str] = set()
        self._devices: dict[str, str] = {}
        self._doubtful: set[str] = set()
        self._sighted: dict[str, str] = {}
        self._applied = 0
        self._manifests: dict[int, frozenset[str]] = {}
        self.counts: dict[str, int] = {}
        self.refusals: dict[str, int] = {}

    def take(self) -> Promises:
        """What was acknowledged since this was last called."""
        with self._guard:
            taken, self._fresh = self._fresh, Promises()
            taken.applied = self._applied
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

    def note_join(self, token_id: str, key: str) -> None:
        """A node that got a certificate for a join token, which works for one key."""
        with self._guard:
            before = self._joins.setdefault(token_id, key)
            if before != key:
                self._broken.append(f"the join token {token_id} was taken by two keys")
            self._fresh.joined.add(token_id)
            self._count("joins")

    def note_activation(self, authority_id: str) -> None:
        with self._guard:
            self._fresh.activated.add(authority_id)
            self._count("rotations")

    def note_codes(self, code_ids: Iterable[str]) -> None:
        with self._guard:
            for code_id in code_ids:
                self._fresh.codes.add(code_id)
                self._count("enrolment codes")

    def note_enrolment(self, code_id: str, instance_id: str) -> None:
        """A device that enrolled with a code, which is good for one."""
        with self._guard:
            if code_id in self._devices:
                self._broken.append(f"the enrolment code {code_id} let two devices in")
            self._devices[code_id] = self._fresh.devices[code_id] = instance_id
            self._count("enrolments")

    def note_device_certificate(self, serial: str) -> None:
        """Of a device; it stands until somebody asks for its end."""
        with self._guard:
            self._fresh.device_serials.add(serial)
            self._count("device certificates")

    def doubt(self, serials: Iterable[str]) -> None:
        """Their end is about to be asked for: until it is answered, either may be true."""
        with self._guard:
            self._doubtful |= set(serials)

    def list_doubtful(self) -> set[str]:
        """Device certificates whose end was asked for."""
        with self._guard:
            return set(self._doubtful)

    def note_sight(self, uid: str, identity_id: str) -> None:
        """The identity of a workload that was met, which has one and keeps it."""
        with self._guard:
            if self._sighted.setdefault(uid, identity_id) != identity_id:
                self._broken.append(f"uid {uid} was given two identities")
            self._fresh.sighted[identity_id] = uid
            self._count("sights")

    def ask_manifests(self, names: Iterable[str]) -> int:
        """A round of manifests with these names is about to be applied; its number."""
        with self._guard:
            number = len(self._manifests) + 1
            self._manifests[number] = frozenset(names)
            return number

    def note_manifests(self, number: int) -> None:
        with self._guard:
            self._applied = number
            self._fresh.rounds.add(str(number))
            self._count("manifests")

    def find_mixture(self, living: Iterable[tuple[str, str]], least: int = 0) -> str | None:
        """What is wrong with the names and purposes of what manifests made, which must be one round
        as it was asked for, and none before `least`; None if nothing is. It was read before."""
        found: dict[int, set[str]] = {}
        for name, purpose in living:
            found.setdefault(int(purpose.removeprefix("Round ")), set()).add(name)
        if len(found) > 1:
            return f"the manifests of rounds {sorted(found)} live beside each other"
        if least and not found:
            return f"nothing is left of the manifests of round {least}"
        for number, names in found.items():
            if number < least:
                return f"round {least} of the manifests fell back to {number}"
            if names != self.name_manifests(number):
                return f"of round {number} of the manifests live {sorted(names)}"
        return None

    def name_manifests(self, number: int) -> frozenset[str]:
        """The names of a round that was asked for."""
        with self._guard:
            return self._manifests.get(number, frozenset())

    def count_acknowledged(self) -> int:
        """How many operations were answered with success."""
        with self._guard:
            return sum(self.counts.values())

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
