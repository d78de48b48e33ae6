"""Signing keys that nobody needs any more are erased, once, and on the record."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from tests.fakes.house import FakeHouse, in_house
from troth.issuance.authorities import AuthorityState, Use
from troth.operations.erasure import EraseKeys
from troth.operations.logkeys import ED25519_REF, MLDSA44_REF
from troth.operations.recording import BACKGROUND
from troth.operations.succession import AuthorityMaker

LOG_KEYS = len((ED25519_REF, MLDSA44_REF))


def eraser(house: FakeHouse, holder: str = "one") -> EraseKeys:
    return EraseKeys(house.parts.store, house.clock, house.keystore, holder)


async def erased(house: FakeHouse) -> list[str]:
    return [event.body["key"] for event in await house.events("key.erased")]


@in_house
async def test_the_key_of_an_ended_authority_goes_and_the_others_stay(house: FakeHouse) -> None:
    store = house.parts.store
    first = {a.use: a for a in await store.read(lambda tx: tx.authorities.list())}
    erase = eraser(house)
    known = []
    for _ in range(8):  # half a life, a successor, a sixth, its turn, the end of the old one
        house.clock.advance(timedelta(days=61))
        await house.prepare()
        await house.settle()
        await erase()
        known = await store.read(lambda tx: tx.authorities.list())
        published = [a.key_ref for a in known if a.published]
        assert house.keystore.list_keys() == sorted([*published, ED25519_REF, MLDSA44_REF])
    over = {a.key_ref for a in known if a.state is AuthorityState.ENDED}
    assert {a.key_ref for a in first.values()} <= over
    assert sorted(await erased(house)) == sorted(over)
    await erase()
    assert sorted(await erased(house)) == sorted(over)


@in_house
async def test_a_key_that_never_got_its_authority_goes_after_a_day(house: FakeHouse) -> None:
    maker = AuthorityMaker(
        house.parts.store,
        house.clock,
        house.parts.entropy,
        house.keystore,
        house.parts.trust_domain,
    )
    made = await maker.make(BACKGROUND, Use.X509)  # and then the server crashed
    house.keystore.create_key("x509-svid-aut_of_a_newer_database")
    house.keystore.create_key("somebody-elses")
    before = house.keystore.list_keys()
    await house.settle()
    house.clock.advance(timedelta(hours=23))
    await eraser(house)()
    assert house.keystore.list_keys() == before
    house.clock.advance(timedelta(hours=2))
    await eraser(house)()
    assert house.keystore.list_keys() == [ref for ref in before if ref != made.key_ref]
    assert await erased(house) == [made.key_ref]


@in_house
async def test_of_two_servers_one_erases_and_records(house: FakeHouse) -> None:
    house.clock.advance(timedelta(days=400))
    await house.prepare()
    await house.prepare()
    await asyncio.gather(*(eraser(house, name)() for name in ("one", "two", "three")))
    await eraser(house)()
    found = await erased(house)
    assert len(found) == len(set(found)) == 3


@in_house
async def test_what_a_crash_recorded_and_left_is_erased_by_the_next(house: FakeHouse) -> None:
    house.clock.advance(timedelta(days=400))
    await house.prepare()
    await house.prepare()
    broken = house.keystore.delete_key

    def fail(key_ref: str) -> None:
        raise RuntimeError("power is gone")

    house.keystore.delete_key = fail  # type: ignore[method-assign]
    try:
        await eraser(house)()
    except RuntimeError:
        pass
    house.keystore.delete_key = broken  # type: ignore[method-assign]
    assert len(house.keystore.list_keys()) == 6 + LOG_KEYS
    assert len(await erased(house)) == 3  # the record comes first
    await eraser(house)()
    assert len(house.keystore.list_keys()) == 3 + LOG_KEYS
