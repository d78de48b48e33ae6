"""What searches of the past have in common: options, times, how one thing is told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from troth.cli.terminal import Terminal, make_text
from troth.cli.words import parse_past
from troth.core.errors import Invalid
from troth.wire.api import auditsearch as wire
from troth.wire.api.client import ApiClient
from troth.wire.api.status import GetStatus, StatusView

if TYPE_CHECKING:
    from rich.text import Text

PAGE = 1000
ALARMING = ("quarantined", "revoked", "locked", "retired", "suspended", "forked", "disputed")


class Outcome(StrEnum):
    """How something ended."""

    SUCCESS = "success"
    FAILURE = "failure"


class Kind(StrEnum):
    """Where something is recorded."""

    EVENT = "event"
    DECISION = "decision"


IdentityOption = Annotated[
    str,
    typer.Option(
        help="Who did it, or whom it was done to: a name, a SPIFFE ID, or uid:1000.",
        metavar="WHO",
        show_default=False,
    ),
]
ResourceOption = Annotated[
    str,
    typer.Option(help="About this declared resource.", metavar="NAME", show_default=False),
]
ActionOption = Annotated[
    str,
    typer.Option(
        help="An event's type, or its beginning such as `token.`; or a decision's action.",
        metavar="ACTION",
        show_default=False,
    ),
]
OutcomeOption = Annotated[
    Outcome | None, typer.Option(help="How it ended; a denial is a failure.", show_default=False)
]
RequestOption = Annotated[
    str, typer.Option(help="Because of this request.", metavar="ID", show_default=False)
]
TaskOption = Annotated[
    str,
    typer.Option(help="Part of this transaction or grant.", metavar="ID", show_default=False),
]
TextOption = Annotated[
    str, typer.Option(help="With this text anywhere.", metavar="TEXT", show_default=False)
]
KindOption = Annotated[
    Kind | None, typer.Option(help="Only events, or only decisions.", show_default=False)
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        help="From then on: 2h, 3d, yesterday or a time (default: a day before --until).",
        metavar="WHEN",
        show_default=False,
    ),
]
UntilOption = Annotated[
    str | None,
    typer.Option(help="Up to then: likewise (default: now).", metavar="WHEN", show_default=False),
]
OPTIONS: Mapping[str, tuple[str, Any, Any]] = {
    "identity": ("identity", IdentityOption, ""),
    "resource": ("resource", ResourceOption, ""),
    "action": ("action", ActionOption, ""),
    "outcome": ("outcome", OutcomeOption, None),
    "request": ("request_id", RequestOption, ""),
    "task": ("task", TaskOption, ""),
    "text": ("text", TextOption, ""),
    "kind": ("kind", KindOption, None),
}
"""What narrows a search down, by the option's name: the field of a request, the option, and its
default."""
OcsfOption = Annotated[
    bool, typer.Option("--ocsf", help="As OCSF 1.5.0: one JSON object a line, for a SIEM.")
]


def take_filters(body: Callable[..., None]) -> Callable[..., None]:
    """Give a command all of `OPTIONS`. It takes what was given as its second argument: the fields
    of a request, by name."""
    kind = inspect.Parameter.KEYWORD_ONLY
    first, _, *own = inspect.signature(body, eval_str=True).parameters.values()

    @wraps(body)
    def run(terminal: Terminal, **arguments: Any) -> None:
        filters = {field: str(arguments.pop(name) or "") for name, (field, _, _) in OPTIONS.items()}
        body(terminal, filters, **arguments)

    options = [
        inspect.Parameter(name, kind, default=default, annotation=option)
        for name, (_, option, default) in OPTIONS.items()
    ]
    parameters = [first, *options, *(one.replace(kind=kind) for one in own)]
    # Those without a default stand first in help as they do in a call.
    parameters.sort(key=lambda one: one.default is not inspect.Parameter.empty)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def read_when(text: str | None, now: datetime, option: str) -> datetime | None:
    """A time that an option gives; wrong usage if it is none."""
    if text is None:
        return None
    try:
        return parse_past(text, now)
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint=option) from error


def read_pages(client: ApiClient, request: wire.SearchAudit) -> Iterator[wire.AuditPage]:
    """Page after page, each once it is wanted."""
    while True:
        page: wire.AuditPage = client.call("audit.search", request)
        yield page
        if page.next is None:
            return
        # The same period for all pages: a default would move on with the clock.
        request = msgspec.structs.replace(
            request, after=page.next, since=page.since, until=page.until
        )


def find_producer(terminal: Terminal) -> Callable[[wire.Record], bytes]:
    """How records are rendered as OCSF: for the server that has them."""
    from troth.wire.ocsf.render import Activity, Producer, render_activity

    status: StatusView = terminal.call("status.show", GetStatus())
    producer = Producer(status.trust_domain, status.version)

    def render(record: wire.Record) -> bytes:
        activity = Activity(**{name: getattr(record, name) for name in record.__struct_fields__})
        return msgspec.json.encode(render_activity(activity, producer)) + b"\n"

    return render


def describe_reason(record: wire.Record) -> str:
    """Why; of a decision the policies that determined it, if there is nothing else to say."""
    if record.reason or record.kind != Kind.DECISION:
        return record.reason
    policies = record.detail.get("policies")
    if isinstance(policies, list) and policies:
        return ", ".join(map(str, policies))
    return "" if record.outcome == Outcome.SUCCESS else "no rule permits it"


def describe_record(record: wire.Record) -> Text:
    """``time what: who, to whom, why`` on one line."""
    verb = record.action.rpartition(".")[2]
    failed = record.outcome == Outcome.FAILURE
    style = "bold red" if failed or verb in ALARMING else "bold"
    line = make_text((f"{record.at:%Y-%m-%d %H:%M:%S}", "dim"), " ", (record.action, style))
    if record.kind == Kind.DECISION:
        may = "may" if record.outcome == Outcome.SUCCESS else "may not"
        told: Any = (f" {record.subject} {may}", (f" (asked by {record.actor})", "dim"))
    else:
        told = (f" {record.subject}", (" by ", "dim"), record.actor)
    for part in told:
        line.append_text(make_text(part))
    if record.resource:
        line.append_text(make_text((" on ", "dim"), record.resource))
    if reason := describe_reason(record):
        line.append_text(make_text(f": {reason}"))
    line.append_text(make_text((f"  {record.id}", "dim")))
    return line
