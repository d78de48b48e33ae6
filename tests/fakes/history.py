"""A database with a history: every table has rows, made by the operations that really make them."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes.clients import render_manifest
from tests.fakes.house import DOMAIN, FailingKeystore, FakeHouse, open_house
from tests.fakes.stores import HOUR, NOW
from tests.fakes.templates import describe_template, submit
from troth.core.entropy import SeededEntropy
from troth.core.ids import RequestId, SecretId, SpiffeId
from troth.drivers.keystores import KeyKind
from troth.drivers.keystores.software import PrivateKey
from troth.operations.call import Caller
from troth.store.checkpoints import StoredCheckpoint
from troth.store.dead_letters import DeadLetter
from troth.store.engine import Transaction
from troth.store.holds import Hold
from troth.store.records import ClientSecret, HolderKind, Withdrawal
from troth.wire.api.certificates import InstanceClaim
from troth.wire.api.devices import InviteDevices
from troth.wire.api.identities import ListInstances, MoveIdentity, MoveInstance
from troth.wire.api.jwt_svids import IssueJwtSvids, JwtSvidRequest
from troth.wire.api.nodes import CreateJoinToken
from troth.wire.api.templates import SightWorkload
from troth.wire.api.trust import DAY, AddEvidence

SPAN = timedelta(days=183)
"""From the beginning of a history to its end: long enough for authorities to prepare successors."""

CLAIM = InstanceClaim(key="ab" * 16, pid=7, selectors=["unix:uid:1001"])


class NamedKeystore(FailingKeystore):
    """A keystore whose keys follow from their names, so that it needn't be kept with a database."""

    def __init__(self) -> None:
        super().__init__(SeededEntropy())

    def create_key(self, key_ref: str, kind: KeyKind = KeyKind.P256) -> bytes:
        if kind is not KeyKind.P256:  # the log's: it is looked at in no history
            return super().create_key(key_ref, kind)
        return self.public_key(key_ref)

    def _find(self, key_ref: str) -> PrivateKey:
        if key_ref in self.list_keys():
            return super()._find(key_ref)
        number = int.from_bytes(hashlib.sha256(key_ref.encode()).digest()[:31], "big")
        return ec.derive_private_key(number, ec.SECP256R1())


async def make_history(directory: Path, url: str | None = None) -> None:
    """Live through a little of everything in a fresh database."""
    async with open_house(directory, url=url, keystore=NamedKeystore()) as house:
        await live(house)


async def live(house: FakeHouse) -> None:
    """Register, join, issue, lock, quarantine, retire, rotate; and leave some of it unfinished."""
    labels = {"env": "prod", "size": "L"}
    api = await house.register("api", labels=labels, purpose="Größe \U0001f511", hint="internal")
    bad = await house.register("bad", selectors=["unix:uid:1002"], nodes=["*"])
    await house.register("old", selectors=["unix:uid:1003"])
    node = await house.join()
    await house.join("edge")
    await house.issue(node, api.id)
    await house.issue(node, bad.id, selectors=["unix:uid:1002"], key="cd" * 16)
    wish = JwtSvidRequest(identity_id=api.id, audiences=["orders"], instance=CLAIM)
    await house.call("jwtsvid.issue", IssueJwtSvids(requests=[wish]), node)
    await house.call("identity.quarantine", MoveIdentity(name="bad", reason="it lied"))
    (copy,) = (await house.call("instance.ls", ListInstances(name="api"))).items
    await house.call("instance.lock", MoveInstance(id=copy.id, reason="strange"))
    await house.call("identity.retire", MoveIdentity(name="old", reason="over"))
    await house.call("token.join", CreateJoinToken(node="later"))
    evidence = AddEvidence(name="api", weight=-40, reason="Größe \U0001f511", half_life=DAY)
    await house.call("trust.add", evidence)
    await _meet_others(house, node)
    await house.publish()
    house.clock.advance(SPAN)
    await house.prepare()
    await house.settle()
    await house.register("waiting", selectors=["unix:uid:1004"])  # isn't sealed yet
    await house.parts.store.transact(_add_rest)
    house.parts.store.shelf.put("x509-1.key", bytes(range(256)))


async def _meet_others(house: FakeHouse, node: Caller) -> None:
    """A workload that a template fits, and devices without an agent."""
    common = {"owner": "o@example.org", "purpose": "Größe \U0001f511"}
    role = render_manifest("Role", "reader", **common, permissions=[])
    await house.call("manifest.apply", submit(describe_template(), role))
    vault = render_manifest(
        "Resource", "vault", **common, actions={"open": "Look"}, sensitivity="critical"
    )
    held = await house.call("manifest.apply", submit(vault))
    assert held.held is not None
    await house.settle()
    sight = SightWorkload(selectors=["unix:gid:1500", "unix:uid:1500"], pid=7)
    await house.call("identity.sight", sight, node)
    await house.register("sensor-1", kind="device", selectors=["x509pop:cn:sensor-1"])
    await house.call("device.invite", InviteDevices(names=["sensor-1"]))


def _add_rest(tx: Transaction) -> None:
    """What a server's processes keep about themselves."""
    tx.cursors.save("sink", 7)
    tx.used_proofs.take("ab" * 32, NOW + HOUR)
    tx.token_revocations.add("tok_gone", NOW + HOUR)
    (holder,) = tx.identities.list_named(["api"])
    tx.client_secrets.add(
        ClientSecret(SecretId("csec_gone"), "ab" * 32, holder.id, "uid:0", NOW, NOW + HOUR)
    )
    tx.leases.take("sealer", "somebody", NOW, HOUR)
    tx.withdrawals.add(
        Withdrawal(
            holder="nod_gone",
            kind=HolderKind.NODE,
            subject=str(SpiffeId(DOMAIN, "/troth/node/gone")),
            reason="privilegeWithdrawn",
            actor="uid:0",
            source="test",
            request_id=RequestId("req_gone"),
            began_at=NOW,
            reached=NOW + HOUR,
        )
    )
    tx.settings.set("trust_domain", str(DOMAIN))
    tx.checkpoints.add(StoredCheckpoint(3, bytes(range(32)), "log\n3\n", NOW, published=True))
    tx.holds.add(Hold("case-13", NOW, NOW + HOUR, "a case", "uid:0", NOW))
    tx.dead_letters.add_all([DeadLetter("siem", "journal", 3, NOW, "too large", b"{}")])
