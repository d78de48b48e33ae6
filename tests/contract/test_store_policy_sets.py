"""What every engine promises about versions of the policy set, and about held changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fakes.stores import ENGINES, make_url, read, transact
from troth.core.clock import VirtualClock
from troth.core.errors import Conflict, NotFound
from troth.policy.version import Version, find_faults, link_of
from troth.store.engine import Store, open_store
from troth.store.policy_sets import Proposal

NOW = datetime(2026, 11, 20, 12, 0, 0, 7, tzinfo=UTC)


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = open_store(make_url(request.param, tmp_path), clock=VirtualClock(NOW))
    yield store
    store.close()


def make_version(number: int = 1, previous: str = "") -> Version:
    return Version(number, f"{number:064x}", previous, 7, "uid:0", "Größe", "req_1", NOW)


def make_proposal(number: int = 1) -> Proposal:
    return Proposal(
        number, "uid:0", "req_1", NOW, NOW + timedelta(days=7), "ab" * 32, ("It is.",), ("+ x",)
    )


def add(store: Store, count: int) -> list[Version]:
    versions: list[Version] = []
    for number in range(1, count + 1):
        made = make_version(number, link_of(versions[-1]) if versions else "")
        transact(store, lambda tx, made=made: tx.policy_sets.add(made, b"[]" * 1000))
        versions.append(made)
    return versions


def test_versions_come_back_as_they_were(store: Store) -> None:
    assert read(store, lambda tx: tx.policy_sets.find_last()) is None
    versions = add(store, 3)
    assert read(store, lambda tx: tx.policy_sets.find_last()) == versions[-1]
    assert read(store, lambda tx: tx.policy_sets.get(2)) == versions[1]
    assert read(store, lambda tx: tx.policy_sets.read_content(2)) == b"[]" * 1000
    newest = read(store, lambda tx: tx.policy_sets.list(before=None, limit=2))
    assert newest == [versions[2], versions[1]]
    assert read(store, lambda tx: tx.policy_sets.list(before=2, limit=9)) == [versions[0]]
    for look in ("get", "read_content"):
        with pytest.raises(NotFound, match="no version 9"):
            read(store, lambda tx, look=look: getattr(tx.policy_sets, look)(9))
    # What is stored has the times and texts that were signed: the chain holds afterwards.
    found = read(store, lambda tx: tx.policy_sets.list(before=None, limit=9))
    assert set(find_faults(reversed(found), None, b"").values()) == {"It isn't signed yet."}


def test_a_number_is_taken_once(store: Store) -> None:
    add(store, 1)
    with pytest.raises(Conflict, match="at this moment"):
        transact(store, lambda tx: tx.policy_sets.add(make_version(1), b"[1]"))
    assert read(store, lambda tx: tx.policy_sets.read_content(1)) == b"[]" * 1000


def test_a_signature_is_added_once(store: Store) -> None:
    first, _ = add(store, 2)
    waiting = read(store, lambda tx: tx.policy_sets.list_unsigned(9))
    assert [one.number for one in waiting] == [1, 2]
    transact(store, lambda tx: tx.policy_sets.sign(1, "key", b"\x00signature"))
    transact(store, lambda tx: tx.policy_sets.sign(1, "other", b"forged"))
    signed = read(store, lambda tx: tx.policy_sets.get(1))
    assert signed == replace(first, key_id="key", signature=b"\x00signature")
    waiting = read(store, lambda tx: tx.policy_sets.list_unsigned(9))
    assert [one.number for one in waiting] == [2]


def test_held_changes_come_back_and_are_decided_once(store: Store) -> None:
    assert read(store, lambda tx: tx.proposals.next_number()) == 1
    for number in (1, 2):
        made = make_proposal(number)
        transact(store, lambda tx, made=made: tx.proposals.add(made, b'{"documents":[]}'))
    assert read(store, lambda tx: tx.proposals.next_number()) == 3
    assert read(store, lambda tx: tx.proposals.get(1)) == make_proposal()
    assert read(store, lambda tx: tx.proposals.read_content(1)) == b'{"documents":[]}'
    with pytest.raises(Conflict, match="at this moment"):
        transact(store, lambda tx: tx.proposals.add(make_proposal(2), b""))
    assert read(store, lambda tx: tx.proposals.count_pending(NOW)) == 2
    assert read(store, lambda tx: tx.proposals.count_pending(NOW + timedelta(days=7))) == 0
    transact(store, lambda tx: tx.proposals.decide(1, "approved", "uid:1", NOW, "good"))
    decided = read(store, lambda tx: tx.proposals.get(1))
    assert decided == replace(
        make_proposal(), state="approved", decided_by="uid:1", decided_at=NOW, reason="good"
    )
    assert read(store, lambda tx: tx.proposals.read_content(1)) == b""
    with pytest.raises(Conflict, match="decided by somebody else"):
        transact(store, lambda tx: tx.proposals.decide(1, "rejected", "uid:2", NOW, ""))
    pending = read(store, lambda tx: tx.proposals.list(pending=True, limit=9))
    assert [one.number for one in pending] == [2]
    every = read(store, lambda tx: tx.proposals.list(pending=False, limit=9))
    assert [one.number for one in every] == [2, 1]
    with pytest.raises(NotFound, match="no held change 9"):
        read(store, lambda tx: tx.proposals.get(9))
