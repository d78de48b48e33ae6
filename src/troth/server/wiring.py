"""Wiring: everything is built here, once, in one phase, from the configuration.

The order is the order of dependence: store → keystore → authorities → snapshot → first CRL →
the server's certificate → listeners → background work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from troth.archive.depot import Depot
from troth.archive.log import DecisionLog
from troth.archive.parquetarchive import ParquetArchive
from troth.archive.tiles import LogFolder
from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.manifest.problem import Limits
from troth.core.tracing import NO_TRACER, Tracer
from troth.drivers.geo import Locator, load_locator
from troth.drivers.issuers.https import open_source
from troth.drivers.keystores import Keystore
from troth.drivers.keystores.observed import ObservedKeystore
from troth.issuance.drafter import Drafter
from troth.live.snapshot import INDIFFERENT, Snapshot
from troth.operations.attendance import AttendIdentities
from troth.operations.authority import PrepareAuthorities, claim_trust_domain
from troth.operations.bearer import TokenJudge
from troth.operations.callers import CallerRegistry
from troth.operations.client import list_methods
from troth.operations.crl import PublishCrls
from troth.operations.decision import DecisionMaker
from troth.operations.decisionlog import find_last_journaled
from troth.operations.decisionsource import find_last_fed
from troth.operations.dispatch import Dispatcher
from troth.operations.dpop import DpopVerifier
from troth.operations.erasure import EraseKeys
from troth.operations.feed import FollowJournal, read_seed
from troth.operations.gate import Gatekeeper
from troth.operations.identity import ExpireIdentities
from troth.operations.installation import claim_local_node
from troth.operations.leaf import LeafIssuer, ReconcileIssuance
from troth.operations.logkeys import LogSigner, open_signer
from troth.operations.pacing import Pacing
from troth.operations.packing import find_last_number
from troth.operations.peer import PeerReader
from troth.operations.pointcaller import PointCallers
from troth.operations.pointmetadata import PointMetadata
from troth.operations.policyfeed import PolicyDesk
from troth.operations.publication import Publication, StoredPublication
from troth.operations.purge import PurgeRecords
from troth.operations.sealing import TokenSealer
from troth.operations.servercert import CertifyServer, split_names
from troth.operations.sinking import Channel
from troth.operations.table import Parts, list_operations, list_subscriptions
from troth.operations.versions import SignVersions
from troth.operations.withdrawal import FinishWithdrawals
from troth.server.addresses import list_names
from troth.server.archivewiring import list_archive_tasks, open_archive, open_archive_depot
from troth.server.background import Task
from troth.server.config import Config
from troth.server.gauges import follow_decisions, follow_live
from troth.server.http.authzen import DecisionPoint
from troth.server.installation import read_installation
from troth.server.keyring import open_keystore
from troth.server.logwiring import list_log_tasks, open_log
from troth.server.metrics import Metrics
from troth.server.settings import Limits as Caps
from troth.server.sinkwiring import list_sink_tasks, open_channels
from troth.server.witnesswiring import list_outsider_tasks
from troth.store.engine import Store, open_store
from troth.store.sealer import Sealer
from troth.store.timing import Stopwatch
from troth.wire.authzen.routes import AUTHZEN_PATHS

FEED = "journal.follow"
WITHDRAWN = ("identity.quarantined", "identity.suspended", "identity.retired", "node.evicted")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class House:
    """The server without its listeners: what they need, and what runs behind them."""

    store: Store
    decisions: DecisionLog
    archive: ParquetArchive
    log: LogFolder
    signer: LogSigner
    snapshot: Snapshot
    channels: tuple[Channel, ...]
    dispatcher: Dispatcher
    publication: Publication
    callers: CallerRegistry
    point: DecisionPoint
    metrics: Metrics
    tasks: list[Task]
    certify: CertifyServer
    local_node: str
    """The node name of this server's own agent."""


