"""Enforcement inside a service on the wire: the stream that tells it the rules about its resources
and the parties that those can permit something, and the reports of what it decided.

A complete value first, or the changes since the epoch that the caller names; then changes and
heartbeats. Rules come compiled, each with its condition as a tree, so that a service decides by
exactly what the server decides by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

from troth.wire.api.nodes import StreamEnd
from troth.wire.api.route import Route

MOST_RESOURCES = 64
"""Resources that one stream is about."""

MOST_REPORTED = 1_000
"""Decisions of one report."""

_Name = Annotated[str, Meta(max_length=512)]


class FollowPolicies(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Follow the rules about the resources that the caller serves: all of them, or those that
    `resources` names, separated by commas. `after` and `mark` are those of the last message heard,
    if any, and `rules` the digest of the rules known from it."""

    resources: Annotated[str, Meta(max_length=8192)] = ""
    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    mark: Annotated[str, Meta(max_length=64)] = ""
    rules: Annotated[str, Meta(max_length=64)] = ""


class AskParty(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for one party, by SPIFFE ID or name."""

    subject: Annotated[str, Meta(min_length=1, max_length=2048)]


class TestView(Struct, frozen=True, kw_only=True, tag_field="is", tag="test", omit_defaults=True):
    """One comparison of the fact of that name and `kind`. Of `values`, what JSON has no form for is
    an object with one member: `network`, `address`, `time` or `window`."""

    __test__ = False  # no test of pytest's

    fact: str
    kind: str
    operator: str
    values: Sequence[Any] = ()
    other: str = ""
    other_kind: str = ""
    words: str = ""


class AllView(Struct, frozen=True, kw_only=True, tag_field="is", tag="all", omit_defaults=True):
    """Holds if all of its parts do."""

    parts: Sequence[ConditionView] = ()


class AnyView(Struct, frozen=True, kw_only=True, tag_field="is", tag="any", omit_defaults=True):
    """Holds if one of its parts does."""

    parts: Sequence[ConditionView] = ()


class NotView(Struct, frozen=True, kw_only=True, tag_field="is", tag="not"):
    """Holds if its part doesn't."""

    part: ConditionView


ConditionView = TestView | AllView | AnyView | NotView


class RuleView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rule. Of its resources those are named that the stream is about; none: any. `reads` are
    the facts that a rule in `cedar` reads, each with its kind."""

    id: str
    effect: str
    roles: Sequence[str] = ()
    identities: Sequence[str] = ()
    types: Sequence[str] = ()
    anyone: bool = False
    actions: Sequence[str] = ()
    resources: Sequence[str] = ()
    when: ConditionView | None = None
    cedar: str = ""
    reads: Sequence[tuple[str, str]] = ()
    expires: datetime | None = None
    exceptions: Sequence[RuleView] = ()


class RuleSet(Struct, frozen=True, kw_only=True):
    """All rules about the resources that are `served`. `resources` are those as they are declared,
    and the others that matter to their reading: of the same types, and those whose instances can
    ask. `roles` maps the roles that rules are about, and those that include them, to what they
    include. `digest` tells these rules from all others."""

    digest: str
    epoch: int
    served: Sequence[str]
    resources: Sequence[Mapping[str, Any]]
    roles: Mapping[str, Sequence[str]]
    rules: Sequence[RuleView]


class EvidenceView(Struct, frozen=True, kw_only=True):
    """Evidence for or against a party; `half_life` in seconds."""

    weight: int
    half_life: float
    at: datetime


class PartyView(Struct, frozen=True, kw_only=True):
    """An identity that rules may permit something, with what its score is made from: how its
    holders are told from others (`strength`), whether its purpose is said, and so on."""

    name: str
    spiffe_id: str
    kind: str
    owner: str
    environment: str
    labels: Mapping[str, str]
    state: str
    expires_at: datetime
    roles: Sequence[str]
    strength: str
    purposeful: bool
    managed: bool
    created_at: datetime
    second_way: bool
    first_sight: bool
    evidence: Sequence[EvidenceView] = ()


class PolicySnapshot(Struct, frozen=True, kw_only=True, tag_field="message", tag="snapshot"):
    """The complete value as of journal position `epoch`, which replaces all that was known.

    Who isn't among `parties` is permitted nothing; unless they are not `complete`, since there are
    too many: then each is asked for when it matters, and to be forgotten when a message names it.

    `as_of`, `lease` and `mark` are as in the stream of revocations.
    """

    epoch: int
    mark: str
    as_of: float
    lease: float
    trust_domain: str
    rules: RuleSet
    parties: Sequence[PartyView]
    complete: bool = True


class PolicyChange(Struct, frozen=True, kw_only=True, tag_field="message", tag="change"):
    """What changed after journal position `since`: other rules, all of them, where there are
    `rules`; `parties` that are new or different; and the names of those that are `gone`."""

    since: int
    epoch: int
    mark: str
    as_of: float
    lease: float
    rules: RuleSet | None = None
    parties: Sequence[PartyView] = ()
    gone: Sequence[str] = ()


class PolicyHeartbeat(Struct, frozen=True, kw_only=True, tag_field="message", tag="heartbeat"):
    """Nothing changed; what is known is complete as of journal position `epoch`."""

    epoch: int
    mark: str
    as_of: float


PolicyMessage = PolicySnapshot | PolicyChange | PolicyHeartbeat | StreamEnd
"""The rules about a service's resources and who they can permit something, with a lease."""


class ReportedDecision(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decision that a service made itself. `epoch` is the journal position of the rules that it
    decided by; `facts` are those that the decision read, as plain JSON."""

    id: Annotated[str, Meta(pattern=r"^dec_[0-9a-f]{24,48}$")]
    at: datetime
    request_id: Annotated[str, Meta(max_length=128)] = ""
    subject_type: _Name
    subject: Annotated[str, Meta(max_length=2048)]
    action: _Name
    resource: _Name
    resource_type: _Name
    resource_id: Annotated[str, Meta(max_length=2048)]
    allowed: bool
    policies: Annotated[Sequence[Annotated[str, Meta(max_length=256)]], Meta(max_length=256)] = ()
    reason: Annotated[str, Meta(max_length=1024)] = ""
    epoch: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    facts: Mapping[str, Any] = {}


class ReportDecisions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Report decisions. `lost` is how many were dropped since the last report because nobody took
    them for too long."""

    decisions: Annotated[Sequence[ReportedDecision], Meta(max_length=MOST_REPORTED)]
    lost: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


class DecisionRefusal(Struct, frozen=True, kw_only=True):
    """A decision that isn't kept, and why: reporting it again changes nothing."""

    id: str
    reason: str


class DecisionsReported(Struct, frozen=True, kw_only=True):
    """How many decisions were `kept`, how many were `known` from an earlier report, and which were
    `refused`."""

    kept: int
    known: int
    refused: Sequence[DecisionRefusal] = []


ROUTES = (
    Route(
        "policy.follow",
        "GET",
        "/v1/policies/follow",
        FollowPolicies,
        PolicyMessage,
        "Follow the rules about the resources that the caller serves.",
        stream=True,
    ),
    Route(
        "policy.party",
        "GET",
        "/v1/policies/party",
        AskParty,
        PartyView,
        "Ask for one identity that rules about the caller's resources may mean.",
    ),
    Route(
        "decision.report",
        "POST",
        "/v1/decisions/report",
        ReportDecisions,
        DecisionsReported,
        "Report decisions that the caller made by itself.",
    ),
)
"""Their rows in the table of routes."""
