"""`troth resource`: the APIs that access tokens are for, and how they are found."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from troth.cli.command import command, make_app
from troth.cli.identity import describe_duration_seconds
from troth.cli.options import CA_FILE
from troth.cli.terminal import Terminal, make_request, make_sheet, make_table
from troth.core.errors import Refused
from troth.issuance.accesstoken import LEEWAY
from troth.policy.resource import Binding, TokenFormat
from troth.wire.api import resources, status
from troth.wire.oauth.envoy import Protection, render_envoy
from troth.wire.oauth.protected import find_metadata_path, render_resource_metadata

app = make_app("The APIs that access tokens are for.")

NameArgument = Annotated[
    str, typer.Argument(help="The resource's name.", metavar="NAME", show_default=False)
]

ENVOY_WORDS = """\
Envoy in front of {name}, {identifier}. Each part goes where its name says:
  routes              into the virtual host, before all others
  http_filters        into the HttpConnectionManager, before all others
  local_reply_config  into the HttpConnectionManager
  clusters            into static_resources; {ca_file} must be readable there
{route_config}\
It lets nobody in without an access token for this resource. What it can't check:
  - whether a token, or who stands in it, was revoked or quarantined since it was issued:
    it is good until it ends, {ttl} at most
  - what the token permits: the application reads the scope
  - possession of a key: a token that is bound to one is refused"""
ROUTE_CONFIG = "  route_config        into the RouteConfiguration: the metadata are long\n"


@command(app, "ls", example="troth resource ls")
def ls(terminal: Terminal) -> None:
    """List resources: their audience, their actions, and what tokens for them are like.

    They come from manifests of kind Resource: see `troth apply --help`.
    """
    found = terminal.call("resource.ls", resources.ListResources())
    rows = [
        (item.name, item.identifiers[0], ", ".join(item.actions), ", ".join(item.servers),
         item.binding, describe_duration_seconds(item.ttl), item.owner)
        for item in found.items
    ]  # fmt: skip
    columns = ("NAME", "AUDIENCE", "ACTIONS", "SERVERS", "BINDING", "TOKENS", "OWNER")
    terminal.show(found, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say(
            "No resources. Describe one in a manifest of kind Resource and `troth apply FILE`."
        )


@command(app, "show", example="troth resource show ledger")
def show(terminal: Terminal, name: NameArgument) -> None:
    """Show one resource: identifiers, actions, who serves it, what its tokens are like."""
    view = _fetch(terminal, name)
    terminal.show(view, lambda: [make_sheet(_describe(view))])


@command(
    app,
    "metadata",
    example="troth resource metadata ledger\ntroth resource metadata ledger --envoy > ledger.yaml",
)
def metadata(
    terminal: Terminal,
    name: NameArgument,
    envoy: Annotated[
        bool,
        typer.Option(
            "--envoy", help="As configuration of an Envoy that serves it and asks for tokens."
        ),
    ] = False,
) -> None:
    """Print what the resource must serve about itself at its own origin (RFC 9728), as JSON.

    `troth.sdk` serves it by itself. With --envoy: YAML for an Envoy in front of anything else.
    """
    view = _fetch(terminal, name)
    issuer = terminal.call("status.show", status.GetStatus()).origin
    identifier = view.identifiers[0]
    path = find_metadata_path(identifier)
    document = render_resource_metadata(
        identifier,
        issuer,
        view.actions,
        mtls_only=view.binding == Binding.MTLS,
        dpop_only=view.binding == Binding.DPOP,
        name=view.name,
    )
    if envoy:
        _print_envoy(terminal, view, issuer, document)
        return
    terminal.show(document, lambda: [_render_json(document)])
    if not terminal.json:
        terminal.say(f"Serve it at {path} of {identifier}.")


def _fetch(terminal: Terminal, name: str) -> resources.ResourceView:
    request = make_request(resources.NameResource, name=name)
    view: resources.ResourceView = terminal.call("resource.show", request)
    return view


def _print_envoy(
    terminal: Terminal, view: resources.ResourceView, issuer: str, document: dict[str, Any]
) -> None:
    import yaml

    if view.binding != Binding.NONE or view.format != TokenFormat.JWT:
        why = (
            "whether who shows a token holds the key that it is bound to"
            if view.binding != Binding.NONE
            else "what an opaque token says"
        )
        raise Refused(f"Envoy can't check {why}: protect {view.name} with troth.sdk.")
    ca_file = str((terminal.options.ca_file or terminal.options.data / CA_FILE).absolute())
    leeway = int(LEEWAY.total_seconds())
    parts = render_envoy(Protection(document, issuer, ca_file, leeway))
    words = ENVOY_WORDS.format(
        name=view.name,
        identifier=view.identifiers[0],
        ca_file=ca_file,
        route_config=ROUTE_CONFIG if "route_config" in parts else "",
        ttl=describe_duration_seconds(view.ttl),
    )
    comment = "".join(f"# {line}".rstrip() + "\n" for line in words.splitlines())
    # The width keeps one value on one line: such files are compared line by line.
    text = yaml.safe_dump(parts, sort_keys=False, allow_unicode=True, width=10_000)
    terminal.show(parts, lambda: [comment + text])


def _render_json(document: dict[str, Any]) -> str:
    """For people too: JSON is what they asked for."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _describe(view: resources.ResourceView) -> list[tuple[str, object]]:
    """A resource's fields in words, most important first."""
    return [
        ("name", view.name),
        ("audience", view.identifiers[0]),
        ("also called", view.identifiers[1:]),
        ("owner", view.owner),
        ("purpose", view.purpose),
        ("actions", [f"{action}: {words}" for action, words in view.actions.items()]),
        ("served by", ", ".join(view.servers)),
        ("passes to", ", ".join(view.passes_to)),
        ("tokens", f"{view.format}, {view.algorithm}, {describe_duration_seconds(view.ttl)}"),
        ("tiers", _describe_tiers(view.ttls)),
        ("binding", view.binding),
        ("shares tokens with", ", ".join(view.shared_with)),
        ("labels", " ".join(f"{key}={value}" for key, value in sorted(view.labels.items()))),
        ("revision", view.revision),
    ]


def _describe_tiers(ttls: dict[str, int]) -> str:
    return ", ".join(f"{tier}: {describe_duration_seconds(ttl)}" for tier, ttl in ttls.items())
