"""`troth decision`: whether somebody may, who may, and what was answered before."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from troth.cli.audit_filters import read_when
from troth.cli.command import command, make_app
from troth.cli.terminal import Terminal, make_request, make_sheet, make_table
from troth.cli.words import describe_moment
from troth.wire.api import decisions as wire
from troth.wire.authzen.answer import Verdict, Verdicts
from troth.wire.authzen.question import Action, Entity, Question
from troth.wire.authzen.search import Results

app = make_app("Who may do what, asked and looked up.")

IDENTITY = "identity"

SubjectArgument = Annotated[
    str,
    typer.Argument(
        help="An identity's name or SPIFFE ID, or TYPE:ID of another subject.", metavar="SUBJECT"
    ),
]
ActionArgument = Annotated[str, typer.Argument(help="The action's name.", metavar="ACTION")]
ResourceArgument = Annotated[str, typer.Argument(help="TYPE:ID of a resource.", metavar="RESOURCE")]
ContextOption = Annotated[
    str | None,
    typer.Option(help="What is known of the request: a JSON object.", metavar="JSON"),
]
PropertiesOption = Annotated[
    str | None,
    typer.Option(help="What is known of the resource: a JSON object.", metavar="JSON"),
]


class Wanted(StrEnum):
    """What a search looks for."""

    SUBJECT = "subject"
    RESOURCE = "resource"
    ACTION = "action"


@command(
    app,
    "evaluate",
    example="troth decision evaluate payments read ledger:2027\n"
    'troth decision evaluate user:alice write record:7 --context \'{"ip": "10.0.0.7"}\'',
)
def evaluate(
    terminal: Terminal,
    subject: SubjectArgument,
    action: ActionArgument,
    resource: ResourceArgument,
    context: ContextOption = None,
    properties: PropertiesOption = None,
) -> None:
    """Ask whether somebody may do something now, and if not, why. The answer is recorded."""
    question = Question(
        _split_subject(subject),
        Action(action),
        _split_resource(resource, _parse_object(properties, "--properties")),
        _parse_object(context, "--context"),
    )
    request = make_request(wire.EvaluateDecisions, questions=[question])
    verdicts: Verdicts = terminal.call("decision.evaluate", request)
    verdict = verdicts.evaluations[0]
    terminal.show(verdict, lambda: [_describe_verdict(verdict)])


@command(
    app,
    "search",
    example="troth decision search subject --subject identity --action read "
    "--resource ledger:2027\n"
    "troth decision search action --subject payments --resource ledger:2027\n"
    "troth decision search resource --subject user:alice --action read --resource record",
)
def search(
    terminal: Terminal,
    target: Annotated[Wanted, typer.Argument(help="What to look for.", metavar="WANTED")],
    subject: Annotated[
        str, typer.Option(help="Who: as for `evaluate`; the type alone to look for them.")
    ],
    resource: Annotated[str, typer.Option(help="What: TYPE:ID; TYPE alone to look for them.")],
    action: Annotated[str, typer.Option(help="Which action; none to look for them.")] = "",
    context: ContextOption = None,
    limit: Annotated[
        int, typer.Option(help="So many at most.", min=1, max=1000, metavar="N")
    ] = 100,
    token: Annotated[str, typer.Option(help="To go on where a page ended.")] = "",
) -> None:
    """Look for who may do something, with what, or what somebody may do."""
    who = Entity(subject, "") if target is Wanted.SUBJECT else _split_subject(subject)
    what = Entity(resource, "") if target is Wanted.RESOURCE else _split_resource(resource, None)
    request = make_request(
        wire.SearchDecisions,
        target=target.value,
        subject=wire.Sought(who.type, who.id),
        resource=wire.Sought(what.type, what.id),
        action=wire.SoughtAction(action),
        context=_parse_object(context, "--context"),
        limit=limit,
        token=token,
    )
    page: Results = terminal.call("decision.search", request)
    rows = [
        (one.name or one.type, one.id, one.properties.get("spiffe_id", "")) for one in page.results
    ]
    columns = ("ACTION" if target is Wanted.ACTION else "TYPE", "ID", "SPIFFE ID")
    terminal.show(page, lambda: [make_table(columns, rows)] if rows else [])
    if page.page.next_token:
        terminal.say(f"There may be more: --token {page.page.next_token}")
    elif not rows:
        terminal.say("Nothing that fits is permitted now.")


@command(
    app,
    "ls",
    example="troth decision ls --denied --since 1h\n"
    "troth decision ls --subject payments --limit 20",
)
def ls(
    terminal: Terminal,
    subject: Annotated[str | None, typer.Option(help="Of this subject, by its id.")] = None,
    resource: Annotated[str | None, typer.Option(help="About this declared resource.")] = None,
    allowed: Annotated[
        bool | None, typer.Option("--allowed/--denied", help="Only permissions, or only denials.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="From then on: 10m, 1h, 7d or a time.", metavar="WHEN")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Up to then: likewise.", metavar="WHEN")] = None,
    oldest: Annotated[bool, typer.Option("--oldest", help="The oldest first.")] = False,
    limit: Annotated[
        int, typer.Option(help="So many at most.", min=1, max=1000, metavar="N")
    ] = 100,
) -> None:
    """List decisions that this server made, the newest first."""
    now = terminal.now()
    request = make_request(
        wire.ListDecisions,
        subject=subject,
        resource=resource,
        allowed=allowed,
        since=read_when(since, now, "--since"),
        until=read_when(until, now, "--until"),
        oldest=oldest,
        limit=limit,
    )
    page: wire.DecisionPage = terminal.call("decision.ls", request)
    rows = [
        (
            describe_moment(one.at, now),
            "permit" if one.allowed else "deny",
            f"{one.subject_type}:{one.subject}",
            one.action,
            f"{one.resource_type}:{one.resource_id}",
            " ".join(one.policies) or one.reason,
            one.id,
        )
        for one in page.items
    ]
    columns = ("WHEN", "ANSWER", "SUBJECT", "ACTION", "RESOURCE", "BECAUSE", "DECISION")
    terminal.show(page, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say("No such decision was made here.")
    elif page.next is not None:
        option = "--since" if oldest else "--until"
        terminal.say(f"There are more: {option} {page.next.isoformat()}")


@command(app, "show", example="troth decision show dec_5f3c01a2b3c4d5e6f7a8b9c0")
def show(
    terminal: Terminal,
    decision: Annotated[str, typer.Argument(help="Its id: dec_…", metavar="ID")],
) -> None:
    """Show one decision, what it was made from, and where it stands in the log."""
    found: wire.DecisionShown = terminal.call(
        "decision.show", make_request(wire.NameDecision, id=decision)
    )
    one, proof = found.decision, found.proof
    where = "in the open segment: to be proved within the hour"
    if proof is not None:
        where = f"segment {proof.segment}, entry {proof.index} of {proof.size}, root {proof.root}"
    sheet = [
        ("decision", one.id),
        ("answer", "permit" if one.allowed else "deny"),
        ("when", one.at.isoformat()),
        ("subject", f"{one.subject_type}:{one.subject}"),
        ("action", one.action),
        ("resource", f"{one.resource_type}:{one.resource_id} ({one.resource or 'undeclared'})"),
        ("because", " ".join(one.policies) or one.reason or "no rule permits it"),
        ("asked by", f"{one.caller} ({one.point}, {one.request_id})"),
        ("recorded", where),
    ]
    facts = [(name, msgspec.json.encode(value).decode()) for name, value in one.facts.items()]
    parts = (
        [make_sheet(sheet), make_table(("FACT", "VALUE"), facts)] if facts else [make_sheet(sheet)]
    )
    terminal.show(found, lambda: parts)


def _describe_verdict(verdict: Verdict) -> Any:
    context = verdict.context
    rows = [("answer", "permit" if verdict.decision else "deny"), ("decision", context.id)]
    if context.policies:
        rows.append(("because", " ".join(context.policies)))
    if context.reason:
        rows.append(("because", context.reason))
    if context.missing:
        rows.append(("missing", "; ".join(one.words for one in context.missing)))
    if context.advice is not None:
        rows.append(("advice", "obtain what is missing, then ask again"))
    return make_sheet(rows)


def _split_subject(text: str) -> Entity:
    type_, colon, id_ = text.partition(":")
    if not colon or text.startswith("spiffe://"):
        return Entity(IDENTITY, text)
    return Entity(type_, id_)


def _split_resource(text: str, properties: dict[str, Any] | None) -> Entity:
    type_, colon, id_ = text.partition(":")
    if not colon:
        raise typer.BadParameter("write it as TYPE:ID, such as ledger:2027.")
    return Entity(type_, id_, properties)


def _parse_object(text: str | None, option: str) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise typer.BadParameter("it must be a JSON object.", param_hint=option) from error