def find_names(config: Config) -> tuple[str, ...]:
    """Host names and addresses that the server's certificate covers."""
    origin = urlsplit(config.origin).hostname or ""
    return list_names((config.public.host, config.mutual.host, origin))


def find_mutual_origin(config: Config) -> str:
    """The URL under which the mutual-TLS listener is reached: the origin's host, its own port."""
    host = urlsplit(config.origin).hostname or config.mutual.host
    return f"https://{f'[{host}]' if ':' in host else host}:{config.mutual.port}"


def limit_manifests(config: Config) -> Limits:
    """What a manifest may ask for here."""
    ttl = config.ttl
    return Limits(
        x509_ceiling=timedelta(seconds=ttl.x509_ceiling),
        x509_default=timedelta(seconds=ttl.x509_default),
        jwt_ceiling=timedelta(seconds=ttl.jwt_ceiling),
        jwt_default=timedelta(seconds=ttl.jwt_default),
        trust_domain=config.trust_domain,
        reserved_dns_names=frozenset(split_names(find_names(config))[1]),
    )


async def name_local_node(config: Config, store: Store, entropy: Entropy) -> str:
    """The node name of this server's own agent, which no other server on the database has."""
    installation = read_installation(config.data, entropy)
    return await store.transact(
        lambda tx: claim_local_node(tx, installation, alone=not store.shared)
    )


async def open_state(config: Config, clock: Clock, entropy: Entropy, stopwatch: Stopwatch) -> Store:
    """The store, which from now on belongs to the configured trust domain."""
    store = open_store(config.database, clock=clock, entropy=entropy, stopwatch=stopwatch)
    await store.transact(lambda tx: claim_trust_domain(tx, config.trust_domain))
    return store


async def open_decisions(
    config: Config, store: Store, clock: Clock, entropy: Entropy, metrics: Metrics, depot: Depot
) -> DecisionLog:
    """This server's decision log; what a crash left open is closed. New segments are numbered
    behind those that the archive has in `depot`, and those that sinks were sent."""
    server = read_installation(config.data, entropy)
    archived = await asyncio.to_thread(find_last_number, depot, server)
    fed = await find_last_fed(store, server, [sink.name for sink in config.sinks])
    after = max(archived, fed, await find_last_journaled(store, server))
    folder = config.data / "decisions"
    make = partial(DecisionLog, folder, clock, entropy, server, after=after, meter=metrics)
    decisions = await asyncio.to_thread(make)
    follow_decisions(metrics, decisions)
    return decisions


async def open_snapshot(store: Store, clock: Clock, lease: timedelta, metrics: Metrics) -> Snapshot:
    """What is true now, as the store has it."""
    snapshot = Snapshot(clock, lease)
    snapshot.load(await read_seed(store, clock.now()))
    follow_live(metrics, store, snapshot, lease)
    return snapshot


@dataclass(frozen=True, slots=True)
class _Ground:
    """What all else stands on."""

    config: Config
    clock: Clock
    entropy: Entropy
    metrics: Metrics
    store: Store
    log: LogFolder
    sealer: Sealer
    keystore: Keystore


async def _lay_ground(config: Config, clock: Clock, entropy: Entropy, tracer: Tracer) -> _Ground:
    metrics = Metrics()
    store = await open_state(config, clock, entropy, Stopwatch(clock, tracer, metrics))
    log = await open_log(config, store, clock)
    sealer = Sealer(store, clock=clock, holder=store.holder, without=INDIFFERENT, memory=log)
    await sealer.put_back_lost()  # before anything is appended
    keystore = ObservedKeystore(await open_keystore(config, store, entropy), clock, tracer, metrics)
    return _Ground(config, clock, entropy, metrics, store, log, sealer, keystore)


