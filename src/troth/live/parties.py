"""Parties on the wire, and as a service knows them: who may be permitted something, with what their
score is made from, so that it is made anew where it fades, with nobody asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.core.errors import Internal, TrothError
from troth.core.ids import EvidenceId, IdentityId, SpiffeId
from troth.identity.identity import Identity, Kind, State, tell_refusal
from troth.live.trust import describe_standing
from troth.policy.inquiry import Party, Trust, make_identity_party
from troth.policy.rulebook import RuleBook
from troth.trust.evidence import Evidence
from troth.trust.score import Standing, Strength, score_identity
from troth.wire.api.rules import EvidenceView, PartyView

MOST_EVIDENCE = 1_024
_NO_TIME = timedelta(0)


def show_party(identity: Identity, evidence: Iterable[Evidence]) -> PartyView:
    """An identity as those are told of it whose rules may permit it something."""
    standing = describe_standing(identity)
    return PartyView(
        name=identity.name,
        spiffe_id=str(identity.spiffe_id),
        kind=identity.kind.value,
        owner=identity.owner,
        environment=identity.environment,
        labels=identity.labels,
        state=identity.state.value,
        expires_at=identity.expires_at,
        roles=identity.roles,
        strength=standing.strength.value,
        purposeful=bool(standing.purpose.strip()),
        managed=standing.managed,
        created_at=standing.created_at,
        second_way=standing.second_way,
        first_sight=standing.first_sight,
        evidence=[
            EvidenceView(weight=one.weight, half_life=one.half_life.total_seconds(), at=one.at)
            for one in evidence
        ],
    )


@dataclass(slots=True)
class KnownParty:
    """A party as it was told, and as it was made last: by which rules, and as of `since`."""

    identity: Identity
    standing: Standing
    evidence: tuple[Evidence, ...]
    book: RuleBook | None = None
    since: datetime | None = None
    made: Party | None = None

    def make(self, book: RuleBook, now: datetime) -> Party:
        """The party as of `now`; the same object for as long as nothing about it changes. One
        thread at a time."""
        made, since = self.made, self.since
        if (
            made is not None
            and self.book is book
            and since is not None
            and since <= now
            and (made.valid_until is None or now < made.valid_until)
        ):
            return made
        identity = self.identity
        score = score_identity(self.standing, self.evidence, now)
        refusal = tell_refusal(identity, identity.state, now)
        end = score.valid_until if refusal else min(score.valid_until, identity.expires_at)
        trust = Trust(score.value, score.tier.value, score.assurance, end)
        self.made = made = make_identity_party(book, identity, trust, (), refusal)
        self.book, self.since = book, now
        return made


def read_party(view: PartyView) -> KnownParty:
    """The party again; `Internal` for what isn't understood."""
    try:
        return _read_party(view)
    except (TrothError, ValueError, OverflowError) as error:
        raise Internal(
            f"The party {view.name[:200]!r} was not understood: is the server a newer version?"
        ) from error


def _read_party(view: PartyView) -> KnownParty:
    if len(view.evidence) > MOST_EVIDENCE:
        raise ValueError("more evidence than there can be")
    id_ = IdentityId("")
    purpose = "said" if view.purposeful else ""
    identity = Identity(
        id=id_,
        name=view.name,
        spiffe_id=SpiffeId.parse(view.spiffe_id),
        kind=Kind(view.kind),
        owner=view.owner,
        purpose=purpose,
        environment=view.environment,
        labels=view.labels,
        selectors=(),
        nodes=(),
        dns_names=(),
        x509_ttl=_NO_TIME,
        jwt_ttl=_NO_TIME,
        hint="",
        expires_at=_zoned(view.expires_at),
        state=State(view.state),
        state_reason="",
        managed=view.managed,
        revision=0,
        created_at=_zoned(view.created_at),
        updated_at=_zoned(view.created_at),
        roles=tuple(view.roles),
    )
    standing = Standing(
        strength=Strength(view.strength),
        owner=view.owner,
        purpose=purpose,
        managed=view.managed,
        created_at=identity.created_at,
        second_way=view.second_way,
        first_sight=view.first_sight,
    )
    return KnownParty(identity, standing, tuple(map(_read_evidence, view.evidence)))


def _read_evidence(view: EvidenceView) -> Evidence:
    half_life = timedelta(seconds=view.half_life)
    if half_life <= _NO_TIME:
        raise ValueError("a half-life that isn't one")
    return Evidence(
        EvidenceId(""), IdentityId(""), "", "", view.weight, half_life, _zoned(view.at), "", ""
    )


def _zoned(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment
