"""On PostgreSQL, who lets a node in anew or cuts it off isn't starved by that very node's work."""

import asyncio
import itertools

import pytest

from tests.fakes.house import FailingKeystore, make_csr, open_house
from tests.fakes.stores import make_url
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.ids import RequestId
from troth.store.crew import PATIENCE
from troth.wire.api.certificates import CertificateRequest, InstanceClaim, IssueCertificates
from troth.wire.api.nodes import (
    AttestNode,
    CreateJoinToken,
    EvictNode,
    ReportWorkloads,
    WorkloadSeen,
)

STREAMS = 6
"""Callers of each server that go on as soon as they are answered."""
BATCH = 10
WARM = 20
"""Batches before the node is let in or cut off."""
MOST = PATIENCE + 4
"""Attempts: those of anybody, and a few more for what collides on something else."""


class Load:
    """The work of one node at several servers, until it is refused."""

    def __init__(self, node, identity, houses):
        self._node = node
        self._identity = identity
        self._csr = make_csr()
        self._numbers = itertools.count()
        self.done = 0
        self.issued = set()
        self.warm = asyncio.Event()
        self.tasks = [asyncio.create_task(self._work(h)) for h in houses for _ in range(STREAMS)]

    async def _work(self, house):
        while True:
            claims = [
                InstanceClaim(key=f"{next(self._numbers):032x}", pid=7, selectors=["unix:uid:1001"])
                for _ in range(BATCH)
            ]
            requests = [
                CertificateRequest(identity_id=self._identity, csr=self._csr, instance=claim)
                for claim in claims
            ]
            answer = await self._call(house, "certificate.issue", requests=requests)
            if any(one.error for one in answer.results):
                assert {one.error.code for one in answer.results} == {"permission_denied"}
                return
            self.issued.update(one.serial for one in answer.results)
            seen = [WorkloadSeen(instance_id=one.instance_id) for one in answer.results]
            if self.done % 5 == 0 and not self.warm.is_set():
                await self._call(house, "node.report", seen=seen, refused=[])
            self.done += 1
            if self.done == WARM:
                self.warm.set()

    async def _call(self, house, name, **fields):
        kinds = {"certificate.issue": IssueCertificates, "node.report": ReportWorkloads}
        return await house.dispatcher.call(
            name, self._node, RequestId("req_load"), kinds[name](**fields)
        )


class Attempts:
    """How often each function of a store was begun."""

    def __init__(self, store):
        self.most = 0
        self._store = store

    async def watch(self, make_call):
        """The result of `make_call`, with its transactions counted."""
        original = self._store.transact

        async def transact(function):
            runs = itertools.count(1)

            def run(tx):
                self.most = max(self.most, next(runs))
                return function(tx)

            return await original(run)

        self._store.transact = transact
        try:
            return await make_call()
        finally:
            del self._store.transact


async def join_anew(house):
    made = await house.call("token.join", CreateJoinToken(node="local"))
    body = AttestNode(method="join_token", evidence=made.token, csr=make_csr())
    await house.call("node.attest", body)


async def evict(house):
    await house.call("node.evict", EvictNode(name="local", reason="stolen"))


@pytest.mark.parametrize("act", [join_anew, evict])
def test_a_busy_node_is_let_in_anew_or_cut_off_within_a_few_attempts(tmp_path, act):
    url = make_url("postgresql", tmp_path)
    clock, keystore = VirtualClock(), FailingKeystore(SeededEntropy(5))

    async def main():
        async with (
            open_house(tmp_path, url=url, clock=clock, keystore=keystore) as house,
            open_house(tmp_path, 2, url=url, clock=clock, keystore=keystore) as other,
        ):
            identity = await house.register()
            node = await house.join()
            attempts = Attempts(house.parts.store)
            load = Load(node, identity.id, [house, other])
            async with asyncio.timeout(120):
                await load.warm.wait()
                await attempts.watch(lambda: act(house))
                await asyncio.gather(*load.tasks)
            standing = await house.parts.store.read(
                lambda tx: [s for s in load.issued if tx.certificates.get(s).revoked_at is None]
            )
            return attempts.most, standing

    most, standing = asyncio.run(main())
    assert most <= MOST
    assert standing == []
