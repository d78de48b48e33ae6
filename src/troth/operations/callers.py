"""Who is calling: from a peer's uid on the admin socket, or from a client certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from troth.core.clock import Clock
from troth.core.errors import Denied, Unauthenticated
from troth.core.ids import TrustDomain
from troth.issuance.presented import read_presented
from troth.live.snapshot import Snapshot
from troth.operations.call import Caller
from troth.operations.node import name_node
from troth.store.engine import Store
from troth.store.records import CertificateKind, NodeState


@dataclass(frozen=True, slots=True)
class CallerRegistry:
    """Turns proof of identity into a caller with roles. What isn't listed has none."""

    store: Store
    snapshot: Snapshot
    clock: Clock
    trust_domain: TrustDomain
    uid_roles: Mapping[int, str]
    spiffe_roles: Mapping[str, str]

    def by_uid(self, uid: int, source: str) -> Caller:
        """The caller on the admin socket; `Denied` for a uid without a role."""
        role = self.uid_roles.get(uid)
        if role is None:
            raise Denied(
                f"uid {uid} has no role on the admin socket; give it one under [roles.uids] in "
                "the server's configuration."
            )
        return Caller(principal=f"uid:{uid}", roles=frozenset({role}), source=source)

    async def by_certificate(self, der: bytes, source: str) -> Caller:
        """The caller with this client certificate, whose chain the TLS listener has verified.

        Revocation, quarantine and the end of validity are looked at on every request, since a
        connection outlives all three.
        """
        self.snapshot.check_fresh()
        shown = read_presented(der, self.trust_domain, self.clock.now())
        spiffe_id, serial = shown.spiffe_id, shown.serial
        if self.snapshot.is_revoked(serial) or self.snapshot.is_distrusted(shown.signer):
            raise Unauthenticated("The client certificate was revoked; get a new one.")
        name = spiffe_id.path.removeprefix("/troth/node/")
        if spiffe_id.path.startswith("/troth/node/"):
            node = await self.store.read(lambda tx: tx.nodes.find_named(name))
            if node is None or node.state is not NodeState.ACTIVE:
                raise Denied(f"Node {name} is unknown or was evicted; join anew.")
            if node.spiffe_id != name_node(self.trust_domain, node.name):
                raise Denied(f"Node {name} belongs to another trust domain.")
            return Caller(str(spiffe_id), frozenset({"node"}), node.id, source, serial)
        state = self.snapshot.find_cut_off(str(spiffe_id))
        if state is not None:
            raise Denied(f"{spiffe_id} is {state.value}.")
        roles = {self.spiffe_roles.get(str(spiffe_id), "workload")}
        record = await self.store.read(lambda tx: tx.certificates.find(serial))
        if record is not None and record.kind is CertificateKind.DEVICE:
            roles.add("device")
        return Caller(str(spiffe_id), frozenset(roles), None, source, serial)
