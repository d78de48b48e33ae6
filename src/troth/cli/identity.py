"""`troth identity`: what workloads are, and their life cycle."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from troth.cli.command import command, make_app
from troth.cli.terminal import Terminal, make_request, make_sheet, make_table
from troth.cli.words import describe_duration, describe_moment, describe_time
from troth.cli.words import parse_duration as read_duration
from troth.cli.words import parse_moment as read_moment
from troth.core.errors import Invalid
from troth.wire.api import identities
from troth.wire.api.client import ApiClient

app = make_app("What workloads are, and their life cycle.")

NameArgument = Annotated[str, typer.Argument(help="The identity's name.", metavar="NAME")]
ReasonOption = Annotated[
    str, typer.Option(help="Why (required); the journal keeps it.", metavar="TEXT")
]


def fetch_identities(
    client: ApiClient, **filters: str | bool | None
) -> list[identities.IdentityView]:
    """All identities that fit the fields of `ListIdentities` in `filters`, page by page."""
    items: list[identities.IdentityView] = []
    after: str | None = None
    while True:
        request = make_request(identities.ListIdentities, **filters, after=after, limit=1000)
        page = client.call("identity.ls", request)
        items += page.items
        if page.next is None:
            return items
        after = page.next


@command(
    app,
    "ls",
    example="troth identity ls\ntroth identity ls --state quarantined\n"
    "troth identity ls --unattended",
)
def ls(
    terminal: Terminal,
    text: Annotated[str | None, typer.Argument(help="Part of a name.", metavar="TEXT")] = None,
    state: Annotated[str | None, typer.Option(help="proposed, active, suspended, …")] = None,
    kind: Annotated[str | None, typer.Option(help="service, job, device, …")] = None,
    template: Annotated[
        str | None, typer.Option(help="Only those that this template made.", metavar="NAME")
    ] = None,
    unattended: Annotated[
        bool, typer.Option("--unattended", help="Only those that nobody uses.")
    ] = False,
) -> None:
    """List identities: what they are, whose, and in which state.

    Unattended is what no running copy was seen of for 30 days, and what a template made whose
    workload stays away: that expires and is retired by itself.
    """
    with terminal.connect() as client:
        items = fetch_identities(
            client,
            state=state,
            kind=kind,
            text=text,
            template=template,
            unattended=unattended or None,
        )
    now = terminal.now()
    rows = [
        (item.name, item.kind, item.state, item.owner, describe_time(item.expires_at, now),
         item.spiffe_id)
        for item in items
    ]  # fmt: skip
    columns = ("NAME", "KIND", "STATE", "OWNER", "EXPIRES", "SPIFFE ID")
    page = identities.IdentityPage(items=items)
    terminal.show(page, lambda: [make_table(columns, rows)] if rows else [])
    if not items and (text or state or kind or template or unattended):
        terminal.say("No identity fits; see all of them with `troth identity ls`.")
    elif not items:
        terminal.say(
            "No identities yet. Describe one in a file and `troth apply FILE`, or see "
            "`troth identity register --help`."
        )


@command(app, "show", example="troth identity show payments-api")
def show(terminal: Terminal, name: NameArgument) -> None:
    """Show everything about one identity."""
    view = terminal.call("identity.show", make_request(identities.NameIdentity, name=name))
    terminal.show(view, lambda: [make_sheet(describe_identity(view, terminal.now()))])


def describe_identity(view: identities.IdentityView, now: datetime) -> list[tuple[str, object]]:
    """An identity's fields in words, most important first."""
    reason = f" ({view.state_reason})" if view.state_reason else ""
    none = "none: no process can obtain it"
    return [
        ("name", view.name),
        ("SPIFFE ID", view.spiffe_id),
        ("state", f"{view.state}{reason}{', being revoked' if view.revoking else ''}"),
        ("kind", view.kind),
        ("owner", view.owner),
        ("purpose", view.purpose),
        ("environment", view.environment),
        ("labels", " ".join(f"{key}={value}" for key, value in sorted(view.labels.items()))),
        ("selectors", view.selectors or none),
        ("nodes", ", ".join(view.nodes)),
        ("DNS names", ", ".join(view.dns_names)),
        ("X.509 lifetime", describe_duration_seconds(view.x509_ttl)),
        ("JWT lifetime", describe_duration_seconds(view.jwt_ttl)),
        ("hint", view.hint),
        ("expires", describe_moment(view.expires_at, now)),
        ("last seen", describe_time(view.last_seen, now)),
        ("instances", view.instances),
        ("template", view.template),
        ("managed", _describe_management(view)),
        ("registered", describe_moment(view.created_at, now)),
        ("changed", f"{describe_moment(view.updated_at, now)}, revision {view.revision}"),
        ("id", view.id),
    ]


def _describe_management(view: identities.IdentityView) -> str:
    if view.template:
        return "by its template, for as long as its workload is seen"
    return "by manifests" if view.managed else "by hand"


