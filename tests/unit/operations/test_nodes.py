"""Joining: one-time tokens, also in a race, and what a node is told afterwards."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from tests.fakes.house import ADMIN, FakeHouse, call_of, in_house, make_csr, open_house
from tests.fakes.stores import make_url
from troth.core.errors import Denied, Invalid, Limited, Refused, TrothError, Unavailable
from troth.core.ids import NodeId
from troth.operations.call import ANONYMOUS
from troth.operations.node import REFUSALS_BURST
from troth.operations.pacing import JOINS
from troth.operations.single_use import RETRY
from troth.operations.throttle import BURST
from troth.store.records import format_serial
from troth.wire.api.certificates import InstanceClaim, RevokeCertificate
from troth.wire.api.identities import MoveIdentity, MoveInstance
from troth.wire.api.nodes import (
    AttestNode,
    CreateJoinToken,
    EvictNode,
    Heartbeat,
    ListNodes,
    NodeCredential,
    NodeSnapshot,
    RenewNode,
    ReportWorkloads,
    SyncNode,
    WorkloadRefused,
    WorkloadSeen,
)


async def make_token(house: FakeHouse, node: str = "edge-1", ttl: int = 600) -> str:
    made = await house.call("token.join", CreateJoinToken(node=node, ttl=ttl))
    return str(made.token)


def attest(token: str, csr: bytes | None = None, method: str = "join_token") -> AttestNode:
    return AttestNode(method=method, evidence=token, csr=csr or make_csr())


@in_house
async def test_anybody_with_a_token_joins_once(house: FakeHouse) -> None:
    token = await make_token(house)
    node = await house.call("node.attest", attest(token), ANONYMOUS)
    assert node.spiffe_id == "spiffe://example.org/troth/node/edge-1"
    with pytest.raises(Refused, match="used before"):
        await house.call("node.attest", attest(token), ANONYMOUS)
    assert len(await house.events("node.attested")) == 1


@in_house
async def test_a_server_that_breaks_off_costs_no_token(house: FakeHouse) -> None:
    token, csr = await make_token(house), make_csr()

    def break_off() -> None:
        raise OSError("the keystore is gone")

    house.keystore.before_sign = break_off
    with pytest.raises(Unavailable):
        await house.call("node.attest", attest(token, csr), ANONYMOUS)
    house.keystore.before_sign = None
    with pytest.raises(Refused, match="used before, for another key"):
        await house.call("node.attest", attest(token), ANONYMOUS)
    node = await house.call("node.attest", attest(token, csr), ANONYMOUS)
    assert node.chain
    (joined,) = await house.events("node.attested")
    assert joined.body["id"] == node.node_id


@in_house
async def test_who_asks_again_is_the_same_node(house: FakeHouse) -> None:
    """The answer was lost: as after a renewal, both certificates stand, for one node."""
    token, csr = await make_token(house, ttl=60), make_csr()
    first = await house.call("node.attest", attest(token, csr), ANONYMOUS)
    house.clock.advance(RETRY - timedelta(seconds=1))  # long after the token's own end
    await house.settle()
    second = await house.call("node.attest", attest(token, csr), ANONYMOUS)
    assert second.node_id == first.node_id
    assert second.chain != first.chain
    (view,) = (await house.call("node.ls", ListNodes())).items
    assert (view.id, view.state) == (first.node_id, "active")
    assert len(await house.events("node.attested")) == 1
    assert not await house.events("certificate.revoked")
    house.clock.advance(timedelta(seconds=1))
    await house.settle()
    with pytest.raises(Refused, match="expired"):
        await house.call("node.attest", attest(token, csr), ANONYMOUS)


@in_house
async def test_a_used_token_brings_nobody_back(house: FakeHouse) -> None:
    """Neither past a node that joined anew, nor past an eviction or a revocation."""
    token, csr = await make_token(house), make_csr()
    await house.call("node.attest", attest(token, csr), ANONYMOUS)
    house.clock.advance(timedelta(seconds=1))
    newer, newer_csr = await make_token(house), make_csr()
    node = await house.call("node.attest", attest(newer, newer_csr), ANONYMOUS)
    with pytest.raises(Refused, match="joined anew"):
        await house.call("node.attest", attest(token, csr), ANONYMOUS)
    serial = f"{x509.load_der_x509_certificate(node.chain[0]).serial_number:x}"
    await house.call("certificate.revoke", RevokeCertificate(serial=serial, reason="copied"))
    with pytest.raises(Refused, match="was revoked"):
        await house.call("node.attest", attest(newer, newer_csr), ANONYMOUS)
    last, last_csr = await make_token(house), make_csr()
    await house.call("node.attest", attest(last, last_csr), ANONYMOUS)
    await house.call("node.evict", EvictNode(name="edge-1", reason="stolen"))
    with pytest.raises(Refused, match="withdrawn"):
        await house.call("node.attest", attest(last, last_csr), ANONYMOUS)


@in_house
async def test_who_asks_again_and_again_is_braked(house: FakeHouse) -> None:
    token, csr = await make_token(house), make_csr()
    for _ in range(BURST + 1):
        await house.call("node.attest", attest(token, csr))
    with pytest.raises(Limited):
        await house.call("node.attest", attest(token, csr))


@in_house
async def test_two_requests_for_one_key_at_once_are_one_node(house: FakeHouse) -> None:
    token, csr = await make_token(house), make_csr()
    tries = [house.call("node.attest", attest(token, csr), ANONYMOUS) for _ in range(4)]
    assert len({node.node_id for node in await asyncio.gather(*tries)}) == 1
    assert len(await house.events("node.attested")) == 1


@in_house
async def test_a_node_that_was_superseded_leaves_no_serial(house: FakeHouse) -> None:
    """Somebody joins anew under the name when the first certificate is recorded, not yet noted."""
    store: Any = house.parts.store
    first, second = await make_token(house), await make_token(house)
    joined: list[NodeCredential] = []
    original, asked = store.transact, itertools.count(1)

    async def overtake(function: Any) -> Any:
        if next(asked) == 4:  # enter, intend, issue, note
            store.transact = original
            house.clock.advance(timedelta(seconds=1))
            joined.append(await house.call("node.attest", attest(second), ANONYMOUS))
        return await original(function)

    store.transact = overtake
    with pytest.raises(Denied, match="joined anew"):
        await house.call("node.attest", attest(first), ANONYMOUS)
    serial = x509.load_der_x509_certificate(joined[0].chain[0]).serial_number
    kept = await house.parts.store.read(lambda tx: tx.nodes.get(NodeId(joined[0].node_id)))
    assert kept.certificate_serial == format_serial(serial)


@in_house
async def test_ten_racers_for_one_token(house: FakeHouse) -> None:
    token = await make_token(house)
    tries = [house.call("node.attest", attest(token), ANONYMOUS) for _ in range(10)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(o, Refused) for o in outcomes) == 9


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda t: t[:-5], Invalid),
        (lambda t: t[: len(t) // 2], Invalid),
        (lambda t: "", Invalid),
        (lambda t: t.replace("troth-join", "troth-jion"), Invalid),
        (lambda t: t + "AAAA", Invalid),
        (lambda t: t.rsplit(".", 1)[0] + "." + "A" * 43, Refused),
        (lambda t: "troth-join.jtk_000000000000000000000000." + "A" * 43, Refused),
    ],
)
def test_spoilt_tokens_write_nothing(
    spoil: Callable[[str], str], kind: type[TrothError], tmp_path: Path
) -> None:
    @in_house
    async def test(house: FakeHouse) -> None:
        token = await make_token(house)
        before = len(await house.events())
        with pytest.raises(kind) as caught:
            await house.call("node.attest", attest(spoil(token)), ANONYMOUS)
        assert "troth token join" in caught.value.detail
        assert token.rsplit(".", 1)[1] not in caught.value.detail
        assert len(await house.events()) == before
        await house.call("node.attest", attest(token), ANONYMOUS)

    test(tmp_path)


@in_house
async def test_only_who_proved_something_takes_a_turn_from_others(house: FakeHouse) -> None:
    token = await make_token(house)
    for _ in range(int(JOINS * 3)):
        with pytest.raises(Refused, match="not valid here"):
            await house.call("node.attest", attest(token[:-4] + "AAAA"), ANONYMOUS)
    for number in range(int(JOINS * 2)):
        good = await make_token(house, f"edge-{number}")
        await house.call("node.attest", attest(good), ANONYMOUS)
    with pytest.raises(Unavailable, match="turn is in 1 s"):
        await house.call("node.attest", attest(token), ANONYMOUS)
    house.clock.advance(timedelta(seconds=1))
    await house.call("node.attest", attest(token), ANONYMOUS)  # which wasn't used up


@in_house
async def test_an_expired_token_is_refused(house: FakeHouse) -> None:
    token = await make_token(house, ttl=10)
    house.clock.advance(timedelta(seconds=10))
    with pytest.raises(Refused, match="expired"):
        await house.call("node.attest", attest(token), ANONYMOUS)


@in_house
async def test_a_bad_csr_costs_no_token(house: FakeHouse) -> None:
    token = await make_token(house)
    with pytest.raises(Invalid):
        await house.call("node.attest", attest(token, b"\x30\x03junk"), ANONYMOUS)
    with pytest.raises(Invalid, match="join_token or x509pop"):
        await house.call("node.attest", attest(token, method="tpm"), ANONYMOUS)
    await house.call("node.attest", attest(token), ANONYMOUS)


@in_house
async def test_only_the_hash_is_stored(house: FakeHouse) -> None:
    token = await make_token(house)
    secret = token.rsplit(".", 1)[1]
    for event in await house.events("token."):
        assert secret not in str(event)
    (stored,) = await house.parts.store.read(lambda tx: tx.join_tokens.list(house.clock.now()))
    assert secret not in str(stored)


@in_house
async def test_joining_again_ends_the_previous_certificate(house: FakeHouse) -> None:
    first = await house.join("edge-1")
    second = await house.join("edge-1")
    assert first.node_id == second.node_id
    assert len(await house.events("certificate.revoked")) == 1


@in_house
async def test_a_node_renews_and_nobody_else_does(house: FakeHouse) -> None:
    node = await house.join()
    renewed = await house.call("node.renew", RenewNode(csr=make_csr()), node)
    assert renewed.node_id == node.node_id
    with pytest.raises(Denied):
        await house.call("node.renew", RenewNode(csr=make_csr()), ADMIN)


@in_house
async def test_sync_sends_whole_values_for_this_node_alone(house: FakeHouse) -> None:
    await house.register("mine")
    await house.register("theirs", nodes=["other"])
    everywhere = await house.register("everywhere", nodes=["*"])
    node = await house.join()
    await house.settle()
    stream = house.dispatcher.open("node.sync", node, "req_s", SyncNode())  # type: ignore[arg-type]
    first = await anext(stream)
    assert isinstance(first, NodeSnapshot)
    assert {e.name for e in first.entries} == {"mine", "everywhere"}
    assert first.lease == 15
    assert len(first.x509_authorities) == len(first.crls) == 1
    waiting = asyncio.ensure_future(anext(stream))
    await house.call("identity.quarantine", MoveIdentity(name="everywhere", reason="odd"))
    await house.settle()
    second = await waiting
    assert {e.name: e.state for e in second.entries} == {
        "mine": "active",
        "everywhere": "quarantined",
    }
    assert second.epoch > first.epoch
    assert everywhere.id in {e.identity_id for e in second.entries}
    waiting = asyncio.ensure_future(anext(stream))
    await house.call("token.join", CreateJoinToken(node="x"))
    await house.settle()
    await house.parts.snapshot.announce()
    await house.join("another")  # concerns nodes, but not this one
    await house.settle()
    assert isinstance(await waiting, Heartbeat)
    await stream.aclose()  # type: ignore[attr-defined]


@in_house
async def test_sync_tells_everybody_whose_tokens_to_refuse(house: FakeHouse) -> None:
    names = ("suspended", "quarantined", "retired", "long-gone", "reborn", "fine")
    for name in names:
        await house.register(name, nodes=["other"])
    node = await house.join()
    await house.call("identity.retire", MoveIdentity(name="long-gone", reason="x"))
    house.clock.advance(timedelta(hours=1, seconds=1))
    for verb, name in (("suspend", "suspended"), ("quarantine", "quarantined")):
        await house.call(f"identity.{verb}", MoveIdentity(name=name, reason="x"))
    for name in ("retired", "reborn"):
        await house.call("identity.retire", MoveIdentity(name=name, reason="x"))
    await house.register("reborn", nodes=["other"])
    await house.settle()
    stream = house.dispatcher.subscriptions["node.sync"](call_of(SyncNode(), node))
    told = (await anext(stream)).cut_off
    assert told == [f"spiffe://example.org/{n}" for n in ("quarantined", "retired", "suspended")]
    await stream.aclose()  # type: ignore[attr-defined]


@in_house
async def test_sync_tells_which_instances_are_locked(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    (issued,) = await house.issue(node, identity.id)
    await house.call("instance.lock", MoveInstance(id=issued.instance_id, reason="odd"))
    await house.settle()
    stream = house.dispatcher.subscriptions["node.sync"](call_of(SyncNode(), node))
    assert (await anext(stream)).locked == [issued.instance_id]
    await stream.aclose()  # type: ignore[attr-defined]


@in_house
async def test_reports_reach_the_journal_and_touch_own_instances_only(house: FakeHouse) -> None:
    identity = await house.register(nodes=["*"])
    node, other = await house.join(), await house.join("other")
    (issued,) = await house.issue(node, identity.id)
    start = house.clock.now()
    house.clock.advance(timedelta(minutes=5))
    report = ReportWorkloads(
        seen=[WorkloadSeen(instance_id=issued.instance_id)],
        refused=[WorkloadRefused(pid=9, selectors=["unix:uid:5"], reason="lacks unix:uid:1001")],
    )
    await house.call("node.report", report, other)
    seen = await house.parts.store.read(lambda tx: tx.instances.get(issued.instance_id))
    assert seen.last_seen == start
    await house.call("node.report", report, node)
    seen = await house.parts.store.read(lambda tx: tx.instances.get(issued.instance_id))
    assert seen.last_seen == house.clock.now()
    refusals = await house.events("workload.refused")
    assert {e.actor for e in refusals} == {node.principal, other.principal}


@in_house
async def test_a_node_that_reports_refusals_without_end_fills_no_journal(
    house: FakeHouse,
) -> None:
    node, other = await house.join(), await house.join("other")
    many = WorkloadRefused(pid=9, selectors=["unix:path:/" + "x" * 1000] * 8, reason="\n" * 1000)
    report = ReportWorkloads(refused=[many] * 90)
    for _ in range(5):
        await house.call("node.report", report, node)
    noted = await house.events("workload.refused")
    assert len(noted) == REFUSALS_BURST
    assert all(len(msgspec.json.encode(event.body)) < 4096 for event in noted)
    assert noted[0].body["selectors"][-1] == "…"
    await house.call("node.report", report, other)
    house.clock.advance(timedelta(seconds=1))
    await house.call("node.report", report, node)
    events = [e for e in await house.events("workload.refused") if e.actor == node.principal]
    assert [e.body.get("left_out") for e in events[REFUSALS_BURST:]] == [250, None]


@in_house
async def test_the_report_of_an_evicted_node_is_not_noted(house: FakeHouse) -> None:
    node = await house.join()
    await house.call("node.evict", EvictNode(name="local", reason="stolen disk"))
    refused = WorkloadRefused(pid=9, selectors=[], reason="none")
    with pytest.raises(Denied, match="evicted"):
        await house.call("node.report", ReportWorkloads(refused=[refused]), node)
    assert not await house.events("workload.refused")


@in_house
async def test_claims_are_bounded(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    (answer,) = await house.issue(node, identity.id, selectors=["nonsense"])
    assert answer.error.code == "invalid_request"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"key": "zz", "pid": 1, "selectors": []}, InstanceClaim)


@in_house
async def test_an_evicted_node_and_its_workloads_are_out(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    (issued,) = await house.issue(node, identity.id)
    stream = house.dispatcher.subscriptions["node.sync"](call_of(SyncNode(), node))
    await anext(stream)
    await house.call("node.evict", EvictNode(name="local", reason="stolen disk"))
    await house.settle()
    with pytest.raises(Denied, match="evicted"):
        await anext(stream)
    assert house.parts.snapshot.is_revoked(issued.serial)
    (refused,) = await house.issue(node, identity.id)
    assert "evicted" in refused.error.detail
    with pytest.raises(Denied, match="evicted"):
        await house.call("node.renew", RenewNode(csr=make_csr()), node)
    with pytest.raises(Refused, match="before"):
        await house.call("node.evict", EvictNode(name="local", reason="again"))
    back = await house.join()
    assert back.node_id != node.node_id
    (again,) = await house.issue(back, identity.id)
    assert again.error is None


@in_house
async def test_a_superseded_certificate_gets_nothing_more(house: FakeHouse) -> None:
    """A call that was authenticated before the node joined anew, and carried out after."""
    identity = await house.register()
    old, new = await house.join(), await house.join()
    assert old.node_id == new.node_id
    with pytest.raises(Denied, match="joined anew"):
        await house.call("node.renew", RenewNode(csr=make_csr()), old)
    (refused,) = await house.issue(old, identity.id)
    assert refused.error.code == "permission_denied"
    (issued,) = await house.issue(new, identity.id)
    assert issued.error is None


def test_a_stuck_sealer_is_no_quiet_journal(tmp_path: Path) -> None:
    """On a shared database: in a file nothing waits to be sealed."""

    async def main() -> None:
        async with open_house(tmp_path, url=make_url("postgresql", tmp_path)) as house:
            await house.settle()
            now = house.clock.now()
            await house.parts.store.transact(
                lambda tx: (
                    tx.leases.release("sealer", "test")
                    and tx.leases.take("sealer", "somebody else", now, timedelta(hours=1))
                )
            )
            await house.register()
            house.clock.advance(timedelta(seconds=16))
            await house.settle()
            assert await house.parts.publication.find_obstacles()
            house.clock.advance(timedelta(hours=1))
            await house.settle()
            assert not await house.parts.publication.find_obstacles()

    asyncio.run(main())