async def build_house(
    config: Config, clock: Clock, entropy: Entropy, tracer: Tracer = NO_TRACER
) -> House:
    """Build everything but the listeners; afterwards the store holds all it needs to serve."""
    g = await _lay_ground(config, clock, entropy, tracer)
    store, domain = g.store, config.trust_domain
    drafter = Drafter()
    prepare = PrepareAuthorities(store, clock, entropy, g.keystore, domain, store.holder)
    await prepare()
    publish = make_publisher(config, store, clock, g.keystore, drafter)
    await publish()
    snapshot = await open_snapshot(store, clock, timedelta(seconds=config.lease), g.metrics)
    depot = await open_archive_depot(config)
    decisions = await open_decisions(config, store, clock, entropy, g.metrics, depot)
    archive = await open_archive(config, store, clock, depot, decisions)
    parts = await _make_parts(g, drafter, snapshot, decisions, archive)
    certify = CertifyServer(store, clock, entropy, parts.leaves, domain, find_names(config))
    return House(
        store=store,
        decisions=decisions,
        archive=archive,
        log=parts.log,
        signer=parts.signer,
        snapshot=snapshot,
        channels=parts.channels,
        dispatcher=make_dispatcher(
            parts, config.limits, g.metrics, tracer, config.roles.spiffe_ids
        ),
        publication=parts.publication,
        callers=make_registry(config, parts),
        point=make_point(parts, config.roles.spiffe_ids),
        metrics=g.metrics,
        tasks=[
            *list_tasks(parts, prepare, publish, config, g.metrics, g.sealer),
            *list_archive_tasks(parts, config, depot, archive),
        ],
        certify=certify,
        local_node=await name_local_node(config, store, entropy),
    )


async def _make_parts(
    g: _Ground,
    drafter: Drafter,
    snapshot: Snapshot,
    decisions: DecisionLog,
    archive: ParquetArchive,
) -> Parts:
    config, store, clock, entropy = g.config, g.store, g.clock, g.entropy
    publication = make_publication(config, store, snapshot, clock)
    crl, names = config.crl.url, config.common_names
    return Parts(
        store=store,
        decisions=decisions,
        log=g.log,
        signer=await asyncio.to_thread(open_signer, g.keystore, config.trust_domain),
        decider=DecisionMaker(store, snapshot, clock, entropy, decisions, config.trust_domain),
        desk=PolicyDesk(store, snapshot, config.trust_domain),
        snapshot=snapshot,
        clock=clock,
        entropy=entropy,
        keystore=g.keystore,
        leaves=LeafIssuer(store, snapshot, clock, entropy, g.keystore, drafter, crl, names),
        publication=publication,
        trust_domain=config.trust_domain,
        limits=limit_manifests(config),
        issuer_url=publication.issuer_url,
        lease=timedelta(seconds=config.lease),
        started_at=clock.now(),
        vouchers=config.vouchers,
        device_vouchers=config.device_vouchers,
        key_source=open_source(),
        peers=PeerReader(store, snapshot, clock, config.trust_domain),
        client_secrets=config.client_secrets,
        second_person=config.second_person,
        usage=g.metrics,
        draft_transaction_tokens=config.draft_transaction_tokens,
        locator=await open_geo(config),
        archive=archive,
        channels=open_channels(config, store, snapshot, decisions, clock, entropy),
    )


def make_publication(
    config: Config, store: Store, snapshot: Snapshot, clock: Clock
) -> StoredPublication:
    """What anybody may read, under the URLs of the configuration."""
    mutual = find_mutual_origin(config)
    methods = list_methods(client_secrets=config.client_secrets)
    return StoredPublication(store, snapshot, clock, config.origin, mutual, methods)


def make_registry(config: Config, parts: Parts) -> CallerRegistry:
    """Who calls, and which roles the configuration gives them."""
    roles, store, snapshot = config.roles, parts.store, parts.snapshot
    return CallerRegistry(
        store, snapshot, parts.peers, config.trust_domain, roles.uids, roles.spiffe_ids
    )


