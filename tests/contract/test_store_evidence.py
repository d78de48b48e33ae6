"""What every engine promises about evidence for and against identities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.stores import ENGINES, HOUR, NOW, make_named, make_url, read, transact
from troth.core.clock import VirtualClock
from troth.core.errors import Conflict, NotFound
from troth.core.ids import EvidenceId, IdentityId
from troth.store.engine import Store, open_store
from troth.trust.evidence import Evidence

API, OTHER = IdentityId("idn_api"), IdentityId("idn_other")
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = open_store(make_url(request.param, tmp_path), clock=VirtualClock(NOW))
    for name in ("api", "other"):
        transact(store, lambda tx, name=name: tx.identities.add(make_named(name)))
    yield store
    store.close()


def make_evidence(number: int = 1, **changes: Any) -> Evidence:
    evidence_id = EvidenceId(f"evd_{number}")
    made = Evidence(evidence_id, API, "ids", "scan", -40, HOUR, NOW, "Größe \U0001f511", "uid:0")
    return replace(made, **changes)


def add(store: Store, *added: Evidence) -> None:
    for one in added:
        transact(store, lambda tx, one=one: tx.evidence.add(one))


def test_evidence_comes_back_as_it_was(store: Store) -> None:
    odd = make_evidence(2, half_life=timedelta(days=3650) - MICROSECOND, weight=100)
    add(store, make_evidence(), odd)
    assert read(store, lambda tx: tx.evidence.get("evd_1")) == make_evidence()
    assert read(store, lambda tx: tx.evidence.list(API)) == (make_evidence(), odd)
    with pytest.raises(Conflict, match="id is taken"):
        add(store, make_evidence())


def test_it_is_listed_by_identity_in_the_order_of_its_ids(store: Store) -> None:
    theirs = make_evidence(3, identity_id=OTHER)
    add(store, make_evidence(2), theirs, make_evidence(1))
    nobody = IdentityId("idn_nobody")
    assert read(store, lambda tx: tx.evidence.list_all([API, OTHER, nobody])) == {
        API: (make_evidence(1), make_evidence(2)),
        OTHER: (theirs,),
        nobody: (),
    }
    many = [IdentityId(f"idn_{n}") for n in range(1200)]
    found = read(store, lambda tx: tx.evidence.list_all([*many, API]))
    assert (len(found), len(found[API])) == (1201, 2)


def test_what_was_withdrawn_is_gone(store: Store) -> None:
    add(store, make_evidence(1), make_evidence(2))
    transact(store, lambda tx: tx.evidence.withdraw(EvidenceId("evd_1")))
    with pytest.raises(NotFound, match="withdrawn"):
        read(store, lambda tx: tx.evidence.get("evd_1"))
    assert read(store, lambda tx: tx.evidence.list(API)) == (make_evidence(2),)


def test_what_counts_no_more_is_neither_counted_nor_kept(store: Store) -> None:
    slow = make_evidence(3, half_life=HOUR * 24)
    add(store, make_evidence(1), make_evidence(2), slow)
    end = make_evidence().ends_at
    for now, count in ((NOW, 3), (end - MICROSECOND, 3), (end, 1), (slow.ends_at, 0)):
        assert read(store, lambda tx, now=now: tx.evidence.count_living(API, now)) == count
    assert transact(store, lambda tx: tx.evidence.purge(end - MICROSECOND, 9)) == 0
    assert transact(store, lambda tx: tx.evidence.purge(end, 1)) == 1
    assert transact(store, lambda tx: tx.evidence.purge(end, 9)) == 1
    assert read(store, lambda tx: tx.evidence.list(API)) == (slow,)
