"""Stores for tests: a fresh one for each engine, and records with every field filled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.fakes.identities import DOMAIN, make_identity
from tests.fakes.postgres import start_cluster
from troth.core.events import Event
from troth.core.ids import AuthorityId, IdentityId, InstanceId, NodeId, SpiffeId, TokenId
from troth.identity.identity import Identity, Instance, State
from troth.issuance.authorities import Authority, AuthorityState, Use
from troth.store.engine import Store, Transaction
from troth.store.records import (
    CertificateKind,
    CertificateRecord,
    CrlRecord,
    IssuanceState,
    JoinToken,
    JwtSvidRecord,
    Node,
    NodeState,
    format_serial,
)
from troth.store.sealer import Sealer

NOW = datetime(2026, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
ENGINES = ["sqlite", "postgresql"]
"""Engines that the contract suite runs on."""

T = TypeVar("T")


def make_url(engine: str, directory: Path) -> str:
    """The URL of a fresh database of `engine`; skips the test where the engine is missing."""
    if engine == "sqlite":
        return f"sqlite:///{directory / 'troth.db'}"
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("Debian's package postgresql is not installed")
    return cluster.create_database(cluster.migrated)


def transact(store: Store, function: Callable[..., T]) -> T:
    """`store.transact` for a test that isn't asynchronous."""
    return asyncio.run(store.transact(function))


def read(store: Store, function: Callable[..., T]) -> T:
    """`store.read` for a test that isn't asynchronous."""
    return asyncio.run(store.read(function))


@asynccontextmanager
async def hold_writer(store: Any) -> AsyncIterator[None]:
    """Keep all writers busy, so that what is queued in the block waits, and on SQLite forms one
    group."""
    leave = threading.Event()
    entered = threading.Semaphore(0)

    def hold(_: Transaction) -> None:
        entered.release()
        assert leave.wait(30)

    held = []
    for _ in range(getattr(store, "writers", 1)):
        held.append(asyncio.create_task(store.transact(hold)))
        assert await asyncio.to_thread(entered.acquire, timeout=30)
    try:
        yield
    finally:
        await asyncio.sleep(0)  # lets the block's own tasks queue what they have
        leave.set()
    await asyncio.gather(*held)


def make_event(number: int = 1, **changes: Any) -> Event:
    """An event; `changes` replace fields."""
    event = Event(
        type="identity.registered",
        subject=f"spiffe://example.org/{number}",
        actor="uid:0",
        at=NOW,
        request_id=f"req_{number}",
        body={"number": number, "labels": {"env": "prod"}, "none": None, "list": [1.5, True]},
    )
    return replace(event, **changes)


def make_named(name: str, **changes: Any) -> Identity:
    """An active identity called `name`, with id and path after it."""
    values: dict[str, Any] = {
        "id": IdentityId(f"idn_{name}"),
        "name": name,
        "spiffe_id": SpiffeId(DOMAIN, f"/{name}"),
        "state": State.ACTIVE,
    }
    return replace(make_identity(), **(values | changes))


def make_instance(number: int = 1, **changes: Any) -> Instance:
    """An unlocked instance of the identity named ``api`` on node ``nod_1``."""
    instance = Instance(
        id=InstanceId(f"ins_{number}"),
        identity_id=IdentityId("idn_api"),
        node_id=NodeId("nod_1"),
        pid=1000 + number,
        evidence=("unix:uid:1001", "unix:path:/usr/bin/api"),
        locked=False,
        locked_reason="",
        first_seen=NOW,
        last_seen=NOW,
    )
    return replace(instance, **changes)


def make_node(name: str = "local", **changes: Any) -> Node:
    """An active node called `name`."""
    node = Node(
        id=NodeId(f"nod_{name}"),
        name=name,
        spiffe_id=SpiffeId(DOMAIN, f"/troth/node/{name}"),
        state=NodeState.ACTIVE,
        attestation="join_token",
        attested_at=NOW,
        certificate_serial=format_serial(77),
        expires_at=NOW + DAY,
        last_seen=NOW,
    )
    return replace(node, **changes)


