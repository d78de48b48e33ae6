"""Instances: list the running copies of an identity; lock one alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from troth.core.clock import Clock
from troth.core.errors import Refused
from troth.core.ids import InstanceId
from troth.identity.identity import Identity, Instance
from troth.operations.call import Call
from troth.operations.recording import record_event, record_revocations
from troth.operations.target import target_of
from troth.operations.token_revocation import end_tokens
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import identities as wire


@dataclass(frozen=True, slots=True)
class ListInstances:
    """``instance.ls``: the running copies of one identity."""

    store: Store

    async def __call__(self, call: Call[wire.ListInstances]) -> wire.InstanceList:
        """Newest first."""

        def page(tx: Transaction) -> wire.InstanceList:
            identity = tx.identities.get_named(call.body.name)
            call.gate.check(target_of(identity))
            found = tx.instances.of_identity(identity.id)
            return wire.InstanceList(items=[_view(tx, identity, i) for i in found])

        return await self.store.read(page)


@dataclass(frozen=True, slots=True)
class MoveInstance:
    """``instance.lock`` and ``instance.unlock``; locking revokes the certificates that this copy
    holds and ends the access tokens that it obtained."""

    lock: bool
    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.MoveInstance]) -> wire.InstanceView:
        """Lock or unlock; `Refused` if it is so already."""
        now = self.clock.now()
        verbed = "locked" if self.lock else "unlocked"

        def move(tx: Transaction) -> wire.InstanceView:
            instance = tx.instances.get(InstanceId(call.body.id))
            identity = tx.identities.get(instance.identity_id)
            call.gate.check(target_of(identity))
            if instance.locked == self.lock:
                raise Refused(f"Instance {instance.id} is {verbed} already.")
            reason = call.body.reason if self.lock else ""
            tx.instances.set_locked(instance.id, self.lock, reason)
            record_event(
                tx,
                call,
                f"instance.{verbed}",
                str(identity.spiffe_id),
                now,
                id=instance.id,
                identity=identity.name,
                node=instance.node_id,
                pid=instance.pid,
                reason=call.body.reason,
            )
            if self.lock:
                withdrawn = "privilegeWithdrawn"
                serials = tx.certificates.revoke_for_instance(instance.id, now, withdrawn)
                record_revocations(tx, call, serials, withdrawn, now)
                end_tokens(tx, call, identity, now, call.body.reason, instance.id)
            moved = replace(instance, locked=self.lock, locked_reason=reason)
            return _view(tx, identity, moved)

        return await self.store.transact(move)


def _view(tx: Transaction, identity: Identity, instance: Instance) -> wire.InstanceView:
    return wire.InstanceView(
        id=instance.id,
        identity=identity.name,
        node=tx.nodes.get(instance.node_id).name if instance.node_id else "",
        pid=instance.pid,
        evidence=list(instance.evidence),
        locked=instance.locked,
        locked_reason=instance.locked_reason,
        first_seen=instance.first_seen,
        last_seen=instance.last_seen,
    )
