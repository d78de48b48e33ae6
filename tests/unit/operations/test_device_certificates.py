"""Devices that enrol by their manufacturer's certificate."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.fakes.house import FakeHouse, in_house, make_csr
from tests.fakes.machines import Machine, Maker, rewrite
from troth.core.errors import Conflict, Denied, Invalid, Limited, Refused, Unavailable
from troth.identity.selectors import Selector as S
from troth.identity.selectors import find_weakness
from troth.identity.x509pop import DEVICE, NODE, Vouchers
from troth.operations.call import ANONYMOUS, Caller
from troth.operations.throttle import BURST
from troth.store.records import format_serial
from troth.wire.api.devices import DeviceCredential, EnrollDevice, RenewDevice
from troth.wire.api.identities import MoveIdentity, MoveInstance
from troth.wire.api.nodes import AttestNode, SyncNode

ACME = Maker("Acme")
AWAY = replace(ANONYMOUS, source="192.0.2.1:4711")


def with_maker(
    test: Callable[[FakeHouse], Coroutine[Any, Any, None]],
) -> Callable[[Path], None]:
    """A house that trusts Acme's devices."""
    return in_house(test, device_vouchers=Vouchers((ACME.certificate,)))


def fingerprint(machine: Machine) -> str:
    return f"x509pop:sha256:{hashlib.sha256(machine.chain[0]).hexdigest()}"


def authority(maker: Maker = ACME) -> str:
    return f"x509pop:ca:{hashlib.sha256(_der(maker)).hexdigest()}"


def _der(maker: Maker) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return maker.certificate.public_bytes(Encoding.DER)


async def register(house: FakeHouse, *selectors: str, name: str = "sensor-1", **more: Any) -> Any:
    return await house.register(name, kind="device", selectors=list(selectors), **more)


async def enroll(
    house: FakeHouse, machine: Machine, caller: Caller = AWAY, purpose: str = DEVICE
) -> Any:
    csr = make_csr()
    evidence = machine.prove(csr, house.clock.now(), purpose)
    body = EnrollDevice(method="x509pop", evidence=evidence, csr=csr)
    return await house.call("device.enroll", body, caller)


async def move(house: FakeHouse, verb: str) -> None:
    await house.call(f"identity.{verb}", MoveIdentity(name="sensor-1", reason="a test says so"))


@with_maker
async def test_the_registration_says_which_device_a_certificate_is(house: FakeHouse) -> None:
    one, two = ACME.make("sn-1"), ACME.make("sn-2")
    await register(house, fingerprint(one))
    await register(house, authority(), "x509pop:cn:sn-2", name="sensor-2")
    first, second = await enroll(house, one), await enroll(house, two)
    assert (first.identity, second.identity) == ("sensor-1", "sensor-2")
    events = await house.events("device.enrolled")
    assert [event.body["method"] for event in events] == ["x509pop", "x509pop"]
    assert fingerprint(two) in events[1].body["evidence"]


@with_maker
async def test_the_same_device_comes_back_as_the_same_one(house: FakeHouse) -> None:
    machine = ACME.make("sn-1")
    await register(house, fingerprint(machine))
    first = await enroll(house, machine)
    house.clock.advance(timedelta(days=3))  # it slept past the end of its certificate
    await house.settle()
    again = await enroll(house, machine)
    assert again.instance_id == first.instance_id


@with_maker
async def test_a_fleet_may_share_one_identity_and_each_is_an_instance(house: FakeHouse) -> None:
    await register(house, authority())
    made = [await enroll(house, ACME.make(f"sn-{number}")) for number in range(3)]
    assert len({credential.instance_id for credential in made}) == 3


@with_maker
async def test_a_device_that_nobody_registered_is_refused_and_seen(house: FakeHouse) -> None:
    machine = ACME.make("sn-1")
    with pytest.raises(Denied, match=fingerprint(machine)):
        await enroll(house, machine)
    (event,) = await house.events("device.refused")
    assert event.subject == fingerprint(machine)
    assert event.body["selectors"] == [fingerprint(machine), authority(), "x509pop:cn:sn-1"]
    assert not await house.events("certificate.intended")


@with_maker
async def test_two_registrations_for_one_device_are_refused(house: FakeHouse) -> None:
    machine = ACME.make("sn-1")
    await register(house, fingerprint(machine))
    await register(house, authority(), name="any-acme")
    with pytest.raises(Refused, match="any-acme, sensor-1"):
        await enroll(house, machine)


