"""A server for the agent's tests: no network, real certificates, and a switch to be away."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from tests.fakes.issuer import NOW, FakeIssuer
from tests.fakes.source import until
from tests.fakes.virtualtime import VirtualTime
from troth.agent.batches import CERTIFICATES, JWT_SVIDS, Batches
from troth.agent.cache import Cache, Process
from troth.agent.connection import Unreachable
from troth.agent.credential import Credential
from troth.agent.refusals import Refusals
from troth.agent.sealing import SealedFile
from troth.agent.sightings import Sightings
from troth.agent.sync import Sync
from troth.agent.vault import Vault
from troth.agent.view import View
from troth.agent.workloads import Workloads
from troth.core.entropy import SeededEntropy
from troth.core.errors import Denied, Refused, TrothError, Unavailable
from troth.core.ids import SpiffeId
from troth.core.jose.jwk import derive_key_id
from troth.identity.selectors import Selector
from troth.issuance.crl import RevokedCertificate
from troth.issuance.csr import parse_csr
from troth.issuance.der import identify_key
from troth.wire.api.certificates import (
    CertificateRequest,
    Failure,
    IssueCertificates,
    IssuedCertificate,
    IssuedCertificates,
)
from troth.wire.api.jwt_svids import (
    IssuedJwtSvid,
    IssuedJwtSvids,
    IssueJwtSvids,
    JwtSvidRequest,
)
from troth.wire.api.nodes import (
    Accepted,
    AttestNode,
    Entry,
    Heartbeat,
    NodeCredential,
    NodeSnapshot,
    RenewNode,
    ReportWorkloads,
    SyncNode,
    TemplateEntry,
)
from troth.wire.api.templates import SightedWorkload, SightWorkload
from troth.wire.x509pop import Evidence, parse_evidence

CREDENTIAL = Credential(
    node_id="nod_local",
    spiffe_id="spiffe://example.org/troth/node/local",
    key=b"",
    chain=(),
    roots=(),
    not_before=NOW,
    not_after=NOW + timedelta(days=1),
)
FAR = NOW + timedelta(days=3650)
NODE_ID = "spiffe://example.org/troth/node/local"

CUT_OFF = ("suspended", "quarantined")


def make_entry(name: str, *selectors: str, **changes: Any) -> Entry:
    """An active entry for ``spiffe://example.org/<name>``."""
    values: dict[str, Any] = {
        "identity_id": f"idn_{name}",
        "name": name,
        "spiffe_id": f"spiffe://example.org/{name}",
        "state": "active",
        "selectors": list(selectors or ("unix:uid:1001",)),
        "dns_names": [],
        "x509_ttl": 3600,
        "jwt_ttl": 300,
        "hint": "",
        "revision": 1,
        "expires_at": FAR,
    }
    return Entry(**(values | changes))