def make_token(number: int = 1, **changes: Any) -> JoinToken:
    """An unused join token, good for an hour."""
    token = JoinToken(
        id=TokenId(f"jtk_{number}"),
        secret_hash="ab" * 32,
        node_name="local",
        created_by="uid:0",
        created_at=NOW,
        expires_at=NOW + HOUR,
    )
    return replace(token, **changes)


def make_authority(number: int = 1, **changes: Any) -> Authority:
    """An active X.509 authority."""
    authority = Authority(
        id=AuthorityId(f"aut_{number}"),
        use=Use.X509,
        state=AuthorityState.ACTIVE,
        key_ref=f"key-{number}",
        public_key=b"\x30\x00public",
        certificate=b"\x30\x00certificate",
        not_before=NOW,
        not_after=NOW + 365 * DAY,
        created_at=NOW + number * SECOND,
    )
    return replace(authority, **changes)


def make_certificate(number: int = 1, **changes: Any) -> CertificateRecord:
    """An intended workload certificate of the identity named ``api``, good for an hour."""
    record = CertificateRecord(
        serial=format_serial(number),
        kind=CertificateKind.WORKLOAD,
        subject=SpiffeId(DOMAIN, "/api"),
        identity_id=IdentityId("idn_api"),
        instance_id=InstanceId("ins_1"),
        node_id=NodeId("nod_1"),
        authority_id=AuthorityId("aut_1"),
        state=IssuanceState.INTENDED,
        tbs=b"\x30\x00tbs",
        not_before=NOW,
        not_after=NOW + HOUR,
        created_at=NOW + number * SECOND,
    )
    return replace(record, **changes)


def make_jwt_svid(number: int = 1, **changes: Any) -> JwtSvidRecord:
    """An intended JWT-SVID of the identity named ``api``, good for an hour."""
    record = JwtSvidRecord(
        jti=f"jti_{number}",
        identity_id=IdentityId("idn_api"),
        node_id=NodeId("nod_1"),
        audiences=("orders", "ledger"),
        authority_id=AuthorityId("aut_2"),
        state=IssuanceState.INTENDED,
        digest="cd" * 32,
        issued_at=NOW + number * SECOND,
        expires_at=NOW + HOUR,
    )
    return replace(record, **changes)


def make_crl(number: int = 1, **changes: Any) -> CrlRecord:
    """An intended revocation list of authority ``aut_1``."""
    record = CrlRecord(
        authority_id=AuthorityId("aut_1"),
        number=number,
        state=IssuanceState.INTENDED,
        tbs=b"\x30\x00crl",
        this_update=NOW,
        next_update=NOW + DAY,
    )
    return replace(record, **changes)


class CountingStore(Store):
    """A store of somebody else, that counts what is read of it."""

    def __init__(self, store: Store) -> None:
        self._counted, self.clock, self.reads = store, store.clock, 0
        self._under_way = 0
        self._idle = asyncio.Condition()

    async def read(self, function: Callable[[Transaction], T]) -> T:
        """As the store does."""
        self.reads += 1
        self._under_way += 1
        try:
            return await self._counted.read(function)
        finally:
            self._under_way -= 1
            async with self._idle:
                self._idle.notify_all()

    async def wait_idle(self) -> None:
        """Until no read is under way."""
        async with self._idle:
            await self._idle.wait_for(lambda: not self._under_way)

    async def transact(self, function: Callable[[Transaction], T]) -> T:
        """As the store does."""
        return await self._counted.transact(function)


async def seal_all(sealer: Sealer) -> int:
    """Seal all that is committed; how many events got a position, 0 if it is another one's turn."""
    total = 0
    while (sealed := await sealer.seal_batch()) is not None:
        total += sealed.head - sealed.before
        if not sealed.more:
            break
    return total
