"""Questions to the past on the wire: search, tail, causal chain, who could do what and who did."""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from troth.core.errors import Invalid
from troth.core.ids import MAX_SPIFFE_ID_LENGTH
from troth.wire.api.nodes import Heartbeat, StreamEnd
from troth.wire.api.route import Route

MAX_CURSOR = 512

Principal = Annotated[str, Meta(max_length=MAX_SPIFFE_ID_LENGTH)]
Name = Annotated[str, Meta(max_length=128)]
Words = Annotated[str, Meta(max_length=512)]
Outcome = Literal["", "success", "failure"]
Where = Literal["", "event", "decision"]
RequestName = Annotated[str, Meta(min_length=1, max_length=128)]


class Filters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is looked for; what is empty doesn't matter.

    `identity` did something or had something done to it: a SPIFFE ID, an identity's name, or the
    principal of a person (``uid:1000``). `resource` is a declared resource's name, `action` an
    event's type or its beginning (``token.``) or the action of a decision; a denied decision is a
    ``failure``. `task` is the id of a transaction or a grant, and `text` stands anywhere, whatever
    its case. `kind` is ``event`` or ``decision``.
    """

    identity: Principal = ""
    resource: Name = ""
    action: Name = ""
    outcome: Outcome = ""
    request_id: Name = ""
    task: Name = ""
    text: Words = ""
    kind: Where = ""


class SearchAudit(Filters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Search from `since` (a day before `until`) to before `until` (now), newest first. `after` is
    `next` of the page before."""

    since: datetime | None = None
    until: datetime | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: Annotated[str, Meta(max_length=MAX_CURSOR)] = ""


class TailAudit(Filters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Follow what happens: events after a `position` (-1 starts at the present end), and decisions
    that this server makes from now on."""

    position: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1


class TraceRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name a request by its id, or by a decision's id or an event's position that belongs to it; it
    was at `since` or later (thirty days ago)."""

    id: RequestName
    since: datetime | None = None


class AskWho(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask who could do what at a declared `resource` at a moment (now); only this `action` if it is
    given."""

    resource: Annotated[str, Meta(min_length=1, max_length=128)]
    at: datetime | None = None
    action: Annotated[str, Meta(max_length=128)] = ""


class AskTouched(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask who touched a declared `resource` from `since` (a day before `until`) to before `until`
    (now); the last `limit` of them."""

    resource: Annotated[str, Meta(min_length=1, max_length=128)]
    since: datetime | None = None
    until: datetime | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class Record(Struct, frozen=True, kw_only=True, tag_field="message", tag="record"):
    """One thing that happened.

    `kind` is ``event`` or ``decision``, `id` the event's position or the decision's id, `action`
    the event's type or the decision's action. `actor` did it (of a decision: who asked), `subject`
    it was done to (of a decision: who wanted to). `detail` is the event's body, or what else is
    known of the decision. `redacted`: persons and reasons were taken out.
    """

    kind: str
    id: str
    at: datetime
    action: str
    outcome: str
    actor: str
    subject: str
    resource: str
    request_id: str
    source: str
    reason: str
    task: str
    detail: dict[str, Any]
    redacted: bool = False


class AuditPage(Struct, frozen=True, kw_only=True):
    """Records, newest first. A page may have fewer than were asked for and still have a `next`,
    which is null at the end. `since` and `until` are what was searched; `notes` say what couldn't
    be read, in sentences."""

    items: list[Record]
    next: str | None
    since: datetime
    until: datetime
    notes: list[str] = []


class Step(Struct, frozen=True, kw_only=True):
    """A thing in a causal chain: `link` is a word and `why` a sentence for what ties it to the step
    that it is part of; `steps` followed from it."""

    link: str
    why: str
    record: Record
    steps: list[Step] = []


class Trace(Struct, frozen=True, kw_only=True):
    """What happened because of a request, and what it came from, the nearest first.

    Unless `complete` there may be more; `notes` say why.
    """

    request_id: str
    steps: list[Step]
    causes: list[Step]
    complete: bool = True
    notes: list[str] = []


class CouldDo(Struct, frozen=True, kw_only=True):
    """What one subject could do: always, or on a `condition`. `exact` says whether the subject is
    known as it was then; if not, `note` says why."""

    subject_type: str
    subject: str
    spiffe_id: str
    actions: list[str]
    level: str
    condition: str = ""
    exact: bool = True
    note: str = ""


class WhoCould(Struct, frozen=True, kw_only=True):
    """Who could do what with a resource at a moment, by the version of the policy set that was in
    force (0: none was). `notes` say what the answer rests on and what it leaves out."""

    resource: str
    at: datetime
    version: int
    digest: str
    actions: list[str]
    items: list[CouldDo]
    complete: bool = True
    notes: list[str] = []


class Touch(Struct, frozen=True, kw_only=True):
    """How often a subject got one answer about one action on a resource. `subject` is as decisions
    have it: an identity's name; `outcome` is ``success``, or ``failure`` of what was denied."""

    subject_type: str
    subject: str
    action: str
    outcome: str
    times: int
    first: datetime
    last: datetime


class Touched(Struct, frozen=True, kw_only=True):
    """Who touched a resource, the last one first; there were more unless `complete`. `since` and
    `until` are what was looked through; `notes` say what couldn't be read, in sentences."""

    resource: str
    since: datetime
    until: datetime
    items: list[Touch]
    complete: bool = True
    notes: list[str] = []


class _Cursor(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    # Up to the end of the year 9999, with a tick to spare: what lies behind it is computed.
    at: Annotated[int, Meta(ge=0, lt=253_402_300_799_999_999)]
    kind: Literal["event", "decision"]
    id: Annotated[str, Meta(max_length=100)]
    place: Annotated[str, Meta(max_length=100)]


_decoder = msgspec.json.Decoder(_Cursor)


def render_cursor(at: int, kind: str, id_: str, place: str) -> str:
    """Where a page ended: a time in microseconds since 1970, and what breaks ties."""
    return urlsafe_b64encode(msgspec.json.encode((at, kind, id_, place))).rstrip(b"=").decode()


def parse_cursor(text: str) -> tuple[int, str, str, str]:
    """What `render_cursor` rendered; `Invalid` for anything else."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        found = _decoder.decode(b64decode(padded, b"-_", validate=True))
    except (ValueError, Base64Error, RecursionError) as error:
        raise Invalid(
            "`after` is none of our cursors: give `next` of the page before, unchanged."
        ) from error
    return found.at, found.kind, found.id, found.place


ROUTES = (
    Route(
        "audit.search",
        "GET",
        "/v1/audit/search",
        SearchAudit,
        AuditPage,
        "Search what happened and what was decided.",
    ),
    Route(
        "audit.tail",
        "GET",
        "/v1/audit/tail",
        TailAudit,
        Record | Heartbeat | StreamEnd,
        "Follow what happens and what is decided.",
        stream=True,
    ),
    Route(
        "audit.trace",
        "GET",
        "/v1/audit/trace/{id}",
        TraceRequest,
        Trace,
        "Show all that happened because of a request.",
    ),
    Route(
        "audit.who",
        "GET",
        "/v1/audit/who",
        AskWho,
        WhoCould,
        "Tell who could do what with a resource at a moment.",
    ),
    Route(
        "audit.touched",
        "GET",
        "/v1/audit/touched",
        AskTouched,
        Touched,
        "Tell who did what with a resource in a period, and how often.",
    ),
)
"""Their rows in the table of routes."""
