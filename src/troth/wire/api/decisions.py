"""Decisions on the wire: asked for, searched for, and read back from the log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from troth.core.errors import Invalid
from troth.wire.api.route import Route
from troth.wire.authzen.answer import Verdicts
from troth.wire.authzen.question import (
    MAX_QUESTIONS,
    Action,
    ActionName,
    Entity,
    Evaluations,
    IdName,
    Properties,
    Question,
    Semantic,
    TypeName,
)
from troth.wire.authzen.search import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    MAX_TOKEN,
    Results,
    Search,
    parse_token,
)

Wanted = Literal["subject", "resource", "action"]
DecisionName = Annotated[str, Meta(pattern=r"^dec_[0-9a-f]{1,60}$(?!\n)")]


class EvaluateDecisions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask questions: may the subject (of type ``identity``, by name or SPIFFE ID, or of a declared
    type) do the action with the resource, in this context? `semantic` says whether all of them are
    answered, or those up to the first denial or permission."""

    questions: Annotated[list[Question], Meta(min_length=1, max_length=MAX_QUESTIONS)]
    semantic: Semantic = Semantic.ALL

    def as_evaluations(self) -> Evaluations:
        """The same as AuthZEN has it."""
        return Evaluations(self.questions, self.semantic, single=len(self.questions) == 1)


class Sought(Struct, frozen=True, forbid_unknown_fields=True):
    """A subject or resource; without an `id`, where that is what is looked for."""

    type: TypeName
    id: IdName = ""
    properties: Properties = None


class SoughtAction(Struct, frozen=True, forbid_unknown_fields=True):
    """An action; without a `name`, where that is what is looked for."""

    name: ActionName = ""
    properties: Properties = None


class SearchDecisions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Look for the subjects, resources or actions (`target`) for which a question would be
    permitted now; `token` is `next_token` of the page before."""

    target: Wanted
    subject: Sought
    resource: Sought
    action: SoughtAction = SoughtAction()
    context: Properties = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    token: Annotated[str, Meta(max_length=MAX_TOKEN)] = ""

    def as_search(self) -> Search:
        """The same as AuthZEN has it; `Invalid` where something is missing."""
        wanted = self.target
        subject, resource, action = self.subject, self.resource, self.action
        for name, given in (("subject", subject.id), ("resource", resource.id)):
            if name != wanted and not given:
                raise Invalid(f"The {name}'s id is missing: only what is looked for has none.")
        if wanted != "action" and not action.name:
            raise Invalid("The action's name is missing: only what is looked for has none.")
        search = Search(
            wanted,
            Entity(subject.type, "" if wanted == "subject" else subject.id, subject.properties),
            Action("") if wanted == "action" else Action(action.name, action.properties),
            Entity(resource.type, "" if wanted == "resource" else resource.id, resource.properties),
            self.context,
            self.limit,
        )
        return search.start_after(parse_token(self.token, search.digest)) if self.token else search


class ListDecisions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read decisions that this server recorded from `since` to before `until`: of one `subject`
    (its name), one declared `resource`, one outcome. The newest first, or the `oldest`."""

    subject: Annotated[str, Meta(max_length=2048)] | None = None
    resource: Annotated[str, Meta(max_length=128)] | None = None
    allowed: bool | None = None
    since: datetime | None = None
    until: datetime | None = None
    oldest: bool = False
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class NameDecision(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name the decision by its id."""

    id: DecisionName


class DecisionView(Struct, frozen=True, kw_only=True):
    """One decision as it was recorded. `point` is how it was asked for (``authzen``, ``envoy`` …),
    `epoch` the journal position of the rules, `facts` what of the question they could read."""

    id: str
    at: datetime
    allowed: bool
    caller: str
    point: str
    request_id: str
    subject_type: str
    subject: str
    action: str
    resource: str
    resource_type: str
    resource_id: str
    policies: list[str]
    reason: str
    epoch: int
    facts: dict[str, Any]


class DecisionPage(Struct, frozen=True, kw_only=True):
    """Decisions in the order that was asked for. `next` is where to go on (`until`, or `since` with
    `oldest`), null at the end; decisions of one moment are never on two pages."""

    items: list[DecisionView]
    next: datetime | None = None


class ProofView(Struct, frozen=True, kw_only=True):
    """Where a decision is in the log, and the hashes beside its way to its segment's root, which
    stands in the journal's event ``decisions.closed``. All hashes are hexadecimal."""

    server: str
    segment: int
    index: int
    size: int
    entry: str
    path: list[str]
    root: str


class DecisionShown(Struct, frozen=True, kw_only=True):
    """One decision with its proof; null while its segment is open, which is an hour at most."""

    decision: DecisionView
    proof: ProofView | None = None


ROUTES = (
    Route(
        "decision.evaluate",
        "POST",
        "/v1/decisions/evaluate",
        EvaluateDecisions,
        Verdicts,
        "Ask whether somebody may do something, once or many times.",
    ),
    Route(
        "decision.search",
        "POST",
        "/v1/decisions/search",
        SearchDecisions,
        Results,
        "Look for who may do something, with what, or what somebody may do.",
    ),
    Route(
        "decision.ls",
        "GET",
        "/v1/decisions",
        ListDecisions,
        DecisionPage,
        "Read the decisions that were made.",
    ),
    Route(
        "decision.show",
        "GET",
        "/v1/decisions/{id}",
        NameDecision,
        DecisionShown,
        "Show one decision, and the proof that it is in the log.",
    ),
)
"""Their rows in the table of routes."""
