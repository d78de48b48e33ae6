"""Devices without an agent: codes, enrolment, renewal, and what cuts them off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fakes.house import DOMAIN, FakeHouse, in_house, make_csr
from troth.core.entropy import SeededEntropy
from troth.core.errors import (
    Denied,
    Invalid,
    Limited,
    NotFound,
    Refused,
    TrothError,
    Unauthenticated,
    Unavailable,
)
from troth.operations.call import ANONYMOUS, Caller
from troth.operations.callers import CallerRegistry
from troth.operations.enrolment import parse_code, render_code
from troth.operations.single_use import RETRY
from troth.operations.throttle import BURST, Throttle, name_network
from troth.wire.api.devices import DeviceCredential, EnrollDevice, InviteDevices, RenewDevice
from troth.wire.api.identities import ListInstances, MoveIdentity, MoveInstance

AWAY = replace(ANONYMOUS, source="192.0.2.1:4711")
WRONG = render_code(bytes(16))


def make_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


async def register(house: FakeHouse, name: str = "sensor-1", **fields: Any) -> Any:
    return await house.register(name, **({"kind": "device", "selectors": []} | fields))


async def invite(house: FakeHouse, *names: str, ttl: int = 3600) -> list[str]:
    made = await house.call("device.invite", InviteDevices(names=list(names), ttl=ttl))
    return [code.code for code in made.codes]


async def enroll(house: FakeHouse, code: str, csr: bytes = b"", caller: Caller = AWAY) -> Any:
    body = EnrollDevice(method="code", evidence=code, csr=csr or make_csr())
    return await house.call("device.enroll", body, caller)


async def authenticate(house: FakeHouse, credential: DeviceCredential) -> Caller:
    """The caller that the mutual-TLS listener makes of the certificate."""
    await house.settle()
    parts = house.parts
    registry = CallerRegistry(parts.store, parts.snapshot, parts.peers, DOMAIN, {}, {})
    return await registry.by_certificate(credential.chain[0], "192.0.2.1:4711")


async def renew(house: FakeHouse, credential: DeviceCredential, csr: bytes = b"") -> Any:
    caller = await authenticate(house, credential)
    return await house.call("device.renew", RenewDevice(csr=csr or make_csr()), caller)


async def enrolled(house: FakeHouse, **fields: Any) -> DeviceCredential:
    await register(house, **fields)
    (code,) = await invite(house, "sensor-1")
    made: DeviceCredential = await enroll(house, code)
    return made


async def move(house: FakeHouse, verb: str, name: str = "sensor-1") -> None:
    await house.call(f"identity.{verb}", MoveIdentity(name=name, reason="a test says so"))


def read_key(der: bytes) -> bytes:
    key = x509.load_der_x509_certificate(der).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def spell(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@in_house
async def test_a_device_enrols_with_a_code_and_gets_what_its_registration_says(
    house: FakeHouse,
) -> None:
    await register(house, dns_names=["sensor-1.example.org"], x509_ttl=7200)
    (code,) = await invite(house, "sensor-1")
    key = make_key()
    made = await enroll(house, code, make_csr(key))
    leaf = x509.load_der_x509_certificate(made.chain[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert read_key(made.chain[0]) == spell(key)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [made.spiffe_id]
    assert names.get_values_for_type(x509.DNSName) == ["sensor-1.example.org"]
    now = house.clock.now()
    assert made.not_after == leaf.not_valid_after_utc
    assert timedelta(seconds=7198) < made.not_after - now <= timedelta(seconds=7200)
    assert made.renew_after == now + (made.not_after - now) / 2
    assert len(made.x509_authorities) == 1
    (instance,) = (await house.call("instance.ls", ListInstances(name="sensor-1"))).items
    assert (instance.id, instance.node) == (made.instance_id, "")
    (event,) = await house.events("device.enrolled")
    assert event.subject == made.spiffe_id
    assert event.body["evidence"] == list(instance.evidence)
    kinds = [e.body["kind"] for e in await house.events("certificate.issued")]
    assert kinds == ["device"]


@in_house
async def test_neither_the_store_nor_the_journal_knows_a_code(house: FakeHouse) -> None:
    await register(house)
    (code,) = await invite(house, "sensor-1")
    await enroll(house, code)
    secret = parse_code(code)
    for path in filter(Path.is_file, house.directory.rglob("*")):
        found = path.read_bytes()
        assert code.encode() not in found
        assert secret not in found
        assert secret.hex().encode() not in found


@in_house
async def test_another_key_gets_nothing_for_a_code_that_was_used(house: FakeHouse) -> None:
    await register(house)
    (code,) = await invite(house, "sensor-1")
    await enroll(house, code)
    with pytest.raises(Refused, match=r"used before.*troth device invite"):
        await enroll(house, code)


@in_house
async def test_a_lost_answer_is_asked_for_again_with_the_same_key(house: FakeHouse) -> None:
    await register(house)
    (code,) = await invite(house, "sensor-1", ttl=60)
    csr = make_csr(make_key())
    first = await enroll(house, code, csr)
    house.clock.advance(RETRY - timedelta(seconds=1))  # long after the code's own end
    await house.settle()
    again = await enroll(house, code, csr)
    assert again.instance_id == first.instance_id
    assert read_key(again.chain[0]) == read_key(first.chain[0])
    assert len(await house.events("device.enrolled")) == 1
    house.clock.advance(timedelta(seconds=2))
    with pytest.raises(Refused, match="expired"):
        await enroll(house, code, csr)


@in_house
async def test_a_crash_between_code_and_signature_loses_no_code(house: FakeHouse) -> None:
    await register(house)
    (code,) = await invite(house, "sensor-1")
    csr = make_csr()

    def die() -> None:
        raise OSError("the keystore is away")

    house.keystore.before_sign = die
    with pytest.raises(Unavailable):
        await enroll(house, code, csr)
    with pytest.raises(Refused, match="another key"):
        await enroll(house, code)
    house.keystore.before_sign = None
    assert (await enroll(house, code, csr)).identity == "sensor-1"


@in_house
async def test_ten_devices_race_for_one_code(house: FakeHouse) -> None:
    await register(house)
    (code,) = await invite(house, "sensor-1")
    outcomes = await asyncio.gather(
        *(enroll(house, code) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(o, DeviceCredential) for o in outcomes) == 1
    assert sum(isinstance(o, Refused) for o in outcomes) == 9
    assert len(await house.events("certificate.issued")) == 1


@in_house
async def test_a_thousand_devices_in_one_call_and_none_twice(house: FakeHouse) -> None:
    for number in range(20):
        await register(house, f"sensor-{number}")
    codes = await invite(house, *(f"sensor-{number % 20}" for number in range(1000)))
    assert len(set(codes)) == 1000
    made = await asyncio.gather(*(enroll(house, code) for code in codes[:60]))
    assert len({credential.instance_id for credential in made}) == 60
    assert len({credential.spiffe_id for credential in made}) == 20


@in_house
async def test_one_name_that_is_no_device_and_there_are_no_codes_at_all(house: FakeHouse) -> None:
    await register(house)
    await house.register("payments")
    before = len(await house.events())
    with pytest.raises(Refused, match="only a device enrols"):
        await invite(house, "sensor-1", "payments")
    with pytest.raises(NotFound):
        await invite(house, "sensor-1", "nobody")
    assert len(await house.events()) == before


@in_house
async def test_an_expired_code(house: FakeHouse) -> None:
    await register(house)
    (code,) = await invite(house, "sensor-1", ttl=60)
    house.clock.advance(timedelta(seconds=60))
    with pytest.raises(Refused, match="expired"):
        await enroll(house, code)


@in_house
async def test_a_proposed_device_can_be_invited_and_enrols_once_it_is_active(
    house: FakeHouse,
) -> None:
    await register(house, activate=False)
    (code,) = await invite(house, "sensor-1")
    csr = make_csr()
    with pytest.raises(Denied, match="proposed"):
        await enroll(house, code, csr)
    await move(house, "activate")
    assert await enroll(house, code)  # the refusal didn't use the code up


def test_a_code_can_be_read_out_and_typed() -> None:
    secret = SeededEntropy(7).token(16)
    code = render_code(secret)
    assert len(code) == 34
    sloppy = code.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert parse_code(f"  {sloppy}\n") == secret


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c[:-1],
        lambda c: c + "0",
        lambda c: "",
        lambda c: "U" + c[1:],
        lambda c: c + "-" * 40,
        lambda c: c.replace("-", "é"),
    ],
)
def test_what_is_no_code_is_told_without_a_look_at_the_store(spoil: Callable[[str], str]) -> None:
    with pytest.raises(Invalid):
        parse_code(spoil(render_code(SeededEntropy(7).token(16))))


def test_every_single_slip_of_the_finger_is_noticed() -> None:
    code = render_code(SeededEntropy(7).token(16)).replace("-", "")
    slips = 0
    for place in range(len(code)):
        wrong = "2" if code[place] != "2" else "3"
        try:
            parse_code(code[:place] + wrong + code[place + 1 :])
        except Invalid:
            slips += 1
    assert slips == len(code)


@in_house
async def test_guessing_is_slowed_by_address_and_strangers_write_nothing(house: FakeHouse) -> None:
    await register(house)
    (code,) = await invite(house, "sensor-1")
    before = len(await house.events())
    for _ in range(BURST):
        with pytest.raises(Refused, match="not valid here"):
            await enroll(house, WRONG)
    with pytest.raises(Limited):
        await enroll(house, code)
    elsewhere = replace(AWAY, source="192.0.2.2:4711")
    with pytest.raises(Refused):
        await enroll(house, WRONG, caller=elsewhere)
    assert len(await house.events()) == before
    house.clock.advance(timedelta(seconds=5))
    assert await enroll(house, code)


@in_house
async def test_who_shows_a_code_that_was_used_or_mistyped_is_not_slowed(house: FakeHouse) -> None:
    await register(house)
    used, fresh = await invite(house, "sensor-1", "sensor-1")
    await enroll(house, used)
    for _ in range(BURST + 5):
        with pytest.raises(TrothError):
            await enroll(house, used)
        with pytest.raises(Invalid):
            await enroll(house, "not a code")
    assert await enroll(house, fresh)


@in_house
async def test_who_enrols_again_and_again_with_one_code_is_braked(house: FakeHouse) -> None:
    await register(house)
    used, fresh = await invite(house, "sensor-1", "sensor-1")
    csr = make_csr()
    for _ in range(BURST):
        await enroll(house, used, csr)
    before = len(await house.events())
    with pytest.raises(Limited, match="wait"):
        await enroll(house, used, csr)
    assert len(await house.events()) == before
    assert await enroll(house, fresh)  # behind the same address


def test_a_network_is_one_source(tmp_path: Path) -> None:
    assert name_network("192.0.2.1:4711") == "192.0.2.1"
    assert name_network("[2001:db8:1:2:3::4]:80") == name_network("[2001:db8:1:2::9]:81")
    assert name_network("[2001:db8:1:2::]:80") != name_network("[2001:db8:1:3::]:80")
    assert name_network("uid:0/pid:7") == "uid:0/pid:7"


@in_house
async def test_a_throttle_forgets_sources_that_it_saw_longest_ago(house: FakeHouse) -> None:
    throttle = Throttle(house.clock, burst=1)
    for number in range(10_001):
        throttle.count(f"source-{number}")
    throttle.check("source-0")
    with pytest.raises(Limited):
        throttle.check("source-1")


@in_house
async def test_a_device_renews_by_itself_and_stays_the_same_one(house: FakeHouse) -> None:
    first = await enrolled(house)
    house.clock.advance(first.renew_after - house.clock.now())
    key = make_key()
    second = await renew(house, first, make_csr(key))
    assert second.instance_id == first.instance_id
    assert second.spiffe_id == first.spiffe_id
    assert second.not_after > first.not_after
    assert read_key(second.chain[0]) == spell(key)
    # Its answer was lost: the certificate before still serves.
    assert await renew(house, first)
    (instance,) = (await house.call("instance.ls", ListInstances(name="sensor-1"))).items
    assert instance.last_seen == house.clock.now()


@pytest.mark.parametrize("verb", ["suspend", "quarantine", "retire"])
def test_who_is_cut_off_renews_no_more(verb: str, tmp_path: Path) -> None:
    @in_house
    async def test(house: FakeHouse) -> None:
        credential = await enrolled(house)
        caller = await authenticate(house, credential)
        await move(house, verb)
        with pytest.raises(Denied):  # a call that was under way
            await house.call("device.renew", RenewDevice(csr=make_csr()), caller)
        with pytest.raises((Unauthenticated, Denied)):
            await renew(house, credential)
        revoked = await house.events("certificate.revoked")
        assert [e.subject for e in revoked] == [credential.spiffe_id]

    test(tmp_path)


@in_house
async def test_a_quarantine_during_the_signature_is_seen(house: FakeHouse) -> None:
    credential = await enrolled(house)
    caller = await authenticate(house, credential)
    loop = asyncio.get_running_loop()

    def quarantine() -> None:
        house.keystore.before_sign = None
        asyncio.run_coroutine_threadsafe(move(house, "quarantine"), loop).result(10)

    house.keystore.before_sign = quarantine
    with pytest.raises(Denied):
        await house.call("device.renew", RenewDevice(csr=make_csr()), caller)


@in_house
async def test_after_a_release_a_new_code_brings_the_device_back(house: FakeHouse) -> None:
    await register(house)
    used, unused = await invite(house, "sensor-1", "sensor-1")
    csr = make_csr()
    credential = await enroll(house, used, csr)
    await move(house, "quarantine")
    with pytest.raises(Refused, match="quarantined"):
        await invite(house, "sensor-1")
    await move(house, "release")
    with pytest.raises(Unauthenticated, match="revoked"):
        await renew(house, credential)
    for code, request in ((used, csr), (unused, make_csr())):  # what was handed out before is void
        with pytest.raises(Refused, match="withdrawn"):
            await enroll(house, code, request)
    (code,) = await invite(house, "sensor-1")
    assert await renew(house, await enroll(house, code))


@in_house
async def test_one_device_locked_alone_and_its_sibling_not(house: FakeHouse) -> None:
    await register(house)
    codes = await invite(house, "sensor-1", "sensor-1")
    csr = make_csr()
    lost, kept = await enroll(house, codes[0], csr), await enroll(house, codes[1])
    await house.call("instance.lock", MoveInstance(id=lost.instance_id, reason="stolen"))
    with pytest.raises(Unauthenticated, match="revoked"):
        await renew(house, lost)
    with pytest.raises(Denied, match="locked"):
        await enroll(house, codes[0], csr)
    assert await renew(house, kept)


@in_house
async def test_an_expired_certificate_renews_nothing(house: FakeHouse) -> None:
    credential = await enrolled(house, x509_ttl=60)
    house.clock.advance(timedelta(seconds=61))
    with pytest.raises(Unauthenticated, match="expired"):
        await renew(house, credential)


@in_house
async def test_a_certificate_that_an_agent_asked_for_renews_no_device(house: FakeHouse) -> None:
    view = await register(house, selectors=["unix:uid:1001"])
    node = await house.join()
    (issued,) = await house.issue(node, view.id)
    parts = house.parts
    registry = CallerRegistry(parts.store, parts.snapshot, parts.peers, DOMAIN, {}, {})
    caller = await registry.by_certificate(issued.chain[0], "")
    assert caller.roles == frozenset({"workload"}), "and not that of a device"
    with pytest.raises(Denied, match="device"):
        await house.call("device.renew", RenewDevice(csr=make_csr()), caller)


@in_house
async def test_a_device_may_have_a_role_besides(house: FakeHouse) -> None:
    credential = await enrolled(house)
    await house.settle()
    parts = house.parts
    roles = {credential.spiffe_id: "auditor"}
    registry = CallerRegistry(parts.store, parts.snapshot, parts.peers, DOMAIN, {}, roles)
    caller = await registry.by_certificate(credential.chain[0], "")
    assert caller.roles == {"auditor", "device"}


@in_house
async def test_a_device_that_renews_without_end_is_slowed(house: FakeHouse) -> None:
    credential = await enrolled(house)
    for _ in range(BURST):
        await renew(house, credential)
    with pytest.raises(Limited):
        await renew(house, credential)


@in_house
async def test_enrolment_asks_for_a_way_that_is_known(house: FakeHouse) -> None:
    body = EnrollDevice(method="fax", evidence="x", csr=make_csr())
    with pytest.raises(Invalid, match="fax"):
        await house.call("device.enroll", body, AWAY)


@in_house
async def test_what_is_issued_together_is_journaled_apart_and_one_refusal_hurts_nobody(
    house: FakeHouse,
) -> None:
    names = [f"sensor-{number}" for number in range(5)]
    for name in names:
        await register(house, name)
    codes = await invite(house, *names)
    refused = await enroll(house, codes[4])  # its code is used up by another key
    callers = [replace(AWAY, source=f"192.0.2.{number}:1") for number in range(5)]
    outcomes = await asyncio.gather(
        *(enroll(house, c, caller=who) for c, who in zip(codes, callers, strict=True)),
        return_exceptions=True,
    )
    assert [type(o) for o in outcomes] == [DeviceCredential] * 4 + [Refused]
    issued = {e.subject: e for e in await house.events("certificate.issued")}
    assert len(issued) == 5
    for number in range(4):
        event = issued[f"spiffe://example.org/sensor-{number}"]
        assert (event.actor, event.body["source"]) == ("anonymous", f"192.0.2.{number}:1")
    assert refused.identity == "sensor-4"


@in_house
async def test_a_keystore_that_is_away_fails_all_that_are_under_way_and_no_later_one(
    house: FakeHouse,
) -> None:
    await register(house)
    codes = await invite(house, *["sensor-1"] * 4)
    csrs = [make_csr() for _ in codes]

    def die() -> None:
        raise OSError("the keystore is away")

    house.keystore.before_sign = die
    tries = [enroll(house, c, csr) for c, csr in zip(codes, csrs, strict=True)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(o) for o in outcomes] == [Unavailable] * 4
    house.keystore.before_sign = None
    tries = [enroll(house, c, csr) for c, csr in zip(codes, csrs, strict=True)]
    assert len({made.instance_id for made in await asyncio.gather(*tries)}) == 4
