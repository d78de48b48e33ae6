"""A whole server without listeners, on a real store, with virtual time and seeded entropy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fakes.archive import FakeArchive
from tests.fakes.outsiders import FakeKeySource
from troth.archive.log import DecisionLog
from troth.archive.place import Folder
from troth.archive.tiles import LogFolder
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Conflict
from troth.core.ids import NodeId, RequestId, TrustDomain
from troth.core.manifest.problem import Limits
from troth.drivers.keystores.memory import MemoryKeystore
from troth.identity.x509pop import Vouchers
from troth.issuance.drafter import Drafter
from troth.issuance.profiles import CRL_LIFETIME, CRL_PERIOD
from troth.live.snapshot import Snapshot
from troth.operations.authority import PrepareAuthorities
from troth.operations.call import Call, Caller
from troth.operations.client import list_methods
from troth.operations.crl import PublishCrls
from troth.operations.decision import DecisionMaker
from troth.operations.dispatch import Dispatcher
from troth.operations.feed import FollowJournal, read_seed
from troth.operations.gate import Gatekeeper
from troth.operations.leaf import LeafIssuer
from troth.operations.logkeys import open_signer
from troth.operations.peer import PeerReader
from troth.operations.policyfeed import PolicyDesk
from troth.operations.publication import StoredPublication
from troth.operations.table import Parts, list_operations, list_subscriptions
from troth.store.engine import open_store
from troth.store.records import format_serial
from troth.store.sealer import Sealer
from troth.wire.api.certificates import CertificateRequest, InstanceClaim, IssueCertificates
from troth.wire.api.identities import RegisterIdentity
from troth.wire.api.nodes import AttestNode, CreateJoinToken

DOMAIN = TrustDomain("example.org")
ADMIN = Caller("uid:0", frozenset({"admin"}), source="test")
LEASE = timedelta(seconds=15)


@dataclass
class FakeMeter:
    """Remembers what was observed."""

    seen: list[tuple[str, str]] = field(default_factory=list)

    def observe(self, operation: str, outcome: str, seconds: float) -> None:
        self.seen.append((operation, outcome))


class FailingKeystore(MemoryKeystore):
    """A keystore that can be told to break, or to do something else first."""

    before_sign: Any = None

    def sign(self, key_ref: str, data: bytes) -> bytes:
        if self.before_sign is not None:
            self.before_sign()
        return super().sign(key_ref, data)


def make_csr(key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """A DER CSR without names for a fresh or given P-256 key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@dataclass
class FakeHouse:
    """The parts, and short ways to do what most tests begin with."""

    parts: Parts
    clock: VirtualClock
    keystore: FailingKeystore
    dispatcher: Dispatcher
    feed: FollowJournal
    publish: PublishCrls
    prepare: PrepareAuthorities
    meter: FakeMeter
    directory: Path
    request_id: str = "req_test"
    """Of the calls that are made here."""

    async def call(self, name: str, body: Any, caller: Caller = ADMIN) -> Any:
        """Call an operation as `caller`, by the gate."""
        return await self.dispatcher.call(name, caller, RequestId(self.request_id), body)

    async def register(self, name: str = "payments", **fields: Any) -> Any:
        """An active service identity on node local for uid 1001."""
        values: dict[str, Any] = {
            "kind": "service",
            "owner": "team@example.org",
            "purpose": "Takes payments",
            "selectors": ["unix:uid:1001"],
            "activate": True,
        }
        return await self.call("identity.register", RegisterIdentity(name=name, **values | fields))

    async def join(self, name: str = "local") -> Caller:
        """A freshly attested node, as a caller."""
        made = await self.call("token.join", CreateJoinToken(node=name))
        body = AttestNode(method="join_token", evidence=made.token, csr=make_csr())
        node = await self.call("node.attest", body)
        leaf = x509.load_der_x509_certificate(node.chain[0])
        serial = format_serial(leaf.serial_number)
        return Caller(node.spiffe_id, frozenset({"node"}), NodeId(node.node_id), "test", serial)

    async def issue(self, node: Caller, *identity_ids: str, **claim: Any) -> Any:
        """One certificate for each identity, for one instance of uid 1001."""
        await self.settle()
        values: dict[str, Any] = {"key": "ab" * 16, "pid": 7, "selectors": ["unix:uid:1001"]}
        instance = InstanceClaim(**values | claim)
        requests = [
            CertificateRequest(identity_id=i, csr=make_csr(), instance=instance)
            for i in identity_ids
        ]
        return (
            await self.call("certificate.issue", IssueCertificates(requests=requests), node)
        ).results

    async def settle(self) -> None:
        """Seal and take in everything that is committed."""
        await self.feed()

    async def events(self, prefix: str = "") -> list[Any]:
        """All sealed events whose type starts with `prefix`."""
        await self.settle()
        found = await self.parts.store.read(lambda tx: tx.journal.after(0, 10_000))
        return [sealed.event for sealed in found if sealed.event.type.startswith(prefix)]


