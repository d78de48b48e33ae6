"""Trust on the wire: scores with their reasons, and the evidence behind them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from troth.wire.api.identities import Limit, Name, Reason
from troth.wire.api.route import Route

MOST_WEIGHT = 100
DAY = 86_400
MINUTE = 60
DEFAULT_HALF_LIFE = 7 * DAY
LONGEST_HALF_LIFE = 3650 * DAY

Word = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,63}$(?!\n)")]
EvidenceName = Annotated[str, Meta(pattern=r"^evd_[0-9a-f]{1,60}$(?!\n)")]
Place = Annotated[str, Meta(pattern=r"^[0-9]{1,3}:[^:\n]{1,128}$(?!\n)")]


class AddEvidence(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Add what speaks for the identity called `name` (`weight` above 0) or against it (below), in
    points; it halves every `half_life` seconds. `origin` says where it comes from."""

    name: Name
    weight: Annotated[int, Meta(ge=-MOST_WEIGHT, le=MOST_WEIGHT)]
    reason: Reason
    half_life: Annotated[int, Meta(ge=MINUTE, le=LONGEST_HALF_LIFE)] = DEFAULT_HALF_LIFE
    kind: Word = "report"
    origin: Word = "operator"


class WithdrawEvidence(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take evidence back by its id; the journal keeps both."""

    id: EvidenceName
    reason: Reason


class NameTrust(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name the identity."""

    name: Name


class ListTrust(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List scores, the lowest first; `after` is `next` of the page before."""

    after: Place | None = None
    limit: Limit = 100


class ReasonView(Struct, frozen=True, kw_only=True):
    """One item of a score: points and why; `evidence` is the id of the evidence behind it, or
    empty."""

    points: float
    words: str
    evidence: str = ""


class EvidenceView(Struct, frozen=True, kw_only=True):
    """Evidence, and `left`, the points that it contributes now; from `ends_at` on none."""

    id: str
    origin: str
    kind: str
    weight: int
    half_life: int
    left: float
    at: datetime
    ends_at: datetime
    reason: str
    added_by: str


class TrustView(Struct, frozen=True, kw_only=True):
    """How much one identity is relied on. `points` is what the reasons come to; `score` is that,
    rounded down and kept within 0 and 100. All of it holds until `valid_until`."""

    name: str
    spiffe_id: str
    owner: str
    score: int
    tier: str
    assurance: str
    points: float
    reasons: list[ReasonView]
    evidence: list[EvidenceView]
    valid_until: datetime


class EvidenceAdded(Struct, frozen=True, kw_only=True):
    """The id of the evidence, and how much the identity is relied on with it."""

    id: str
    trust: TrustView


class TrustItem(Struct, frozen=True, kw_only=True):
    """One identity with its score; `evidence` is how many pieces of evidence are in it."""

    name: str
    spiffe_id: str
    owner: str
    score: int
    tier: str
    assurance: str
    evidence: int


class TrustPage(Struct, frozen=True, kw_only=True):
    """The lowest first; `next` is what to pass as `after` for those that follow."""

    items: list[TrustItem]
    next: str | None = None


ROUTES = (
    Route(
        "trust.add",
        "POST",
        "/v1/trust/{name}/evidence",
        AddEvidence,
        EvidenceAdded,
        "Add evidence for or against an identity.",
    ),
    Route(
        "trust.ls",
        "GET",
        "/v1/trust",
        ListTrust,
        TrustPage,
        "List how much is relied on whom, the least first.",
    ),
    Route(
        "trust.show",
        "GET",
        "/v1/trust/{name}",
        NameTrust,
        TrustView,
        "Show how much one identity is relied on, and why.",
    ),
    Route(
        "trust.withdraw",
        "POST",
        "/v1/evidence/{id}/withdraw",
        WithdrawEvidence,
        TrustView,
        "Take evidence back.",
    ),
)
"""Their rows in the table of routes."""