@command(
    app,
    "register",
    example="troth identity register payments-api --owner team-pay \\\n"
    "  --purpose 'takes payments' --selector unix:uid:1001 --activate",
)
def register(
    terminal: Terminal,
    name: NameArgument,
    owner: Annotated[str, typer.Option(help="Who answers for it (required).")] = "",
    purpose: Annotated[str, typer.Option(help="What it is for (required).")] = "",
    kind: Annotated[
        str, typer.Option(help="service, job, device, pipeline, agent or bot.")
    ] = "service",
    selector: Annotated[
        list[str] | None, typer.Option(help="What a process must prove, e.g. unix:uid:1001; again.")
    ] = None,
    node: Annotated[list[str] | None, typer.Option(help="Where it may run; again.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; again for more.")] = None,
    dns_name: Annotated[list[str] | None, typer.Option(help="A DNS name in its SVIDs.")] = None,
    environment: Annotated[str | None, typer.Option(help="Such as prod.")] = None,
    path: Annotated[str | None, typer.Option(help="The SPIFFE ID's path; default /NAME.")] = None,
    hint: Annotated[str | None, typer.Option(help="Tells a workload which SVID is which.")] = None,
    x509_ttl: Annotated[str | None, typer.Option(help="Lifetime of SVIDs, e.g. 1h.")] = None,
    jwt_ttl: Annotated[str | None, typer.Option(help="Lifetime of JWT-SVIDs, e.g. 5m.")] = None,
    expires: Annotated[str | None, typer.Option(help="2027-06-30, or 90d from now.")] = None,
    activate: Annotated[bool, typer.Option("--activate", help="Let it work at once.")] = False,
) -> None:
    """Register an identity by hand; it waits as `proposed` unless --activate is given.

    What is meant to last is better kept in a manifest: see `troth apply --help`.
    """
    request = make_request(
        identities.RegisterIdentity,
        name=name,
        kind=kind,
        owner=require(owner, "--owner", "who answers for this identity?"),
        purpose=require(purpose, "--purpose", "what is this identity for?"),
        environment=environment,
        path=path,
        labels=_split_labels(label or []),
        selectors=selector or [],
        nodes=node or None,
        dns_names=dns_name or [],
        x509_ttl=_read_seconds(x509_ttl, "--x509-ttl"),
        jwt_ttl=_read_seconds(jwt_ttl, "--jwt-ttl"),
        hint=hint,
        expires_at=_read_expiry(expires, terminal.now()),
        activate=activate,
    )
    view = terminal.call("identity.register", request)
    terminal.show(view, lambda: [f"{view.name} is {view.state}: {view.spiffe_id}"])
    if view.state == "proposed":
        terminal.say(f"Let it work: `troth identity activate {view.name} --reason TEXT`.")
    elif not view.selectors and view.kind == "device":
        terminal.say(f"A device enrols with a code: `troth device invite {view.name}`.")
    elif not view.selectors:
        terminal.say("It has no selectors, so no process can obtain it from an agent yet.")


def require(value: str, option: str, question: str) -> str:
    """`value`, or wrong usage that says what to add."""
    if not value.strip():
        raise typer.BadParameter(f"it is missing: {question} Add {option} TEXT.", param_hint=option)
    return value


def describe_duration_seconds(seconds: int) -> str:
    """A number of seconds in words."""
    return describe_duration(read_duration(str(seconds)))


def _split_labels(labels: list[str]) -> dict[str, str]:
    pairs = [label.partition("=") for label in labels]
    if wrong := [key for key, equals, _ in pairs if not equals or not key]:
        raise typer.BadParameter(f"{wrong[0]!r} isn't KEY=VALUE.", param_hint="--label")
    return {key: value for key, _, value in pairs}


def _read_seconds(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    try:
        return int(read_duration(text).total_seconds())
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint=option) from error


def _read_expiry(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    try:
        return read_moment(text, now)
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint="--expires") from error


MOVES = {
    "activate": ("Let a proposed identity obtain credentials.", "reviewed by the owner", ""),
    "suspend": (
        "Stop issuance and revoke what an active identity holds, for a time.",
        "maintenance until Monday",
        "Back to work: `troth identity resume {name} --reason TEXT`.",
    ),
    "resume": ("Let a suspended identity obtain credentials again.", "maintenance is over", ""),
    "quarantine": (
        "Cut an identity off everywhere, at once.",
        "incident 42",
        "When it is clean: `troth identity release {name} --reason TEXT`.",
    ),
    "release": ("Let a quarantined identity work again, with new credentials.", "clean again", ""),
    "retire": ("End an identity for good; nothing brings it back.", "replaced by orders-v2", ""),
}
"""verb → help, a reason for the example, and what can follow."""


def _add_move(verb: str, purpose: str, reason: str, next_step: str) -> None:
    def move(terminal: Terminal, name: NameArgument, reason: ReasonOption = "") -> None:
        request = make_request(
            identities.MoveIdentity,
            name=name,
            reason=require(reason, "--reason", f"why do you {verb} it?"),
        )
        view: Any = terminal.call(f"identity.{verb}", request)
        terminal.show(view, lambda: [f"{view.name} is {view.state}"])
        if view.revoking:
            terminal.say("Its many certificates are being revoked now: `troth identity show`.")
        if next_step:
            terminal.say(next_step.format(name=view.name))

    move.__doc__ = purpose
    register_move: Callable[..., Any] = command(
        app, verb, example=f"troth identity {verb} payments-api --reason '{reason}'"
    )
    register_move(move)


for _verb, _words in MOVES.items():
    _add_move(_verb, *_words)
