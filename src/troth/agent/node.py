"""The node agent as a whole: built once, run until cancelled."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from troth.agent.attestation import Attestation
from troth.agent.batches import CERTIFICATES, JWT_SVIDS, Batches
from troth.agent.cache import Cache
from troth.agent.connection import Connection, check_url
from troth.agent.credential import Credential, CredentialFile, read_roots
from troth.agent.files import Files, FileTarget
from troth.agent.machine import Machine
from troth.agent.membership import Dialler, Membership, NotJoined
from troth.agent.metrics import DISPUTED, AgentMetrics, MetricsFile, NoMetrics
from troth.agent.observation import CallMeter, ObservedService
from troth.agent.pin import PinFile, Pinning
from troth.agent.refusals import Refusals
from troth.agent.reporting import Reporter
from troth.agent.sds import SecretDiscovery
from troth.agent.sealing import SealedFile
from troth.agent.sightings import Sightings
from troth.agent.socket import AgentSocket
from troth.agent.source import NodeSource
from troth.agent.sync import Sync
from troth.agent.timing import Sleep
from troth.agent.tokens import Tokens
from troth.agent.tombstone import Tombstone
from troth.agent.vault import Vault
from troth.agent.workload_api import WorkloadApi
from troth.agent.workloads import Workloads
from troth.core.clock import Clock
from troth.core.entropy import Entropy, fraction
from troth.core.errors import Conflict, Invalid, Refused
from troth.core.tracing import NO_TRACER, Tracer
from troth.drivers.attestors import load_attestors
from troth.drivers.attestors.procfs import PROC, read_boot_id
from troth.drivers.tracers import Telemetry

log = structlog.get_logger(__name__)

LOCK_NAME = "agent.lock"
ATTESTORS = ("unix", "cgroup")


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What an administrator decides about an agent.

    `server_url` is the public listener, where a node joins; `mtls_url` the mutual-TLS listener,
    by default one port above it. `data_dir` is private to the agent (0700). `join_token` is
    needed once, until the node has joined; `machine` is joined by instead, whenever it is needed.
    With `keep_cache` workloads keep their identities through a restart without a server.
    """

    server_url: str
    ca_file: Path
    data_dir: Path
    socket_path: Path
    mtls_url: str | None = None
    join_token: str | None = field(default=None, repr=False)
    machine: Machine | None = None
    keep_cache: bool = True
    files: tuple[FileTarget, ...] = ()
    attestors: tuple[str, ...] = ATTESTORS
    telemetry: Telemetry | None = None
    metrics_file: Path | None = None

    @property
    def mutual_url(self) -> str:
        """Where the mutual-TLS listener is."""
        return self.mtls_url or derive_mtls_url(self.server_url)


def derive_mtls_url(server_url: str) -> str:
    """The mutual-TLS listener's URL: the same host, one port above the public one."""
    parts = urlsplit(check_url(server_url))
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    port = (parts.port or 443) + 1
    if port > 65535:
        raise Invalid("There is no port above the server's; give the mutual-TLS URL as well.")
    return f"https://{host}:{port}"