async def open_geo(config: Config) -> Locator | None:
    """What knows the country and network of an address; None if nothing does."""
    file = Path(config.geo.file) if config.geo.file else None
    return await asyncio.to_thread(load_locator, config.geo.driver, file)


def make_publisher(
    config: Config, store: Store, clock: Clock, keystore: Keystore, drafter: Drafter
) -> PublishCrls:
    """What makes revocation lists, as often and for as long as configured."""
    return PublishCrls(
        store,
        clock,
        keystore,
        drafter,
        timedelta(seconds=config.crl.lifetime),
        timedelta(seconds=config.crl.period),
        store.holder,
    )


def make_point(parts: Parts, roles: Mapping[str, str]) -> DecisionPoint:
    """What the decision point's endpoints need, under the public listener's URL. `roles` are those
    of SPIFFE IDs."""
    store, snapshot, clock = parts.store, parts.snapshot, parts.clock
    origins = (parts.publication.origin, parts.publication.mutual_origin)
    origin = origins[0]
    urls = [one + path for one in origins for path in AUTHZEN_PATHS]
    sealer = TokenSealer(parts.keystore, parts.entropy)
    judge = TokenJudge(store, snapshot, clock, parts.trust_domain, origin, sealer)
    dpop = DpopVerifier(store, clock, parts.entropy, urls)
    bearers = PointCallers(store, judge, dpop, roles, (*origins, *urls))
    metadata = PointMetadata(store, snapshot, clock, parts.keystore, origin)
    return DecisionPoint(origin, bearers, metadata)


def make_dispatcher(
    parts: Parts, limits: Caps, metrics: Metrics, tracer: Tracer, given: Mapping[str, str]
) -> Dispatcher:
    """The gate to every operation, which paces nodes as `limits` says, and knows the roles that
    configuration has `given` to SPIFFE IDs."""
    return Dispatcher(
        list_operations(parts),
        list_subscriptions(parts),
        parts.clock,
        parts.entropy,
        metrics,
        Pacing(parts.clock, limits.node_credentials_per_second, limits.node_calls_per_second),
        tracer,
        Gatekeeper(parts.decider, parts.snapshot, parts.clock, given),
    )


def list_tasks(
    parts: Parts,
    prepare: PrepareAuthorities,
    publish: PublishCrls,
    config: Config,
    metrics: Metrics,
    sealer: Sealer,
) -> list[Task]:
    """The table of background work: name, period in seconds, operation, what wakes it."""
    store, clock = parts.store, parts.clock
    return [
        Task(FEED, 1.0, FollowJournal(store, sealer, parts.snapshot, metrics), quiet=True),
        Task("crl.publish", 30.0, publish, wakes=("certificate.revoked", "authority.")),
        Task(
            "certificate.withdraw",
            10.0,
            FinishWithdrawals(store, clock, store.holder),
            wakes=WITHDRAWN,
        ),
        Task("authority.prepare", 60.0, prepare, wakes=("declaration.",), irreversible=True),
        Task(
            "keys.erase",
            300.0,
            EraseKeys(store, clock, parts.keystore, store.holder),
            wakes=("authority.",),
            irreversible=True,
        ),
        Task(
            "policy.sign",
            60.0,
            SignVersions(store, parts.keystore),
            wakes=("policy.recorded",),
        ),
        Task("issuance.reconcile", 30.0, ReconcileIssuance(store, clock, store.holder)),
        Task("identity.expire", 30.0, ExpireIdentities(store, clock), irreversible=True),
        Task("identity.attend", 30.0, AttendIdentities(store, clock), irreversible=True),
        Task(
            "store.purge",
            600.0,
            PurgeRecords(store, clock, parts.snapshot, store.holder),
            irreversible=True,
        ),
        *list_log_tasks(parts, config, sealer, metrics),
        *list_outsider_tasks(parts, config, metrics),
        *list_sink_tasks(parts, metrics),
    ]
