"""What a function handed to `transact` or `read` works with: one gateway a table."""

from __future__ import annotations

from functools import cached_property

from troth.store.authorities import AuthorityGateway
from troth.store.certificates import CertificateGateway
from troth.store.checkpoints import CheckpointGateway
from troth.store.client_secrets import ClientSecretGateway
from troth.store.crls import CrlGateway
from troth.store.cursors import CursorGateway
from troth.store.dead_letters import DeadLetterGateway
from troth.store.declarations import DeclarationGateway
from troth.store.enrolment_codes import EnrolmentCodeGateway
from troth.store.event_search import EventSearchGateway
from troth.store.evidence import EvidenceGateway
from troth.store.holds import HoldGateway
from troth.store.identities import IdentityGateway
from troth.store.instances import InstanceGateway
from troth.store.join_tokens import JoinTokenGateway
from troth.store.journal import JournalGateway
from troth.store.jwt_svids import JwtSvidGateway
from troth.store.keys import KeyGateway
from troth.store.leases import LeaseGateway
from troth.store.nodes import NodeGateway
from troth.store.policy_sets import PolicySetGateway, ProposalGateway
from troth.store.session import Session
from troth.store.settings import SettingGateway
from troth.store.sightings import SightingGateway
from troth.store.templates import TemplateGateway
from troth.store.token_revocations import TokenRevocationGateway
from troth.store.used_proofs import UsedProofGateway
from troth.store.withdrawals import WithdrawalGateway


class Transaction:
    """One transaction. It ends with the function that got it, and must not be kept.

    A function takes plain values and returns plain values, awaits nothing and may be run again
    when the database asks for it: so it has no effect but the one on the database.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @cached_property
    def identities(self) -> IdentityGateway:
        """What is registered."""
        return IdentityGateway(self._session)

    @cached_property
    def instances(self) -> InstanceGateway:
        """Running copies of identities."""
        return InstanceGateway(self._session)

    @cached_property
    def templates(self) -> TemplateGateway:
        """Who gets an identity at first sight."""
        return TemplateGateway(self._session)

    @cached_property
    def declarations(self) -> DeclarationGateway:
        """Roles, resources and the like."""
        return DeclarationGateway(self._session)

    @cached_property
    def policy_sets(self) -> PolicySetGateway:
        """Versions of what is declared about access."""
        return PolicySetGateway(self._session)

    @cached_property
    def proposals(self) -> ProposalGateway:
        """Changes that wait for a second person."""
        return ProposalGateway(self._session)

    @cached_property
    def sightings(self) -> SightingGateway:
        """Workloads that got one, and whether they are still there."""
        return SightingGateway(self._session)

    @cached_property
    def nodes(self) -> NodeGateway:
        """Machines with an attested agent."""
        return NodeGateway(self._session)

    @cached_property
    def join_tokens(self) -> JoinTokenGateway:
        """One-time permissions to join."""
        return JoinTokenGateway(self._session)

    @cached_property
    def enrolment_codes(self) -> EnrolmentCodeGateway:
        """One-time permissions to enrol as a device."""
        return EnrolmentCodeGateway(self._session)

    @cached_property
    def client_secrets(self) -> ClientSecretGateway:
        """Secrets of OAuth clients."""
        return ClientSecretGateway(self._session)

    @cached_property
    def used_proofs(self) -> UsedProofGateway:
        """Proofs that were taken."""
        return UsedProofGateway(self._session)

    @cached_property
    def token_revocations(self) -> TokenRevocationGateway:
        """Access tokens that ended early."""
        return TokenRevocationGateway(self._session)

    @cached_property
    def evidence(self) -> EvidenceGateway:
        """What speaks for identities or against them."""
        return EvidenceGateway(self._session)

    @cached_property
    def authorities(self) -> AuthorityGateway:
        """Signing authorities."""
        return AuthorityGateway(self._session)

    @cached_property
    def certificates(self) -> CertificateGateway:
        """Certificates, from the intent to sign on."""
        return CertificateGateway(self._session)

    @cached_property
    def withdrawals(self) -> WithdrawalGateway:
        """What is still to be revoked."""
        return WithdrawalGateway(self._session)

    @cached_property
    def jwt_svids(self) -> JwtSvidGateway:
        """JWT-SVIDs, from the intent to sign on."""
        return JwtSvidGateway(self._session)

    @cached_property
    def crls(self) -> CrlGateway:
        """Revocation lists."""
        return CrlGateway(self._session)

    @cached_property
    def journal(self) -> JournalGateway:
        """What happened."""
        return JournalGateway(self._session)

    @cached_property
    def event_search(self) -> EventSearchGateway:
        """What happened, looked for."""
        return EventSearchGateway(self._session)

    @cached_property
    def checkpoints(self) -> CheckpointGateway:
        """What was signed of the log."""
        return CheckpointGateway(self._session)

    @cached_property
    def cursors(self) -> CursorGateway:
        """How far each consumer has read the journal."""
        return CursorGateway(self._session)

    @cached_property
    def dead_letters(self) -> DeadLetterGateway:
        """What sinks didn't deliver."""
        return DeadLetterGateway(self._session)

    @cached_property
    def holds(self) -> HoldGateway:
        """Spans of time of which nothing may be removed."""
        return HoldGateway(self._session)

    @cached_property
    def leases(self) -> LeaseGateway:
        """Who does a background task now."""
        return LeaseGateway(self._session)

    @cached_property
    def settings(self) -> SettingGateway:
        """Values that the server keeps about itself."""
        return SettingGateway(self._session)

    @cached_property
    def keys(self) -> KeyGateway:
        """Sealed keys of the database keystore."""
        return KeyGateway(self._session)