class NodeAgent:
    """Composes everything that the agent is made of."""

    async def run(
        self,
        settings: AgentSettings,
        clock: Clock,
        entropy: Entropy,
        ready: Callable[[], None],
        sleep: Sleep = asyncio.sleep,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """Join, open the socket and serve until cancelled.

        `ready` is called once the first word of the server has come, so that callers are served.
        Raises `NotJoined`, `Invalid`, `Conflict` or `Refused` if this can't work as configured.
        """
        for target in settings.files:
            target.check()
        attestors = load_attestors(settings.attestors)
        mutual_url = check_url(settings.mutual_url)
        with _claim_directory(settings.data_dir, mutual_url) as directory:
            membership = Membership(
                file=CredentialFile(directory),
                dialler=Dialler(
                    public=lambda roots: Connection(settings.server_url, roots),
                    mutual=lambda held: Connection(mutual_url, held.roots, held),
                ),
                clock=clock,
                entropy=entropy,
                sleep=sleep,
                machine=settings.machine,
            )
            sealed = SealedFile(directory, entropy)
            try:
                credential = await membership.obtain(
                    settings.join_token, read_roots(settings.ca_file)
                )
            except NotJoined:
                sealed.erase(key=True)  # nothing is handed out here without the server's leave
                raise
            connection = Connection(mutual_url, credential.roots, credential, tracer)
            try:
                running = _Running(
                    settings, connection, membership, credential, clock, entropy, tracer
                )
                vault = Vault(sealed, clock, sleep, read_boot_id(PROC))
                await running.serve(Attestation(attestors), vault, sleep, ready)
            finally:
                await connection.close()


class _Running:
    """An agent that has joined."""

    def __init__(
        self,
        settings: AgentSettings,
        connection: Connection,
        membership: Membership,
        credential: Credential,
        clock: Clock,
        entropy: Entropy,
        tracer: Tracer,
    ) -> None:
        self._tracer = tracer
        self._settings = settings
        self._connection = connection
        self._membership = membership
        self._credential = credential
        self._clock = clock
        self._entropy = entropy
        self._replacing = asyncio.Lock()
        self._sleep: Sleep = asyncio.sleep

    async def serve(
        self, attestation: Attestation, vault: Vault, sleep: Sleep, ready: Callable[[], None]
    ) -> None:
        clock, entropy, api = self._clock, self._entropy, self._connection
        self._sleep = sleep
        sync = Sync(api, clock, entropy, sleep)
        keep = self._settings.keep_cache
        if not keep:
            vault.erase()
        elif (kept := vault.open(self._credential)) is not None:
            sync.offer(kept)
        cache, refusals = Cache(), Refusals()
        certificates = Batches(api, sleep, CERTIFICATES, self._tracer)
        jwt_svids = Batches(api, sleep, JWT_SVIDS, self._tracer)
        workloads = Workloads(sync, certificates, cache, clock, entropy, sleep, vault, self._tracer)
        sightings = Sightings(api, sync, clock)
        metrics = NoMetrics() if self._settings.metrics_file is None else AgentMetrics()
        source = NodeSource(
            attestation=attestation,
            sync=sync,
            cache=cache,
            workloads=workloads,
            tokens=Tokens(jwt_svids, clock, entropy),
            refusals=refusals,
            clock=clock,
            sightings=sightings,
        )
        try:
            async with self._open_socket(source, metrics), asyncio.TaskGroup() as group:
                group.create_task(sync.run())
                group.create_task(workloads.run())
                group.create_task(Reporter(api, workloads, refusals, sleep).run())
                file = PinFile(self._settings.data_dir)
                pinning = Pinning(api, file, clock, sleep, partial(metrics.show, DISPUTED, 1))
                group.create_task(pinning.run())
                if keep:
                    group.create_task(vault.run(sync, cache, workloads.held))
                group.create_task(self._renew_for_ever())
                group.create_task(self._membership.save_late())
                group.create_task(self._follow_roots(sync))
                group.create_task(self._follow_taint(sync))
                group.create_task(self._follow_refusals(sync))
                group.create_task(_tell_ready(sync, ready))
                if isinstance(metrics, AgentMetrics) and self._settings.metrics_file is not None:
                    path = self._settings.metrics_file
                    metrics_file = MetricsFile(path, metrics, sync, cache, refusals, clock)
                    group.create_task(metrics_file.run(sleep))
                for target in self._settings.files:
                    files = Files(target, sync, workloads, entropy, sleep)
                    group.create_task(files.run())
        finally:
            await certificates.close()
            await jwt_svids.close()
            await sightings.close()
            workloads.close()
            attestation.close()

    @asynccontextmanager
    async def _open_socket(self, source: NodeSource, meter: CallMeter) -> AsyncIterator[None]:
        socket = AgentSocket(self._clock)
        services = (WorkloadApi(source), SecretDiscovery(source, Tombstone()))
        watched = [ObservedService(s, self._clock, self._tracer, meter) for s in services]
        await socket.start(self._settings.socket_path, *watched)
        try:
            yield
        finally:
            await socket.stop()

    async def _renew_for_ever(self) -> None:
        while True:
            held = self._credential
            await self._membership.wait_for_renewal(held)
            await self._replace(held)

    async def _follow_refusals(self, sync: Sync) -> None:
        """A machine that can join by itself does so when the server no longer knows the node."""
        version = 0
        while True:
            version = await sync.refusals.wait_beyond(version)
            if self._settings.machine is not None:
                await self._replace(self._credential)

    async def _replace(self, held: Credential) -> None:
        """Get a new credential, unless `held` has had a successor meanwhile."""
        async with self._replacing:
            if self._credential.chain == held.chain:
                self._use(
                    await self._membership.renew_persistently(self._credential, self._connection)
                )

    async def _follow_roots(self, sync: Sync) -> None:
        """Trust what the trust domain trusts now, also when looking for the server next time."""
        version = 0
        while True:
            version = await sync.changes.wait_beyond(version)
            roots = sync.require_snapshot().roots
            if not sync.is_restored and frozenset(roots) != frozenset(self._credential.roots):
                self._use(self._membership.adopt_roots(self._credential, roots))

    async def _follow_taint(self, sync: Sync) -> None:
        """Renew at once what a tainted authority signed, as long as that still opens the door."""
        version = 0
        while True:
            version = await sync.changes.wait_beyond(version)
            held, snapshot = self._credential, sync.require_snapshot()
            if held.signer in snapshot.tainted:
                if snapshot.spread:
                    await self._sleep(snapshot.spread * fraction(self._entropy))
                await self._replace(held)

    def _use(self, credential: Credential) -> None:
        self._credential = credential
        self._connection.use(credential)


async def _tell_ready(sync: Sync, ready: Callable[[], None]) -> None:
    await sync.changes.wait_beyond(0)
    log.info("agent.ready")
    ready()


@contextmanager
def _claim_directory(path: Path, server: str) -> Iterator[Path]:
    """The agent's data directory, private and for this process alone."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Refused(
            f"{path} will hold the node's key and must belong to the agent's user with mode "
            f"0700; run: chmod 700 {path}"
        )
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(path / LOCK_NAME, flags, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"Another agent uses {path}; stop it, or give this one its own directory."
            ) from None
        # Whoever finds the lock taken can tell by whom, and for which server.
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n{server}\n".encode())
        yield path
    finally:
        os.close(lock)
