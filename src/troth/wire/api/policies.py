"""Policy sets on the wire: their versions, held changes, replays and suggestions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

from troth.wire.api.identities import Limit, Name, Reason
from troth.wire.api.manifests import AccessChange, ManifestChange, ManifestDocument, ManifestPlan
from troth.wire.api.route import Route

Number = Annotated[int, Meta(ge=1, le=2**53)]
Days = Annotated[float, Meta(gt=0, le=3650)]
NumberText = Annotated[str, Meta(pattern=r"^[1-9]\d{0,14}$(?!\n)")]
"""A number in a path, as text."""


class ListVersions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List versions, the newest first; `before` is `next` of the page before."""

    before: Number | None = None
    limit: Limit = 100


class NameVersion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name one version."""

    number: NumberText


class VersionView(Struct, frozen=True, kw_only=True):
    """One version of the policy set. `fault` says what is wrong with its signature or its place in
    the chain, "" if nothing is; `approver` who else agreed."""

    number: int
    digest: str
    previous: str
    epoch: int
    author: str
    approver: str
    request_id: str
    created_at: datetime
    key_id: str
    fault: str


class VersionPage(Struct, frozen=True, kw_only=True):
    """The newest first; `next` is what to pass as `before` for those that follow."""

    items: list[VersionView]
    next: int | None = None


class VersionContent(Struct, frozen=True, kw_only=True):
    """One version, and everything that it declares, in words."""

    version: VersionView
    declared: list[ManifestChange]


class CompareVersions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare version `before` with version `after`; without that, with what holds now."""

    before: Number
    after: Number | None = None


class Difference(Struct, frozen=True, kw_only=True):
    """What differs, in words, and whose access: of the identities as they are now."""

    changes: list[ManifestChange]
    access: list[AccessChange]
    access_more: int = 0
    access_complete: bool = True


class RollBack(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Apply what version `number` declares as a new version; or, as a `dry_run`, plan it."""

    number: NumberText
    dry_run: bool = False


class ListHeld(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List changes that wait for approval; or with `all` those too that were decided."""

    all: bool = False
    limit: Limit = 100


class NameHeld(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name a held change."""

    number: NumberText


class HeldChange(Struct, frozen=True, kw_only=True):
    """A change that somebody else than its author must approve, for these `reasons`; `words` are
    its steps. `state` is pending, approved, rejected or expired."""

    number: int
    author: str
    request_id: str
    created_at: datetime
    expires_at: datetime
    reasons: list[str]
    words: list[str]
    state: str
    decided_by: str = ""
    decided_at: datetime | None = None
    reason: str = ""


class HeldPage(Struct, frozen=True, kw_only=True):
    """The newest first."""

    items: list[HeldChange]


class HeldPlan(Struct, frozen=True, kw_only=True):
    """A held change and what approving it would do now; `outdated` says why it can't be approved
    any more, "" if it can."""

    change: HeldChange
    plan: ManifestPlan | None = None
    outdated: str = ""


class RejectHeld(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reject a held change, or take one's own back."""

    number: NumberText
    reason: Reason


class ReplayDecisions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Decide the decisions of the last `days` anew, under what holds now as these manifests would
    change it; at most `most` of them, those of one `subject` or `resource` if given."""

    documents: list[ManifestDocument] = []
    prune: bool = False
    days: Days = 7
    most: Annotated[int, Meta(ge=1, le=1_000_000)] = 100_000
    subject: Annotated[str, Meta(max_length=512)] = ""
    resource: Annotated[str, Meta(max_length=128)] = ""


class ReplayedGroup(Struct, frozen=True, kw_only=True):
    """Calls of one subject that have the same outcome: `outcome` is denied (they were permitted),
    permitted (they were denied) or unknown. `words` say why, `examples` are ids of decisions."""

    outcome: str
    subject_type: str
    subject: str
    action: str
    resource: str
    count: int
    first: datetime
    last: datetime
    words: str
    examples: list[str]


class ReplayResult(Struct, frozen=True, kw_only=True):
    """What a replay found. `same` counts calls with the answer that they had; `groups_more` the
    groups that aren't listed. Unless `complete` there were more decisions than were looked at."""

    looked_at: int
    same: int
    denied: int
    permitted: int
    unknown: int
    skipped: int
    since: datetime
    until: datetime
    groups: list[ReplayedGroup]
    groups_more: int = 0
    complete: bool = True
    notes: list[str] = []


class SuggestRole(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Suggest the role that `name` needs for what it did in the last `days`."""

    name: Name
    days: Days = 30
    most: Annotated[int, Meta(ge=1, le=1_000_000)] = 100_000


class Suggestion(Struct, frozen=True, kw_only=True):
    """A role with nothing but what was used, as a manifest; and the replay that shows that nothing
    of it breaks. `unused` are permissions that it holds now and that nothing used."""

    identity: str
    roles: list[str]
    manifest: dict[str, Any] | None
    unused: list[str]
    notes: list[str]
    proof: ReplayResult


def _r(name: str, verb: str, path: str, request: type, result: type, summary: str) -> Route:
    return Route(f"policy.{name}", verb, f"/v1/policy{path}", request, result, summary)


ROUTES = (
    _r(
        "history",
        "GET",
        "/versions",
        ListVersions,
        VersionPage,
        "List the policy sets that were applied, the newest first, each with its signature "
        "checked.",
    ),
    _r(
        "show",
        "GET",
        "/versions/{number}",
        NameVersion,
        VersionContent,
        "Show what one version of the policy set declares.",
    ),
    _r(
        "diff",
        "GET",
        "/diff",
        CompareVersions,
        Difference,
        "Compare two versions of the policy set, in words and by access.",
    ),
    _r(
        "rollback",
        "POST",
        "/versions/{number}/rollback",
        RollBack,
        ManifestPlan,
        "Apply what an earlier version of the policy set declares, as a new one.",
    ),
    _r(
        "pending",
        "GET",
        "/changes",
        ListHeld,
        HeldPage,
        "List changes that wait for a second person.",
    ),
    _r(
        "review",
        "GET",
        "/changes/{number}",
        NameHeld,
        HeldPlan,
        "Show what approving a held change would do now.",
    ),
    _r(
        "approve",
        "POST",
        "/changes/{number}/approve",
        NameHeld,
        ManifestPlan,
        "Approve a change that somebody else asked for, and apply it.",
    ),
    _r(
        "reject",
        "POST",
        "/changes/{number}/reject",
        RejectHeld,
        HeldChange,
        "Reject a held change.",
    ),
    _r(
        "replay",
        "POST",
        "/replay",
        ReplayDecisions,
        ReplayResult,
        "Decide recorded decisions anew under a proposed set.",
    ),
    _r(
        "suggest",
        "POST",
        "/suggest",
        SuggestRole,
        Suggestion,
        "Suggest the least privilege for what an identity used.",
    ),
)
"""Their rows in the table of routes."""