class FakeServer:
    """Implements the agent's `Api`. Every call is kept in `calls` as (name, request)."""

    def __init__(self, time: VirtualTime) -> None:
        self.time = time
        self.issuer = FakeIssuer(now=NOW)
        self.entries: dict[str, Entry] = {}
        self.locked: set[str] = set()
        self.cut_off_elsewhere: set[str] = set()
        self.refusals: dict[str, TrothError] = {}
        self.revoked: list[RevokedCertificate] = []
        self.tainted: list[str] = []
        self.templates: list[TemplateEntry] = []
        self.sighting: TrothError | None = None
        self.sighted_state = "active"
        self.issued: dict[str, list[int]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.failure: TrothError | None = None
        self.holding: asyncio.Event | None = None
        self.tokens = {"good-token"}
        self.proofs: list[Evidence] = []
        self.barred = False
        self.spread = 0
        self.node_ttl = 3600
        self.epoch = 1
        self.crl_number = 1
        self.crl = self.issuer.issue_crl()
        self._streams: list[asyncio.Queue[Any]] = []

    def count(self) -> Counter[str]:
        """How often each operation was called."""
        return Counter(name for name, _ in self.calls)

    def requests(self, name: str) -> list[Any]:
        """The requests of one operation."""
        return [request for called, request in self.calls if called == name]

    def put(self, *entries: Entry) -> None:
        """Register or change identities and tell the node."""
        for entry in entries:
            self.entries[entry.identity_id] = entry
        self.publish()

    def change(self, name: str, **changes: Any) -> None:
        """Change one identity, with a new revision."""
        entry = self.entries[f"idn_{name}"]
        changes.setdefault("revision", entry.revision + 1)
        self.put(msgspec.structs.replace(entry, **changes))

    def quarantine(self, name: str) -> None:
        """Cut an identity off: no issuance, and what it holds is on the list."""
        self.revoke(name)
        self.change(name, state="quarantined")

    def revoke(self, name: str) -> None:
        """Put all that was issued to the identity on the list."""
        for serial in self.issued.pop(f"idn_{name}", []):
            self.revoked.append(RevokedCertificate(serial, self.time.clock.now()))
        self.crl_number += 1
        self.crl = self.issuer.issue_crl(self.revoked, number=self.crl_number)

    def remove(self, name: str) -> None:
        """Take one identity off this node."""
        del self.entries[f"idn_{name}"]
        self.publish()

    def publish(self) -> None:
        """Send the present state down every stream."""
        self.epoch += 1
        self.send(self.snapshot())

    def send(self, message: Any) -> None:
        """Send anything down every stream; an exception ends them."""
        for stream in self._streams:
            stream.put_nowait(message)

    def go_away(self) -> None:
        """Every stream breaks, every call fails."""
        self.failure = Unreachable("The server is away.")
        self.send(self.failure)

    def come_back(self) -> None:
        """Answer again."""
        self.failure = None

    def snapshot(self) -> NodeSnapshot:
        """What a node is told now."""
        return NodeSnapshot(
            epoch=self.epoch,
            lease=60,
            trust_domain="example.org",
            entries=list(self.entries.values()),
            locked=sorted(self.locked),
            x509_authorities=[self.issuer.x509.certificate],
            crls=[self.crl],
            jwks={"keys": [self._jwk()]},
            cut_off=sorted(
                {
                    e.spiffe_id
                    for e in self.entries.values()
                    if e.state in ("suspended", "quarantined")
                }
                | self.cut_off_elsewhere
            ),
            tainted=list(self.tainted),
            spread=self.spread,
            templates=list(self.templates),
        )

    def taint(self) -> None:
        """Sign with new keys from now on, and have all that the old ones signed replaced."""
        old = self.issuer
        self.tainted += [identify_key(old.x509.public_key).hex()]
        self.tainted += [derive_key_id(old.jwt.public_key)]
        self.issuer = FakeIssuer(seed=len(self.tainted), now=NOW)
        self.crl = self.issuer.issue_crl(self.revoked, number=self.crl_number)
        self.publish()

    def _jwk(self) -> dict[str, str]:
        point = self.issuer.jwt.public_key[-64:]
        x, y = (
            base64.urlsafe_b64encode(part).rstrip(b"=").decode()
            for part in (point[:32], point[32:])
        )
        return {
            "kty": "EC",
            "crv": "P-256",
            "x": x,
            "y": y,
            "use": "jwt-svid",
            "kid": derive_key_id(self.issuer.jwt.public_key),
        }

    async def call(self, name: str, request: Any) -> Any:
        """Answer one operation."""
        if name == "checkpoint.show":  # every agent looks, on the side
            raise Unavailable("There is no checkpoint yet.")
        self.calls.append((name, request))
        await asyncio.sleep(0)
        if self.holding is not None:
            await self.holding.wait()
        if self.failure is not None:
            raise self.failure
        match request:
            case IssueCertificates():
                return IssuedCertificates(results=[self._issue(one) for one in request.requests])
            case IssueJwtSvids():
                return IssuedJwtSvids(results=[self._issue_token(one) for one in request.requests])
            case SightWorkload():
                return self.sight(request)
            case ReportWorkloads():
                return Accepted()
            case AttestNode(method="x509pop"):
                if self.barred:
                    raise Refused("This machine was evicted.")
                proof = parse_evidence(request.evidence)
                assert proof not in self.proofs
                self.proofs.append(proof)
                return self._certify_node(request.csr)
            case AttestNode():
                if request.evidence not in self.tokens:
                    raise Denied("The join token is unknown.")
                self.tokens.remove(request.evidence)
                return self._certify_node(request.csr)
            case RenewNode():
                return self._certify_node(request.csr)
        raise AssertionError(name)

    async def stream(self, name: str, request: Any) -> AsyncIterator[Any]:
        """Follow: a snapshot at once, then what the test sends."""
        assert isinstance(request, SyncNode)
        self.calls.append((name, request))
        if self.failure is not None:
            raise self.failure
        queue: asyncio.Queue[Any] = asyncio.Queue()
        queue.put_nowait(self.snapshot())
        self._streams.append(queue)
        try:
            while True:
                message = await queue.get()
                if isinstance(message, BaseException):
                    raise message
                yield message
        finally:
            self._streams.remove(queue)

    async def close(self) -> None:
        """Nothing to close."""

    def heartbeat(self) -> None:
        """Say that nothing changed."""
        self.send(Heartbeat(epoch=self.epoch))

    def sight(self, request: SightWorkload) -> SightedWorkload:
        """A new identity for the workload's uid, sent to the node a moment later."""
        if self.sighting is not None:
            raise self.sighting
        (uid,) = (s.rpartition(":")[2] for s in request.selectors if s.startswith("unix:uid:"))
        entry = make_entry(f"seen-{uid}", f"unix:uid:{uid}", template=self.templates[0].name)
        if self.sighted_state == "active" and self.entries.get(entry.identity_id) != entry:
            asyncio.get_running_loop().call_soon(self.put, entry)
        return SightedWorkload(
            identity_id=entry.identity_id,
            name=entry.name,
            spiffe_id=entry.spiffe_id,
            state=self.sighted_state,
            template=entry.template,
        )

    def _issue(self, request: CertificateRequest) -> IssuedCertificate:
        try:
            entry = self._admit(request.identity_id, request.instance.key)
        except TrothError as error:
            return IssuedCertificate(
                identity_id=request.identity_id, error=Failure(code=error.code, detail=error.detail)
            )
        plan = self.issuer.plan(
            spiffe_id=SpiffeId.parse(entry.spiffe_id),
            public_key=parse_csr(request.csr),
            ttl=timedelta(seconds=entry.x509_ttl),
            dns_names=entry.dns_names,
            now=self.time.clock.now(),
        )
        self.issued.setdefault(entry.identity_id, []).append(plan.serial)
        return IssuedCertificate(
            identity_id=request.identity_id,
            instance_id=name_instance(entry.identity_id, request.instance.key),
            serial=f"{plan.serial:x}",
            chain=[self.issuer.issue(plan)],
            not_after=plan.not_after,
        )

    def _admit(self, identity_id: str, key: str) -> Entry:
        if identity_id in self.refusals:
            raise self.refusals[identity_id]
        entry = self.entries.get(identity_id)
        if entry is None or entry.state != "active":
            raise Denied("The identity may hold no credentials.")
        if name_instance(identity_id, key) in self.locked:
            raise Denied("The instance is locked.")
        return entry

    def _issue_token(self, request: JwtSvidRequest) -> IssuedJwtSvid:
        try:
            entry = self._admit(request.identity_id, request.instance.key)
        except TrothError as error:
            return IssuedJwtSvid(
                identity_id=request.identity_id, error=Failure(code=error.code, detail=error.detail)
            )
        now = self.time.clock.now()
        token = self.issuer.issue_jwt(
            spiffe_id=SpiffeId.parse(entry.spiffe_id), audiences=request.audiences, now=now
        )
        return IssuedJwtSvid(
            identity_id=request.identity_id,
            spiffe_id=entry.spiffe_id,
            token=token,
            expires_at=now + timedelta(minutes=5),
        )

    def _certify_node(self, csr: bytes) -> NodeCredential:
        plan = self.issuer.plan(
            "/troth/node/local",
            public_key=parse_csr(csr),
            ttl=timedelta(seconds=self.node_ttl),
            now=self.time.clock.now(),
        )
        return NodeCredential(
            node_id="nod_1",
            spiffe_id=NODE_ID,
            chain=[self.issuer.issue(plan)],
            x509_authorities=[self.issuer.x509.certificate],
            not_after=plan.not_after,
        )


def name_instance(identity_id: str, key: str) -> str:
    """The fake server's id of an instance."""
    return f"ins_{hashlib.sha256(f'{identity_id}/{key}'.encode()).hexdigest()[:16]}"


def make_process(
    number: int = 1, *selectors: str, alive: list[int] | None = None, uid: int = 1001
) -> Process:
    """A process with its own instance key; it is alive while `number` is in `alive`."""
    texts = selectors or ("unix:uid:1001",)
    return Process(
        instance_key=f"{number:032x}",
        pid=number,
        selectors=texts,
        attested=frozenset(Selector.parse(text) for text in texts),
        is_alive=lambda: alive is None or number in alive,
        uid=uid,
    )


class Watcher:
    """Follows one process' views in the background."""

    def __init__(self, workloads: Workloads, process: Process) -> None:
        self.views: list[View] = []
        self.error: TrothError | None = None
        self._stream = workloads.watch(process)
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            async for view in self._stream:
                self.views.append(view)
        except TrothError as error:
            self.error = error

    @property
    def last(self) -> View:
        """The newest view."""
        return self.views[-1]

    @property
    def ended(self) -> bool:
        """Whether the stream is over."""
        return self.task.done()

    async def close(self) -> None:
        """Stop watching, as a client that disconnects."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self._stream.aclose()


class FakeNode:
    """The agent's core against a `FakeServer`, in virtual time."""

    def __init__(self, limit: int = 100, before: FakeNode | None = None) -> None:
        self.time: VirtualTime = VirtualTime(NOW) if before is None else before.time
        # Tests replace its methods.
        self.server: Any = FakeServer(self.time) if before is None else before.server
        entropy, sleep, clock = SeededEntropy(1), self.time.sleep, self.time.clock
        self.entropy = entropy
        self.sync = Sync(self.server, clock, entropy, sleep)
        self.cache = Cache(limit)
        self.refusals = Refusals()
        self.batches = Batches(self.server, sleep, CERTIFICATES)
        self.jwt_svids = Batches(self.server, sleep, JWT_SVIDS)
        self.vault: Vault | None = None
        self.sightings: Sightings | None = None
        self.workloads = Workloads(self.sync, self.batches, self.cache, clock, entropy, sleep)
        self.watchers: list[Watcher] = []
        self.tasks: list[asyncio.Task[None]] = []

    def keep(self, directory: Path, boot: str = "boot-1") -> None:
        """Keep a sealed cache there, after taking up what is in it."""
        file = SealedFile(directory, SeededEntropy(len(str(directory))))
        clock, sleep = self.time.clock, self.time.sleep
        self.vault = Vault(file, clock, sleep, boot)
        self.workloads = Workloads(
            self.sync, self.batches, self.cache, clock, self.entropy, sleep, self.vault
        )
        if (kept := self.vault.open(CREDENTIAL)) is not None:
            self.sync.offer(kept)
        self.start(self.vault.run(self.sync, self.cache, self.workloads.held))

    def watch(self, process: Process | None = None) -> Any:
        """Open a stream for a process."""
        watcher = Watcher(self.workloads, process or make_process())
        self.watchers.append(watcher)
        return watcher

    def start(self, work: Any) -> None:
        """Run something in the background until the test ends."""
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def settle(self) -> None:
        """Let what is under way finish, batches included; far less than a second passes."""
        await self.time.advance(0.01)


@asynccontextmanager
async def run_node(*entries: Entry, limit: int = 100) -> AsyncIterator[FakeNode]:
    """A node that has its first snapshot, with `entries` registered."""
    node = FakeNode(limit)
    node.server.entries = {entry.identity_id: entry for entry in entries}
    node.start(node.sync.run())
    node.start(node.workloads.run())
    try:
        await until(lambda: node.sync.snapshot is not None, "the first snapshot")
        yield node
    finally:
        for watcher in node.watchers:
            await watcher.close()
        for task in node.tasks:
            task.cancel()
        results = await asyncio.gather(*node.tasks, return_exceptions=True)
        await node.batches.close()
    broken = [r for r in results if isinstance(r, Exception)]
    assert not broken, broken


def read_serial(der: bytes) -> int:
    """A certificate's serial number."""
    return x509.load_der_x509_certificate(der).serial_number