def open_decisions(directory: Path, clock: VirtualClock, seed: int) -> DecisionLog:
    """A decision log in `directory`, or beside those of other houses there."""
    for number in range(8):
        folder = directory / f"decisions{number or ''}"
        with suppress(Conflict):
            return DecisionLog(folder, clock, SeededEntropy(seed), "test")
    raise AssertionError("too many houses in one directory")


@asynccontextmanager
async def open_house(
    directory: Path,
    seed: int = 1,
    vouchers: Vouchers | None = None,
    device_vouchers: Vouchers | None = None,
    url: str | None = None,
    clock: VirtualClock | None = None,
    keystore: FailingKeystore | None = None,
    client_secrets: bool = False,
) -> AsyncIterator[FakeHouse]:
    """A house on a fresh database in `directory`, or on the one at `url`."""
    clock, entropy = clock or VirtualClock(), SeededEntropy(seed)
    store = open_store(url or f"sqlite:///{directory}/troth.db", clock=clock)
    decisions = open_decisions(directory, clock, seed)
    try:
        keystore, drafter = keystore or FailingKeystore(entropy), Drafter()
        prepare = PrepareAuthorities(store, clock, entropy, keystore, DOMAIN, "test")
        await prepare()
        publish = PublishCrls(
            store, clock, keystore, drafter, CRL_LIFETIME, CRL_PERIOD, store.holder
        )
        await publish()
        snapshot = Snapshot(clock, LEASE)
        snapshot.load(await read_seed(store, clock.now()))
        parts = Parts(
            store=store,
            decisions=decisions,
            archive=FakeArchive(decisions),
            log=LogFolder(Folder(directory / "log")),
            signer=open_signer(keystore, DOMAIN),
            decider=DecisionMaker(store, snapshot, clock, entropy, decisions, DOMAIN),
            desk=PolicyDesk(store, snapshot, DOMAIN),
            snapshot=snapshot,
            clock=clock,
            entropy=entropy,
            keystore=keystore,
            leaves=LeafIssuer(
                store, snapshot, clock, entropy, keystore, drafter, "https://localhost:8443/crl"
            ),
            publication=StoredPublication(
                store,
                snapshot,
                clock,
                "https://localhost:8443",
                "https://localhost:8444",
                list_methods(client_secrets=client_secrets),
            ),
            trust_domain=DOMAIN,
            limits=Limits(trust_domain=DOMAIN),
            issuer_url="https://localhost:8443/svid",
            lease=LEASE,
            started_at=clock.now(),
            vouchers=vouchers or Vouchers(),
            device_vouchers=device_vouchers or Vouchers(),
            key_source=FakeKeySource(),
            peers=PeerReader(store, snapshot, clock, DOMAIN),
            client_secrets=client_secrets,
        )
        meter = FakeMeter()
        yield FakeHouse(
            parts=parts,
            clock=clock,
            keystore=keystore,
            dispatcher=Dispatcher(
                list_operations(parts),
                list_subscriptions(parts),
                clock,
                entropy,
                meter,
                gates=Gatekeeper(parts.decider, snapshot, clock),
            ),
            feed=FollowJournal(store, Sealer(store, clock=clock, holder="test"), snapshot),
            publish=publish,
            prepare=prepare,
            meter=meter,
            directory=directory,
        )
    finally:
        decisions.close()
        store.close()


def call_of(body: Any, caller: Caller = ADMIN) -> Call[Any]:
    """A call outside the gate."""
    return Call(caller, RequestId("req_test"), body)


def in_house(
    test: Callable[[FakeHouse], Coroutine[Any, Any, None]],
    vouchers: Vouchers | None = None,
    device_vouchers: Vouchers | None = None,
    *,
    client_secrets: bool = False,
) -> Callable[[Path], None]:
    """Run an async test in a fresh house."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            async with open_house(
                tmp_path,
                vouchers=vouchers,
                device_vouchers=device_vouchers,
                client_secrets=client_secrets,
            ) as house:
                await test(house)

        asyncio.run(main())

    run.__doc__ = test.__doc__
    return run