@with_maker
async def test_a_stranger_s_certificate_writes_nothing_and_is_braked(house: FakeHouse) -> None:
    stranger = Maker("Nobody").make("sn-1")
    await register(house, "x509pop:cn:sn-1")
    before = len(await house.events())
    for _ in range(BURST):
        with pytest.raises(Denied, match="configured here"):
            await enroll(house, stranger)
    with pytest.raises(Limited):
        await enroll(house, stranger)
    assert len(await house.events()) == before


@with_maker
async def test_a_genuine_device_that_asks_without_end_fills_no_journal(house: FakeHouse) -> None:
    machine, sibling = ACME.make("sn-1"), ACME.make("sn-2")
    await register(house, fingerprint(sibling))
    for _ in range(BURST):
        with pytest.raises(Denied):
            await enroll(house, machine)
        house.clock.advance(timedelta(milliseconds=1))
    with pytest.raises(Limited):
        await enroll(house, machine)
    assert await enroll(house, sibling)  # behind the same address


@with_maker
async def test_a_proof_is_taken_once_and_only_for_its_request_and_purpose(
    house: FakeHouse,
) -> None:
    machine = ACME.make("sn-1")
    await register(house, fingerprint(machine))
    csr = make_csr()
    evidence = machine.prove(csr, house.clock.now(), DEVICE)
    body = EnrollDevice(method="x509pop", evidence=evidence, csr=csr)
    outcomes = await asyncio.gather(
        *(house.call("device.enroll", body, AWAY) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(o, DeviceCredential) for o in outcomes) == 1
    assert sum(isinstance(o, Refused) for o in outcomes) == 4
    with pytest.raises(Denied, match="another request"):
        await house.call("device.enroll", replace_csr(body), AWAY)
    with pytest.raises(Denied, match="another request, purpose"):
        await enroll(house, machine, purpose=NODE)


def replace_csr(body: EnrollDevice) -> EnrollDevice:
    return EnrollDevice(method=body.method, evidence=body.evidence, csr=make_csr())


@with_maker
async def test_a_device_s_certificate_makes_no_node(house: FakeHouse) -> None:
    machine = ACME.make("sn-1")
    csr = make_csr()
    body = AttestNode(method="x509pop", evidence=machine.prove(csr, house.clock.now()), csr=csr)
    with pytest.raises(Denied):
        await house.call("node.attest", body, AWAY)


@with_maker
async def test_a_released_device_comes_back_by_itself_and_a_cut_off_one_doesnt(
    house: FakeHouse,
) -> None:
    machine = ACME.make("sn-1")
    await register(house, fingerprint(machine))
    await enroll(house, machine)
    await move(house, "quarantine")
    with pytest.raises(Denied, match="quarantined"):
        await enroll(house, machine)
    await move(house, "release")
    assert await enroll(house, machine)
    await move(house, "retire")
    with pytest.raises(Denied, match="No device is registered"):
        await enroll(house, machine)


@with_maker
async def test_a_locked_device_stays_out_whatever_it_shows(house: FakeHouse) -> None:
    machine = ACME.make("sn-1")
    await register(house, fingerprint(machine))
    made = await enroll(house, machine)
    await house.call("instance.lock", MoveInstance(id=made.instance_id, reason="stolen"))
    with pytest.raises(Denied, match="locked"):
        await enroll(house, machine)


@with_maker
async def test_a_locked_device_stays_out_with_another_form_of_its_certificate(
    house: FakeHouse,
) -> None:
    machine = ACME.make("sn-1")
    await register(house, authority())
    made = await enroll(house, machine)
    await house.call("instance.lock", MoveInstance(id=made.instance_id, reason="stolen"))
    for other in (rewrite(machine), ACME.make("sn-2", key=machine.key)):
        assert other.chain[0] != machine.chain[0]
        with pytest.raises(Denied, match="locked"):
            await enroll(house, other)


@in_house
async def test_without_authorities_nothing_is_believed(house: FakeHouse) -> None:
    with pytest.raises(Denied, match="No authority is configured"):
        await enroll(house, ACME.make("sn-1"))


@with_maker
async def test_evidence_that_is_none(house: FakeHouse) -> None:
    body = EnrollDevice(method="x509pop", evidence="{}", csr=make_csr())
    with pytest.raises(Invalid, match="x509pop proof"):
        await house.call("device.enroll", body, AWAY)


@with_maker
async def test_agents_hear_nothing_of_devices_that_enrol_by_themselves(house: FakeHouse) -> None:
    await register(house, fingerprint(ACME.make("sn-1")))
    await register(house, name="by-code")
    await register(house, "unix:uid:1001", name="by-agent")
    node = await house.join()
    await house.settle()
    values = house.dispatcher.open("node.sync", node, "req_test", SyncNode())  # type: ignore[arg-type]
    snapshot = await anext(values)
    await values.aclose()  # type: ignore[attr-defined]
    assert [entry.name for entry in snapshot.entries] == ["by-agent"]


@with_maker
async def test_a_registration_may_be_changed_to_another_certificate(house: FakeHouse) -> None:
    one, two = ACME.make("sn-1"), ACME.make("sn-2")
    await register(house, fingerprint(one))

    def change(tx: Any) -> None:
        before = tx.identities.get_named("sensor-1")
        after = replace(
            before, selectors=(S.parse(fingerprint(two)),), revision=before.revision + 1
        )
        tx.identities.save(after, before.revision)

    await house.parts.store.transact(change)
    assert await enroll(house, two)
    with pytest.raises(Denied):
        await enroll(house, one)


def give_to(machine: Machine) -> Callable[[Any], None]:
    """Make sensor-1 another machine's, and look at nothing else."""

    def change(tx: Any) -> None:
        before = tx.identities.get_named("sensor-1")
        selectors = (S.parse(fingerprint(machine)),)
        tx.identities.save(
            replace(before, selectors=selectors, revision=before.revision + 1), before.revision
        )

    return change


@with_maker
async def test_a_registration_that_changes_while_a_device_enrols(house: FakeHouse) -> None:
    one, two = ACME.make("sn-1"), ACME.make("sn-2")
    await register(house, fingerprint(one))
    store, turns = house.parts.store, 0
    transact = type(store).transact

    async def interfere(self: Any, work: Any, *more: Any, **how: Any) -> Any:
        nonlocal turns
        turns -= 1
        if turns == 0:
            await transact(self, give_to(two))
        return await transact(self, work, *more, **how)

    for at in (1, 2, 3):  # before the enrolment is recorded, before the intent, before the leaf
        turns = at
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(store), "transact", interfere)
            with pytest.raises(Unavailable, match="changed just now"):
                await enroll(house, one)
        assert not await house.events("certificate.issued")
        await store.transact(give_to(one))
    assert await enroll(house, one)


