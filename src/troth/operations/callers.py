"""Who is calling: from a peer's uid on the admin socket, or from a client certificate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from troth.core.errors import Denied
from troth.core.ids import TrustDomain
from troth.issuance.presented import Presented
from troth.live.snapshot import Snapshot
from troth.operations.call import Caller
from troth.operations.node import name_node
from troth.operations.peer import PeerReader
from troth.store.engine import Store
from troth.store.records import CertificateKind, NodeState

_NODES = "/troth/node/"
_DECLARED = "role:"

CAPACITY = 10_000
"""Certificates of which it is known whose they are; more are read again."""


class Recognised:
    """What the store said of the certificates that were shown last, for as long as it is the same
    journal. It is what never changes of a certificate: its node, and whether a device holds it."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._known: OrderedDict[str, tuple[int, Caller]] = OrderedDict()

    def find(self, serial: str, loads: int) -> Caller | None:
        """Whose it is, if that was read since the snapshot was loaded for the `loads`-th time."""
        found = self._known.get(serial)
        if found is None or found[0] != loads:
            return None
        self._known.move_to_end(serial)
        return found[1]

    def remember(self, caller: Caller, loads: int) -> None:
        """Keep what was read after the snapshot was loaded for the `loads`-th time."""
        self._known[caller.serial] = (loads, caller)
        self._known.move_to_end(caller.serial)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)


@dataclass(frozen=True, slots=True)
class CallerRegistry:
    """Turns proof of identity into a caller with roles. What isn't listed has none."""

    store: Store
    snapshot: Snapshot
    peers: PeerReader
    trust_domain: TrustDomain
    uid_roles: Mapping[int, str]
    spiffe_roles: Mapping[str, str]
    _recognised: Recognised = field(default_factory=Recognised)

    def by_uid(self, uid: int, source: str) -> Caller:
        """The caller on the admin socket; `Denied` for a uid without a role."""
        role = self.uid_roles.get(uid)
        if role is None:
            raise Denied(
                f"uid {uid} has no role on the admin socket; give it one under [roles.uids] in "
                "the server's configuration."
            )
        roles, declared = split_role(role)
        return Caller(f"uid:{uid}", roles, source=source, declared=declared)

    async def by_certificate(self, der: bytes, source: str) -> Caller:
        """The caller with this client certificate, if an authority of the trust domain signed it.

        Revocation, quarantine and the end of validity are looked at on every request, since a
        connection outlives all three.
        """
        loads = self.snapshot.loads
        shown = await self.peers.read(der)
        self._check_standing(shown)
        name = shown.spiffe_id.path.removeprefix(_NODES)
        if shown.spiffe_id.path.startswith(_NODES):
            caller = await self._find_node(name, shown, source)
        else:
            caller = await self._find_holder(shown, source)
        self._recognised.remember(caller, loads)
        return caller

    def confirm_certificate(self, der: bytes, source: str) -> Caller | None:
        """As `by_certificate` from memory alone; None if whose it is must be read.

        For callers that are asked about again and again, as with each value of a stream. Whatever
        takes a caller away shows in the snapshot: an eviction, a retirement and a node that joins
        anew revoke each certificate that lives, in the same transaction.
        """
        shown = self.peers.find(der)
        if shown is None:
            return None
        self._check_standing(shown)
        known = self._recognised.find(shown.serial, self.snapshot.loads)
        return None if known is None else replace(known, source=source)

    def _check_standing(self, shown: Presented) -> None:
        """Raise `Denied` if its holder is cut off by now."""
        state = self.snapshot.find_cut_off(str(shown.spiffe_id))
        if state is not None:
            raise Denied(f"{shown.spiffe_id} is {state.value}.")

    async def _find_node(self, name: str, shown: Presented, source: str) -> Caller:
        node = await self.store.read(lambda tx: tx.nodes.find_named(name))
        if node is None or node.state is not NodeState.ACTIVE:
            raise Denied(f"Node {name} is unknown or was evicted; join anew.")
        if node.spiffe_id != name_node(self.trust_domain, node.name):
            raise Denied(f"Node {name} belongs to another trust domain.")
        roles = frozenset({"node"})
        return Caller(str(shown.spiffe_id), roles, node.id, source, shown.serial)

    async def _find_holder(self, shown: Presented, source: str) -> Caller:
        given, declared = split_role(self.spiffe_roles.get(str(shown.spiffe_id), "workload"))
        roles = {*given} or {"workload"}
        record = await self.store.read(lambda tx: tx.certificates.find(shown.serial))
        if record is not None and record.kind is CertificateKind.DEVICE:
            roles.add("device")
        return Caller(str(shown.spiffe_id), frozenset(roles), None, source, shown.serial, declared)


def split_role(role: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """A role that configuration gives: one that comes with troth, or one of a manifest."""
    if role.startswith(_DECLARED):
        return frozenset(), (role.removeprefix(_DECLARED),)
    return frozenset({role}), ()
