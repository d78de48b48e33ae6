"""What every engine promises about enrolment codes and devices by their certificate's selectors."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.stores import (
    ENGINES,
    HOUR,
    NOW,
    SECOND,
    make_certificate,
    make_instance,
    make_named,
    make_url,
    read,
    transact,
)
from troth.core.clock import VirtualClock
from troth.core.errors import Conflict
from troth.core.ids import AuthorityId, CodeId, IdentityId, NodeId
from troth.identity.identity import Kind, State
from troth.identity.selectors import Selector
from troth.store.engine import open_store
from troth.store.identities import MOST_CERTIFIED
from troth.store.records import CertificateKind, EnrolmentCode, format_serial

ONE, TWO = Selector("x509pop:sha256", "ab" * 32), Selector("x509pop:cn", "sn-2")
MAKER = Selector("x509pop:ca", "cd" * 32)


@pytest.fixture(params=ENGINES)
def store(request, tmp_path):
    store = open_store(make_url(request.param, tmp_path), clock=VirtualClock(NOW))
    transact(store, lambda tx: tx.identities.add(make_device("api")))
    yield store
    store.close()


def make_device(name: str, *selectors: Selector, **changes: Any):
    return make_named(name, kind=Kind.DEVICE, selectors=selectors, **changes)


def make_code(number: int = 1, **changes: Any) -> EnrolmentCode:
    code = EnrolmentCode(
        id=CodeId(f"enc_{number}"),
        secret_hash="ab" * 32,
        identity_id=IdentityId("idn_api"),
        created_by="uid:0",
        created_at=NOW,
        expires_at=NOW + HOUR,
    )
    return replace(code, **changes)


def add(store, *codes: EnrolmentCode) -> None:
    transact(store, lambda tx: tx.enrolment_codes.add_all(codes))


def find(store, code_id: str) -> EnrolmentCode | None:
    found: EnrolmentCode | None = read(store, lambda tx: tx.enrolment_codes.find(code_id))
    return found


def take(store, code_id: str, key: str, now=NOW, until=NOW + HOUR) -> bool:
    return bool(transact(store, lambda tx: tx.enrolment_codes.take(code_id, now, key, until)))


def test_codes_come_back_as_they_were_all_or_none(store):
    add(store)
    add(store, make_code(1), make_code(2))
    assert find(store, "enc_2") == make_code(2)
    assert find(store, "enc_3") is None
    with pytest.raises(Conflict, match="id is taken"):
        add(store, make_code(3), make_code(1))
    assert find(store, "enc_3") is None


def test_a_code_is_taken_once_in_time_and_by_one_of_ten(store):
    add(store, make_code(1), make_code(2), make_code(3, expires_at=NOW))

    async def race():
        def attempt(number):
            return store.transact(
                lambda tx: tx.enrolment_codes.take("enc_1", NOW, f"{number}", NOW + 2 * HOUR)
            )

        return await asyncio.gather(*map(attempt, range(10)))

    outcomes = asyncio.run(race())
    assert outcomes.count(True) == 1
    taken = find(store, "enc_1")
    assert taken == make_code(
        1, used_at=NOW, key_hash=str(outcomes.index(True)), expires_at=NOW + 2 * HOUR
    )
    assert not take(store, "enc_3", "a")
    assert not take(store, "enc_4", "a")
    assert take(store, "enc_2", "a", now=NOW + HOUR - SECOND)


def test_what_an_identity_loses_its_codes_lose_too(store):
    transact(store, lambda tx: tx.identities.add(make_device("other")))
    add(store, make_code(1), make_code(2), make_code(3, identity_id=IdentityId("idn_other")))
    take(store, "enc_1", "a")
    later = NOW + SECOND
    ended = transact(store, lambda tx: tx.enrolment_codes.end_for_identity("idn_api", later))
    assert ended == 2
    codes = [find(store, f"enc_{number}") for number in (1, 2, 3)]
    assert [code and code.expires_at for code in codes] == [later, later, NOW + HOUR]
    assert not take(store, "enc_2", "a", now=later)


def test_codes_are_forgotten_once_they_are_over(store):
    add(store, make_code(1), make_code(2, expires_at=NOW + 2 * HOUR))
    assert transact(store, lambda tx: tx.enrolment_codes.purge(NOW + HOUR)) == 1
    assert find(store, "enc_1") is None
    assert find(store, "enc_2") is not None


def certified(store, *selectors: Selector) -> list[str]:
    found = read(store, lambda tx: tx.identities.find_certified(selectors))
    return [identity.name for identity in found]


def test_devices_are_found_by_their_most_telling_selector(store):
    service = replace(make_device("service", MAKER), kind=Kind.SERVICE)
    for identity in (
        make_device("one", ONE, MAKER),
        make_device("two", MAKER, TWO),
        make_device("three", MAKER),
        service,
    ):
        transact(store, lambda tx, i=identity: tx.identities.add(i))
    assert certified(store, ONE, MAKER) == ["one", "three"]
    assert certified(store, TWO) == ["two"]
    assert certified(store, MAKER) == ["three"]
    assert certified(store, Selector("x509pop:cn", "nobody")) == []
    assert certified(store) == []


def test_however_many_devices_a_certificate_fits_only_some_are_read(store):
    crowd = [make_device(f"d{number:03}", MAKER) for number in range(MOST_CERTIFIED + 1)]
    transact(store, lambda tx: tx.identities.add_all(crowd))
    assert len(certified(store, ONE, MAKER)) == MOST_CERTIFIED


def test_what_finds_a_device_follows_its_changes(store):
    first = make_device("one", ONE)
    transact(store, lambda tx: tx.identities.add(first))

    def change(before, **changes):
        after = replace(before, revision=before.revision + 1, **changes)
        transact(store, lambda tx: tx.identities.save(after, before.revision))
        return after

    second = change(first, selectors=(TWO,))
    assert (certified(store, ONE), certified(store, TWO)) == ([], ["one"])
    third = change(second, state=State.QUARANTINED)
    assert certified(store, TWO) == ["one"]
    change(third, state=State.RETIRED)
    assert certified(store, TWO) == []


def test_no_agent_is_told_of_a_device_that_enrols_by_itself(store):
    unix = Selector("unix:uid", "7")
    for identity in (
        make_device("code", nodes=("local",)),
        make_device("certificate", ONE, nodes=("*",)),
        make_device("agent", unix, nodes=("local",)),
    ):
        transact(store, lambda tx, i=identity: tx.identities.add(i))
    found = read(store, lambda tx: tx.identities.for_node("local"))
    assert [identity.name for identity in found] == ["agent"]


def test_a_device_that_has_not_come_back_yet_counts_as_a_holder(store):
    device = make_instance(1, node_id=NodeId(""))
    old = make_certificate(1, kind=CertificateKind.DEVICE, node_id=None)
    new = replace(old, serial=format_serial(2), authority_id=AuthorityId("aut_2"))

    def issue(record):
        def run(tx):
            tx.certificates.add_intended(record)
            tx.certificates.mark_issued(record.serial, b"der")

        transact(store, run)

    transact(store, lambda tx: tx.instances.upsert(device))
    issue(old)
    assert read(store, lambda tx: tx.certificates.count_unreplaced("aut_1", NOW)) == 1
    issue(new)
    assert read(store, lambda tx: tx.certificates.count_unreplaced("aut_1", NOW)) == 0