@with_maker
async def test_a_device_whose_proof_fits_no_more_cant_renew(house: FakeHouse) -> None:
    one, two = ACME.make("sn-1"), ACME.make("sn-2")
    await register(house, fingerprint(one))
    made = await enroll(house, one)
    serial = format_serial(x509.load_der_x509_certificate(made.chain[0]).serial_number)
    caller = Caller(made.spiffe_id, frozenset({"workload", "device"}), None, "192.0.2.1:1", serial)
    renewal = RenewDevice(csr=make_csr())
    assert await house.call("device.renew", renewal, caller)
    await house.parts.store.transact(give_to(two))
    with pytest.raises(Denied, match="asks for another certificate"):
        await house.call("device.renew", renewal, caller)


@with_maker
async def test_a_registered_device_that_enrols_without_end_is_braked(house: FakeHouse) -> None:
    machine, sibling = ACME.make("sn-1"), ACME.make("sn-2")
    await register(house, authority())
    for _ in range(BURST):
        await enroll(house, machine)
    before = len(await house.events())
    with pytest.raises(Limited):
        await enroll(house, machine)
    with pytest.raises(Limited):
        await enroll(house, rewrite(machine))
    assert len(await house.events()) == before
    assert await enroll(house, sibling)


@with_maker
async def test_a_change_by_somebody_else_is_noticed(house: FakeHouse) -> None:
    await register(house, fingerprint(ACME.make("sn-1")))

    def change(tx: Any) -> None:
        identity = tx.identities.get_named("sensor-1")
        tx.identities.save(replace(identity, revision=7), 6)

    with pytest.raises(Conflict):
        await house.parts.store.transact(change)


def test_what_a_set_of_selectors_rests_on() -> None:
    anchor = S("x509pop:ca", "ab" * 32)
    name = S("x509pop:cn", "sn-1")
    assert find_weakness([anchor, name]) is None
    assert find_weakness([S("x509pop:sha256", "ab" * 32)]) is None
    assert "common name alone" in (find_weakness([name]) or "")
    assert "nothing proves both" in (find_weakness([anchor, S("unix:uid", "1")]) or "")


@pytest.mark.parametrize("text", ["x509pop:cn:", "x509pop:cn: a", "x509pop:cn:" + "a" * 65,
    "x509pop:sha256:AB", "x509pop:ca:12", "x509pop:cn:a\nb"])  # fmt: skip
def test_selectors_that_no_certificate_proves(text: str) -> None:
    with pytest.raises(Invalid):
        S.parse(text)
