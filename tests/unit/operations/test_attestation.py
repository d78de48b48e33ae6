"""Joining by a certificate: who may, under which name, and what an eviction does about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.fakes.house import FakeHouse, in_house, make_csr
from tests.fakes.machines import Machine, Maker, rewrite
from troth.core.errors import Denied, Invalid, Limited, Refused
from troth.core.ids import NodeId
from troth.identity.x509pop import LEEWAY, Vouchers
from troth.operations.attestation import REJOIN_AFTER
from troth.operations.call import ANONYMOUS, Caller
from troth.store.records import format_serial
from troth.wire.api.nodes import (
    AttestNode,
    CreateJoinToken,
    EvictNode,
    ListNodes,
    NodeCredential,
    RenewNode,
)
from troth.wire.api.readmission import ReadmitNode
from troth.wire.x509pop import render_evidence

MAKER = Maker("Acme root")
BY_FINGERPRINT = Vouchers((MAKER.certificate,))
BY_NAME = Vouchers((MAKER.certificate,), by_common_name=True)

Test = Callable[[FakeHouse], Coroutine[Any, Any, None]]
vouched: Callable[[Test], Callable[[Path], None]] = partial(in_house, vouchers=BY_FINGERPRINT)
named: Callable[[Test], Callable[[Path], None]] = partial(in_house, vouchers=BY_NAME)


def prove(house: FakeHouse, machine: Machine, csr: bytes | None = None) -> AttestNode:
    csr = csr or make_csr()
    evidence = machine.prove(csr, house.clock.now())
    return AttestNode(method="x509pop", evidence=evidence, csr=csr)


async def join(house: FakeHouse, machine: Machine) -> NodeCredential:
    house.clock.advance(REJOIN_AFTER)
    await house.settle()
    found: NodeCredential = await house.call("node.attest", prove(house, machine), ANONYMOUS)
    return found


def name_of(node: NodeCredential) -> str:
    return node.spiffe_id.removeprefix("spiffe://example.org/troth/node/")


def caller_of(node: NodeCredential) -> Caller:
    serial = format_serial(x509.load_der_x509_certificate(node.chain[0]).serial_number)
    return Caller(node.spiffe_id, frozenset({"node"}), NodeId(node.node_id), "test", serial)


async def evict(house: FakeHouse, name: str) -> Any:
    return await house.call("node.evict", EvictNode(name=name, reason="stolen"))


async def readmit(house: FakeHouse, name: str) -> Any:
    return await house.call("node.readmit", ReadmitNode(name=name, reason="wiped"))


@vouched
async def test_a_machine_joins_by_its_certificate_and_renews(house: FakeHouse) -> None:
    machine = MAKER.make("press 4")
    node = await join(house, machine)
    (event,) = await house.events("node.attested")
    mark = event.body["key"]
    assert name_of(node) == f"x509pop-{mark[:40]}"
    assert (event.body["method"], event.body["issuer"]) == ("x509pop", "CN=Acme root")
    (shown,) = (await house.call("node.ls", ListNodes())).items
    assert (shown.attestation, shown.fingerprint) == ("x509pop", mark)
    await house.settle()
    await house.call("node.renew", RenewNode(csr=make_csr()), caller_of(node))


@vouched
async def test_a_proof_is_taken_once_and_for_its_own_request(house: FakeHouse) -> None:
    machine = MAKER.make("press 4")
    csr = make_csr()
    request = prove(house, machine, csr)
    await house.call("node.attest", request, ANONYMOUS)
    before = len(await house.events())
    with pytest.raises(Refused, match="used before"):
        await house.call("node.attest", request, ANONYMOUS)
    stolen = AttestNode(method="x509pop", evidence=request.evidence, csr=make_csr())
    with pytest.raises(Denied, match="not signed by"):
        await house.call("node.attest", stolen, ANONYMOUS)
    house.clock.advance(LEEWAY * 1.01)
    await house.settle()
    with pytest.raises(Denied, match="server's time"):
        await house.call("node.attest", request, ANONYMOUS)
    assert len(await house.events()) == before


@vouched
async def test_ten_racers_with_one_proof(house: FakeHouse) -> None:
    request = prove(house, MAKER.make("press 4"))
    tries = [house.call("node.attest", request, ANONYMOUS) for _ in range(10)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(o, Refused) for o in outcomes) == 9
    assert len(await house.events("node.attested")) == 1


@vouched
async def test_strangers_and_junk_write_nothing(house: FakeHouse) -> None:
    before = len(await house.events())
    with pytest.raises(Denied, match="doesn't lead to"):
        await join(house, Maker("Acme root").make("press 4"))
    junk = AttestNode(method="x509pop", evidence="{}", csr=make_csr())
    with pytest.raises(Invalid, match="not an x509pop proof"):
        await house.call("node.attest", junk, ANONYMOUS)
    assert len(await house.events()) == before


@in_house
async def test_without_authorities_nobody_joins_by_a_certificate(house: FakeHouse) -> None:
    with pytest.raises(Denied, match="No authority is configured"):
        await join(house, MAKER.make("press 4"))


@vouched
async def test_a_machine_that_lost_its_data_comes_back_as_the_same_node(house: FakeHouse) -> None:
    machine = MAKER.make("press 4")
    first = await join(house, machine)
    again = await join(house, machine)
    assert (again.node_id, again.spiffe_id) == (first.node_id, first.spiffe_id)
    with pytest.raises(Denied, match="joined anew"):  # whoever has the old key is out
        await house.call("node.renew", RenewNode(csr=make_csr()), caller_of(first))


@vouched
async def test_a_machine_that_joins_in_a_loop_is_slowed_down(house: FakeHouse) -> None:
    machine = MAKER.make("press 4")
    await join(house, machine)
    house.clock.advance(REJOIN_AFTER * 0.9)
    await house.settle()
    with pytest.raises(Limited, match="Wait") as caught:
        await house.call("node.attest", prove(house, machine), ANONYMOUS)
    assert caught.value.retry_after == pytest.approx(1)
    assert len(await house.events("node.attested")) == 1


@vouched
async def test_an_evicted_machine_comes_back_only_when_it_was_readmitted(house: FakeHouse) -> None:
    machine = MAKER.make("press 4")
    first = await join(house, machine)
    await evict(house, name_of(first))
    for _ in range(2):
        with pytest.raises(Refused, match=f"troth node readmit {name_of(first)}"):
            await join(house, machine)
    await readmit(house, name_of(first))
    second = await join(house, machine)
    assert second.spiffe_id == first.spiffe_id
    assert second.node_id != first.node_id
    await evict(house, name_of(second))
    with pytest.raises(Refused, match="was evicted"):  # once readmitted is not for ever
        await join(house, machine)
    assert len(await house.events("node.readmitted")) == 1


async def join_as_another(house: FakeHouse, twin: Callable[[Machine], Machine]) -> None:
    machine = MAKER.make("press 4")
    node = await join(house, machine)
    other = twin(machine)
    assert other.chain[0] != machine.chain[0]
    assert (await join(house, other)).node_id == node.node_id
    await evict(house, name_of(node))
    with pytest.raises(Refused, match="was evicted"):
        await join(house, other)


@vouched
async def test_an_evicted_machine_cant_hide_behind_another_form_of_its_certificate(
    house: FakeHouse,
) -> None:
    await join_as_another(house, rewrite)


@vouched
async def test_an_evicted_machine_cant_hide_behind_a_new_certificate_for_its_key(
    house: FakeHouse,
) -> None:
    await join_as_another(house, lambda machine: MAKER.make("press 5", key=machine.key))


@named
async def test_a_proof_is_used_up_in_every_form(house: FakeHouse) -> None:
    machine = MAKER.make("press-4")
    csr, at = make_csr(), house.clock.now()
    signature = machine.sign(csr, at)
    for one, outcome in ((machine, None), (rewrite(machine), "used before")):
        evidence = render_evidence(one.chain, at, signature)
        request = AttestNode(method="x509pop", evidence=evidence, csr=csr)
        if outcome is None:
            await house.call("node.attest", request, ANONYMOUS)
        else:
            with pytest.raises(Refused, match=outcome):
                await house.call("node.attest", request, ANONYMOUS)


@named
async def test_a_name_from_the_certificate_belongs_to_that_certificate(house: FakeHouse) -> None:
    old, new = MAKER.make("press-4"), MAKER.make("press-4")
    node = await join(house, old)
    assert name_of(node) == "press-4"
    with pytest.raises(Refused, match="another key"):
        await join(house, new)
    await readmit(house, "press-4")
    assert (await join(house, new)).node_id == node.node_id
    with pytest.raises(Refused, match="another key"):
        await join(house, old)
    with pytest.raises(Denied, match="can't be a node's name"):
        await join(house, MAKER.make("Press 4"))


@named
async def test_an_evicted_name_is_closed_to_other_certificates_too(house: FakeHouse) -> None:
    await join(house, MAKER.make("press-4"))
    await evict(house, "press-4")
    with pytest.raises(Refused, match="was evicted"):
        await join(house, MAKER.make("press-4"))
    await readmit(house, "press-4")
    await join(house, MAKER.make("press-4"))


@named
async def test_token_and_certificate_never_take_each_others_active_name(house: FakeHouse) -> None:
    await house.join("web-1")
    with pytest.raises(Refused, match="joined with a token"):
        await join(house, MAKER.make("web-1"))
    with pytest.raises(Refused, match="troth token join --node web-1"):
        await readmit(house, "web-1")
    await join(house, MAKER.make("press-4"))
    with pytest.raises(Refused, match="proves itself by x509pop"):
        await house.join("press-4")
    # Nor does a certificate undo the eviction of a node that joined with a token.
    await evict(house, "web-1")
    with pytest.raises(Refused, match="was evicted"):
        await join(house, MAKER.make("web-1"))


@vouched
async def test_names_of_machines_cant_be_given_to_tokens(house: FakeHouse) -> None:
    with pytest.raises(Invalid, match="choose another"):
        await house.call("token.join", CreateJoinToken(node="x509pop-0"))


@in_house
async def test_an_eviction_ends_the_tokens_that_wait_for_the_node(house: FakeHouse) -> None:
    await house.join("web-1")
    waiting = await house.call("token.join", CreateJoinToken(node="web-1"))
    other = await house.call("token.join", CreateJoinToken(node="web-2"))
    await evict(house, "web-1")
    body = AttestNode(method="join_token", evidence=waiting.token, csr=make_csr())
    with pytest.raises(Refused, match="expired"):
        await house.call("node.attest", body, ANONYMOUS)
    body = AttestNode(method="join_token", evidence=other.token, csr=make_csr())
    await house.call("node.attest", body, ANONYMOUS)
    await house.join("web-1")  # with a token that was made after it
