"""What every engine promises about client secrets and about certificates of clients' own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.stores import ENGINES, HOUR, NOW, SECOND, make_named, make_url, read, transact
from troth.core.clock import VirtualClock
from troth.core.errors import Conflict, NotFound
from troth.core.ids import IdentityId, SecretId
from troth.identity.client import Client, ClientKey
from troth.identity.identity import State
from troth.store.engine import Store, open_store
from troth.store.records import ClientSecret

API = IdentityId("idn_api")


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = open_store(make_url(request.param, tmp_path), clock=VirtualClock(NOW))
    for name in ("api", "other"):
        transact(store, lambda tx, name=name: tx.identities.add(make_named(name)))
    yield store
    store.close()


def make_secret(number: int = 1, **changes: Any) -> ClientSecret:
    secret = ClientSecret(SecretId(f"csec_{number}"), "ab" * 32, API, "uid:0", NOW, NOW + HOUR)
    return replace(secret, **changes)


def add(store: Store, *secrets: ClientSecret) -> None:
    for secret in secrets:
        transact(store, lambda tx, secret=secret: tx.client_secrets.add(secret))


def list_ids(
    store: Store, at: Any = NOW, of: str | None = None, after: str = "", limit: int = 10
) -> list[str]:
    identity_id = None if of is None else IdentityId(of)
    found = read(
        store,
        lambda tx: tx.client_secrets.page(at, identity_id=identity_id, after=after, limit=limit),
    )
    return [one.id for one in found]


def test_secrets_come_back_as_they_were(store: Store) -> None:
    add(store, make_secret())
    assert read(store, lambda tx: tx.client_secrets.get("csec_1")) == make_secret()
    assert read(store, lambda tx: tx.client_secrets.find("csec_2")) is None
    with pytest.raises(NotFound, match="client-secret ls"):
        read(store, lambda tx: tx.client_secrets.get("csec_2"))
    with pytest.raises(Conflict, match="id is taken"):
        add(store, make_secret())


def test_those_that_are_good_now_are_counted_and_listed(store: Store) -> None:
    add(
        store,
        make_secret(1),
        make_secret(2, expires_at=NOW + 2 * HOUR),
        make_secret(3, revoked_at=NOW),
        make_secret(4, identity_id=IdentityId("idn_other")),
    )
    assert list_ids(store) == ["csec_1", "csec_2", "csec_4"]
    assert list_ids(store, of=API) == ["csec_1", "csec_2"]
    assert list_ids(store, after="csec_1", limit=1) == ["csec_2"]
    assert list_ids(store, NOW + HOUR - SECOND) == ["csec_1", "csec_2", "csec_4"]
    assert list_ids(store, NOW + HOUR) == ["csec_2"]
    for at, count in ((NOW, 2), (NOW + HOUR, 1), (NOW + 2 * HOUR, 0)):
        assert read(store, lambda tx, at=at: tx.client_secrets.count_live(API, at)) == count


def test_what_is_revoked_stays_so_since_the_first_time(store: Store) -> None:
    add(store, make_secret(1), make_secret(2), make_secret(3, expires_at=NOW))
    for at in (NOW, NOW + SECOND):
        transact(store, lambda tx, at=at: tx.client_secrets.revoke("csec_1", at))
    assert read(store, lambda tx: tx.client_secrets.get("csec_1")).revoked_at == NOW
    assert transact(store, lambda tx: tx.client_secrets.void(NOW)) == 1
    assert list_ids(store) == []
    assert read(store, lambda tx: tx.client_secrets.get("csec_3")).revoked_at is None


def test_the_expired_are_forgotten(store: Store) -> None:
    add(store, make_secret(1), make_secret(2, expires_at=NOW + 2 * HOUR, revoked_at=NOW))
    assert transact(store, lambda tx: tx.client_secrets.purge(NOW + HOUR)) == 1
    assert read(store, lambda tx: tx.client_secrets.find("csec_1")) is None
    assert read(store, lambda tx: tx.client_secrets.find("csec_2")) is not None


def test_the_retired_have_no_secrets_and_no_certificates(store: Store) -> None:
    add(store, make_secret(1), make_secret(2, identity_id=IdentityId("idn_other")))
    for name, client in (
        ("api", Client(certificates=(b"one", b"two"))),
        ("other", Client((ClientKey("k", b"key"),), (b"two", b"three"))),
    ):
        found = read(store, lambda tx, name=name: tx.identities.get_named(name))
        changed = replace(found, client=client, revision=found.revision + 1)
        transact(store, lambda tx, c=changed, f=found: tx.identities.save(c, f.revision))
    listed = read(store, lambda tx: tx.identities.list_certificates())
    assert listed == {b"one", b"two", b"three"}
    found = read(store, lambda tx: tx.identities.get_named("api"))
    gone = replace(found, state=State.RETIRED, revision=found.revision + 1)
    transact(store, lambda tx: tx.identities.save(gone, found.revision))
    assert read(store, lambda tx: tx.identities.list_certificates()) == {b"two", b"three"}
    assert list_ids(store) == ["csec_2"]
