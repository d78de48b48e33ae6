"""The system call table: every operation and subscription, and how it is made.

One name is the HTTP operationId, the CLI verb, the permission, the metric label and the audit
verb. Routes stand in `troth.wire.api.routes`, permissions in `troth.policy.permissions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.archive.log import DecisionLog
from troth.archive.search import Archive
from troth.archive.tiles import LogFolder
from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.ids import TrustDomain
from troth.core.manifest.problem import Limits
from troth.drivers.geo import Locator
from troth.drivers.issuers import KeySource
from troth.drivers.keystores import Keystore
from troth.identity.lifecycle import TRANSITIONS
from troth.identity.x509pop import Vouchers
from troth.live.snapshot import Snapshot
from troth.operations.accesstoken import RequestToken, TokenMaker
from troth.operations.applying import Applier
from troth.operations.assertion import OutsideIssuers
from troth.operations.attestation import AttestNode, Entrance, ReadmitNode
from troth.operations.auditsearch import SearchAudit, Searcher
from troth.operations.audittail import TailAudit
from troth.operations.audittouched import AskTouched
from troth.operations.audittrace import TraceRequest
from troth.operations.auditwho import AskWho
from troth.operations.bearer import TokenJudge
from troth.operations.call import Operation, Subscription
from troth.operations.certificate import IssueCertificates, ListCertificates, RevokeCertificate
from troth.operations.checkpoint import AbandonCheckpoint, DisputeCheckpoint, ShowCheckpoint
from troth.operations.client import Authenticator
from troth.operations.client_secret import (
    CreateClientSecret,
    ListClientSecrets,
    RevokeClientSecret,
    SecretVerifier,
)
from troth.operations.decision import DecisionMaker
from troth.operations.decisionhistory import ListDecisions, ShowDecision
from troth.operations.decisionlog import CloseSegments
from troth.operations.decisionreport import ReportDecisions
from troth.operations.delegate import Delegates
from troth.operations.device import EnrollDevice, RenewDevice
from troth.operations.dpop import DpopVerifier
from troth.operations.enforcement import EnforceRequest, RouteTable
from troth.operations.enrolment import InviteDevices
from troth.operations.entitysearch import SearchDecisions
from troth.operations.evaluation import EvaluateDecisions
from troth.operations.eventsearch import EventSearch
from troth.operations.exchange import ExchangeToken, TokenReader
from troth.operations.gathering import LeafGatherer
from troth.operations.hold import ListHolds, PlaceHold, ReleaseHold
from troth.operations.identity import ListIdentities, MoveIdentity, RegisterIdentity, ShowIdentity
from troth.operations.instance import ListInstances, MoveInstance
from troth.operations.introspection import AnswerSigner, IntrospectToken
from troth.operations.issuerkeys import IssuerKeys
from troth.operations.journal import ListJournal, TailJournal
from troth.operations.jwtsvid import IssueJwtSvids
from troth.operations.leaf import LeafIssuer
from troth.operations.logkeys import LogSigner
from troth.operations.manifest import ApplyManifests, PlanManifests
from troth.operations.node import (
    EvictNode,
    ListNodes,
    RenewNode,
    ReportWorkloads,
    Restraint,
    SyncNode,
)
from troth.operations.pacing import JOINS, Turns
from troth.operations.peer import PeerReader
from troth.operations.places import Places
from troth.operations.planning import Planner
from troth.operations.policy import (
    ApproveHeld,
    CompareVersions,
    ListHeld,
    ListVersions,
    RejectHeld,
    ReviewHeld,
    RollBack,
    ShowVersion,
)
from troth.operations.policyfeed import FollowPolicies, PolicyDesk, ShowParty
from troth.operations.proving import ProveEntry
from troth.operations.publication import Publication
from troth.operations.redaction import RedactEvent
from troth.operations.refusal import Journaled, RefusalJournal
from troth.operations.rejection import RejectionJournal
from troth.operations.replay import ReplayDecisions, SuggestRole, make_desk
from troth.operations.resource import ListResources, ShowResource
from troth.operations.revocation import FollowRevocations
from troth.operations.rotation import (
    ActivateAuthority,
    ListAuthorities,
    PrepareAuthority,
    RevokeAuthority,
    TaintAuthority,
)
from troth.operations.sealing import TokenSealer
from troth.operations.showing import ShowingReader
from troth.operations.sight import SightWorkload
from troth.operations.sink import DropDeadLetters, ListDeadLetters, ListSinks, RetryDeadLetters
from troth.operations.sinking import Channel
from troth.operations.status import About, ShowStatus, Usage
from troth.operations.succession import AuthorityMaker
from troth.operations.template import ListTemplates
from troth.operations.throttle import RENEWALS, Throttle
from troth.operations.token import CreateJoinToken
from troth.operations.token_revocation import RevokeTokens, SurrenderToken, restrain
from troth.operations.tokens import TokenGatherer
from troth.operations.trust import AddEvidence, ListTrust, ShowTrust, WithdrawEvidence
from troth.operations.txntoken import ExchangeForEither, IssueTxnToken, TxnTokenMaker
from troth.operations.versions import SignVersions
from troth.store.engine import Store
from troth.wire.oauth.routes import OAUTH_ROUTES, TOKEN_PATH


@dataclass(frozen=True, slots=True)
class Parts:
    """What operations are made from; each takes what it needs, at most six of them."""

    store: Store
    decisions: DecisionLog
    archive: Archive
    log: LogFolder
    signer: LogSigner
    decider: DecisionMaker
    desk: PolicyDesk
    snapshot: Snapshot
    clock: Clock
    entropy: Entropy
    keystore: Keystore
    leaves: LeafIssuer
    publication: Publication
    trust_domain: TrustDomain
    limits: Limits
    issuer_url: str
    lease: timedelta
    started_at: datetime
    vouchers: Vouchers
    device_vouchers: Vouchers
    key_source: KeySource
    peers: PeerReader
    client_secrets: bool = False
    second_person: bool = True
    usage: Usage | None = None
    draft_transaction_tokens: bool = False
    locator: Locator | None = None
    channels: tuple[Channel, ...] = ()


def list_operations(p: Parts) -> Mapping[str, Operation]:
    """Every operation by name."""
    moves = {f"identity.{verb}": MoveIdentity(verb, p.store, p.clock) for verb in TRANSITIONS}
    return {
        "identity.register": RegisterIdentity(
            p.store, p.clock, p.entropy, p.trust_domain, p.limits
        ),
        "identity.ls": ListIdentities(p.store, p.clock),
        "identity.show": ShowIdentity(p.store),
        "identity.sight": SightWorkload(p.store, p.clock, p.entropy, p.snapshot, p.trust_domain),
        **_list_declared_operations(p),
        **_list_trust_operations(p),
        **_list_enforcement_operations(p),
        **moves,
        **_list_instance_operations(p),
        **_list_policy_operations(p),
        "certificate.issue": IssueCertificates(p.store, p.clock, p.snapshot, p.leaves),
        "certificate.ls": ListCertificates(p.store, p.clock),
        "certificate.revoke": RevokeCertificate(p.store, p.clock),
        "jwtsvid.issue": IssueJwtSvids(
            p.store, p.clock, p.entropy, p.snapshot, p.keystore, p.issuer_url
        ),
        **_list_token_operations(p),
        **_list_machine_operations(p),
        "authority.ls": ListAuthorities(p.store, p.clock),
        "authority.prepare": PrepareAuthority(
            p.store,
            p.clock,
            AuthorityMaker(p.store, p.clock, p.entropy, p.keystore, p.trust_domain),
        ),
        "authority.activate": ActivateAuthority(p.store, p.clock),
        "authority.taint": TaintAuthority(p.store, p.clock),
        "authority.revoke": RevokeAuthority(p.store, p.clock),
        "journal.ls": ListJournal(p.store),
        **_list_audit_operations(p),
        **_list_hold_operations(p),
        **_list_sink_operations(p),
        "audit.prove": ProveEntry(
            p.store,
            p.log,
            p.decisions,
            p.archive,
            CloseSegments(p.store, p.clock, p.decisions),
        ),
        "journal.redact": RedactEvent(p.store, p.clock, p.log),
        "checkpoint.show": ShowCheckpoint(p.log, p.signer),
        "checkpoint.dispute": DisputeCheckpoint(p.store, p.clock, p.log, p.signer),
        "checkpoint.abandon": AbandonCheckpoint(p.store, p.clock, p.log, p.signer),
        "status.show": ShowStatus(p.store, p.snapshot, p.publication, p.clock, _describe(p)),
    }


def _list_machine_operations(p: Parts) -> Mapping[str, Operation]:
    """Those of nodes and devices."""
    gatherer = LeafGatherer(p.store, p.leaves)
    return {
        "node.attest": AttestNode(
            p.store,
            p.clock,
            p.entropy,
            p.leaves,
            Entrance(p.trust_domain, p.vouchers, Turns(p.clock, JOINS), Throttle(p.clock)),
        ),
        "node.renew": RenewNode(p.store, p.leaves),
        "node.ls": ListNodes(p.store),
        "node.evict": EvictNode(p.store, p.clock),
        "node.readmit": ReadmitNode(p.store, p.clock),
        "node.report": ReportWorkloads(p.store, p.clock, Restraint(p.clock)),
        "device.invite": InviteDevices(p.store, p.clock, p.entropy),
        "device.enroll": EnrollDevice(
            p.store, p.clock, p.trust_domain, gatherer, p.device_vouchers, Throttle(p.clock)
        ),
        "device.renew": RenewDevice(
            p.store, p.clock, gatherer, Throttle(p.clock, per_second=RENEWALS)
        ),
    }


def _list_declared_operations(p: Parts) -> Mapping[str, Operation]:
    """Those that read what manifests declared."""
    return {
        "template.ls": ListTemplates(p.store),
        "resource.ls": ListResources(p.store),
        "resource.show": ShowResource(p.store),
        **_list_decision_operations(p),
    }


def _list_enforcement_operations(p: Parts) -> Mapping[str, Operation]:
    """Those for services that decide for themselves."""
    return {
        "policy.party": ShowParty(p.desk, p.store),
        "decision.report": ReportDecisions(p.desk, p.decisions, p.clock, p.entropy),
    }


def _list_policy_operations(p: Parts) -> Mapping[str, Operation]:
    """Those that change what is declared, and those about its versions and what they decide."""
    planner = Planner(p.clock, p.entropy, p.trust_domain, p.limits)
    signer = SignVersions(p.store, p.keystore)
    applier = Applier(p.store, planner, signer, p.second_person)
    desk = make_desk(p.store, planner, p.archive, p.snapshot)
    return {
        "manifest.plan": PlanManifests(applier),
        "manifest.apply": ApplyManifests(applier),
        "policy.history": ListVersions(p.store, signer),
        "policy.show": ShowVersion(p.store, signer),
        "policy.diff": CompareVersions(applier),
        "policy.rollback": RollBack(applier),
        "policy.pending": ListHeld(applier),
        "policy.review": ReviewHeld(applier),
        "policy.approve": ApproveHeld(applier),
        "policy.reject": RejectHeld(applier),
        "policy.replay": ReplayDecisions(desk),
        "policy.suggest": SuggestRole(desk),
    }


def _list_audit_operations(p: Parts) -> Mapping[str, Operation]:
    """Those that ask the past, journal and archive together."""
    searcher = Searcher(EventSearch(p.store, p.snapshot), p.archive)
    return {
        "audit.search": SearchAudit(searcher, p.clock),
        "audit.trace": TraceRequest(searcher, p.clock),
        "audit.who": AskWho(p.store, searcher, p.clock),
        "audit.touched": AskTouched(p.archive, p.clock),
    }


def _list_sink_operations(p: Parts) -> Mapping[str, Operation]:
    """Those about what is passed on to receivers."""
    return {
        "sink.ls": ListSinks(p.store, p.channels),
        "dead_letter.ls": ListDeadLetters(p.store),
        "dead_letter.retry": RetryDeadLetters(p.store, p.clock, p.channels),
        "dead_letter.drop": DropDeadLetters(p.store, p.clock),
    }


def _list_hold_operations(p: Parts) -> Mapping[str, Operation]:
    """Those about legal holds."""
    return {
        "hold.place": PlaceHold(p.store, p.clock),
        "hold.ls": ListHolds(p.store),
        "hold.release": ReleaseHold(p.store, p.clock),
    }


def _list_trust_operations(p: Parts) -> Mapping[str, Operation]:
    """Those about how much identities are relied on."""
    return {
        "trust.add": AddEvidence(p.store, p.clock, p.entropy),
        "trust.ls": ListTrust(p.store, p.clock),
        "trust.show": ShowTrust(p.store, p.clock),
        "trust.withdraw": WithdrawEvidence(p.store, p.clock),
    }


def _list_decision_operations(p: Parts) -> Mapping[str, Operation]:
    """Those of the decision point, and of what it recorded."""
    return {
        "decision.evaluate": EvaluateDecisions(p.decider, Places(p.locator)),
        "decision.search": SearchDecisions(p.store, p.decider, Places(p.locator)),
        "decision.ls": ListDecisions(p.archive, p.clock),
        "decision.show": ShowDecision(p.archive),
    }


def _list_instance_operations(p: Parts) -> Mapping[str, Operation]:
    """Those about running copies."""
    return {
        "instance.ls": ListInstances(p.store),
        "instance.lock": MoveInstance(True, p.store, p.clock),
        "instance.unlock": MoveInstance(False, p.store, p.clock),
    }


def _list_token_operations(p: Parts) -> Mapping[str, Operation]:
    """Those of the OAuth endpoints."""
    origin = p.publication.origin
    audiences = frozenset({origin, *(f"{origin}{path}" for path in OAUTH_ROUTES.values())})
    outside = OutsideIssuers(IssuerKeys(p.key_source, p.clock))
    secrets = SecretVerifier(p.store, p.clock, p.trust_domain, allowed=p.client_secrets)
    authenticator = Authenticator(
        p.store, p.snapshot, p.clock, p.trust_domain, audiences, outside, secrets, p.peers
    )
    sealer = TokenSealer(p.keystore, p.entropy)
    gatherer = TokenGatherer(p.store, p.keystore, sealer)
    maker = TokenMaker(p.store, p.snapshot, p.clock, p.entropy, gatherer, origin)
    urls = [f"{one}{TOKEN_PATH}" for one in (origin, p.publication.mutual_origin)]
    dpop = DpopVerifier(p.store, p.clock, p.entropy, urls)
    refusals = RefusalJournal(p.store, p.clock)
    delegates = Delegates(p.store, p.snapshot)
    request = RequestToken(p.store, p.snapshot, authenticator, dpop, maker, delegates)
    judge = TokenJudge(p.store, p.snapshot, p.clock, p.trust_domain, origin, sealer)
    reader = TokenReader(judge, p.clock, p.trust_domain, origin)
    exchange = ExchangeToken(p.store, p.snapshot, authenticator, dpop, reader, maker)
    exchanges: Operation = exchange
    if p.draft_transaction_tokens:
        minter = TxnTokenMaker(
            p.store, p.snapshot, p.clock, p.entropy, gatherer, origin, p.trust_domain
        )
        issue = IssueTxnToken(p.store, p.snapshot, authenticator, dpop, reader, minter)
        exchanges = ExchangeForEither(exchange, issue)
    signer = AnswerSigner(p.keystore, p.clock, origin)
    enforce = EnforceRequest(
        p.decider, ShowingReader(p.store, p.clock, judge, p.peers), RouteTable(), Places(p.locator)
    )
    rejections = RejectionJournal(p.store, p.clock)
    restraint = restrain(rejections, p.clock)
    introspect = IntrospectToken(p.store, p.clock, authenticator, judge, signer, rejections)
    surrender = SurrenderToken(p.store, p.snapshot, p.clock, authenticator, judge, restraint)
    return {
        "decision.enforce": enforce,
        "token.request": Journaled(request, refusals),
        "token.exchange": Journaled(exchanges, refusals),
        "token.introspect": Journaled(introspect, refusals),
        "token.surrender": Journaled(surrender, refusals),
        "token.revoke": RevokeTokens(p.store, p.clock),
        "client_secret.create": CreateClientSecret(p.store, p.clock, p.entropy, p.client_secrets),
        "client_secret.ls": ListClientSecrets(p.store, p.clock),
        "client_secret.revoke": RevokeClientSecret(p.store, p.clock),
        "token.join": CreateJoinToken(p.store, p.clock, p.entropy),
    }


def _describe(p: Parts) -> About:
    return About(p.trust_domain, p.started_at, p.lease, p.usage)


def list_subscriptions(p: Parts) -> Mapping[str, Subscription]:
    """Every subscription by name."""
    searcher = Searcher(EventSearch(p.store, p.snapshot), p.archive)
    return {
        "node.sync": SyncNode(p.store, p.snapshot, p.clock, p.trust_domain, p.lease),
        "journal.tail": TailJournal(p.store, p.snapshot),
        "revocation.follow": FollowRevocations(
            p.store, p.snapshot, p.clock, p.trust_domain, p.lease
        ),
        "policy.follow": FollowPolicies(p.store, p.desk, p.clock, p.lease),
        "audit.tail": TailAudit(searcher, p.store, p.snapshot, p.decisions),
    }
