"""`troth proxy`: proxies that ask about each request, so that no application must."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from troth.cli.command import command, make_app
from troth.cli.options import AGENT_SOCKET
from troth.cli.terminal import Terminal, make_request, make_sheet
from troth.core.errors import Invalid, Refused
from troth.sdk.following import SERVER_PATH
from troth.wire.api import enforcement, resources, status
from troth.wire.envoy import CONNECTION_SECONDS, Enforcer, render_enforcer
from troth.wire.recipes import Recipe, render_nginx, render_traefik

_PLAIN = re.compile(r"[A-Za-z0-9/.:_\[\]-]+")

app = make_app("Proxies that ask about each request.")

NameArgument = Annotated[
    str, typer.Argument(help="The resource's name.", metavar="NAME", show_default=False)
]
MutualOption = Annotated[
    str,
    typer.Option(
        "--mutual",
        help="The server's mutual-TLS listener, if it isn't one port above its origin.",
        metavar="HOST:PORT",
    ),
]

ENVOY_WORDS = """\
Envoy in front of {name}, which asks troth at {url} about each request.
Each part goes where its name says:
  transport_socket         into each filter chain of the listener
  http_connection_manager  its members into the HttpConnectionManager
  http_filters             into the HttpConnectionManager, before all others
  clusters                 into static_resources
The Envoy's own identity must stand under 'servers' of {name}: {servers}
A peer's certificate is looked at again after {seconds} s at the latest.
"""


@command(
    app,
    "envoy",
    example="troth proxy envoy ledger > ledger.yaml\n"
    "troth proxy envoy ledger --grpc troth.example.org:8445",
)
def envoy(
    terminal: Terminal,
    name: NameArgument,
    grpc: Annotated[
        str,
        typer.Option(
            "--grpc",
            help="Ask over gRPC: the address of the server's gRPC listener.",
            metavar="HOST:PORT",
        ),
    ] = "",
    mutual: MutualOption = "",
) -> None:
    """Print the parts of an Envoy's configuration that enforce what is declared, as YAML.

    Over HTTP it asks the mutual-TLS listener, with --grpc the listener of the setting
    envoy.grpc_listen.
    """
    import yaml

    view = _fetch_resource(terminal, name)
    about = terminal.call("status.show", status.GetStatus())
    url = f"https://{_check_address(grpc or mutual) or _guess_mutual(about.origin)}"
    socket = str((terminal.options.data / AGENT_SOCKET).absolute())
    server = f"spiffe://{about.trust_domain}{SERVER_PATH}"
    parts = render_enforcer(Enforcer(url, server, socket, bool(grpc)))
    words = ENVOY_WORDS.format(
        name=view.name,
        url=url,
        servers=", ".join(view.servers) or "there is none yet",
        seconds=CONNECTION_SECONDS,
    )
    comment = "".join(f"# {line}".rstrip() + "\n" for line in words.splitlines())
    text = yaml.safe_dump(parts, sort_keys=False, allow_unicode=True, width=10_000)
    terminal.show(parts, lambda: [comment + text])


FilesOption = Annotated[
    str,
    typer.Option("--files", help="The folder with the proxy's SVID as files.", metavar="DIR"),
]
UpstreamOption = Annotated[
    str, typer.Option("--upstream", help="Where the application is.", metavar="URL")
]


@command(app, "nginx", example="troth proxy nginx ledger > /etc/nginx/conf.d/ledger.conf")
def nginx(
    terminal: Terminal,
    name: NameArgument,
    files: FilesOption = "/etc/nginx/troth",
    upstream: UpstreamOption = "http://127.0.0.1:8080",
    mutual: MutualOption = "",
) -> None:
    """Print a server block for nginx, which asks by auth_request."""
    text = render_nginx(_write_recipe(terminal, name, files, upstream, mutual))
    terminal.show({"nginx": text}, lambda: [text])


@command(app, "traefik", example="troth proxy traefik ledger > /etc/traefik/dynamic/ledger.yaml")
def traefik(
    terminal: Terminal,
    name: NameArgument,
    files: FilesOption = "/etc/traefik/troth",
    upstream: UpstreamOption = "http://127.0.0.1:8080",
    mutual: MutualOption = "",
) -> None:
    """Print a dynamic configuration for Traefik, which asks by forwardAuth."""
    import yaml

    parts = render_traefik(_write_recipe(terminal, name, files, upstream, mutual))
    text = yaml.safe_dump(parts, sort_keys=False, allow_unicode=True, width=10_000)
    terminal.show(parts, lambda: [text])


def _write_recipe(terminal: Terminal, name: str, files: str, upstream: str, mutual: str) -> Recipe:
    if not _PLAIN.fullmatch(files) or not _PLAIN.fullmatch(upstream):
        raise Invalid("The folder and the URL may hold letters, digits and / . : _ - alone.")
    view = _fetch_resource(terminal, name)
    about = terminal.call("status.show", status.GetStatus())
    address = _check_address(mutual) or _guess_mutual(about.origin)
    return Recipe(view.name, view.hosts, address, files, upstream)


@command(
    app,
    "ask",
    example="troth proxy ask GET https://ledger.example.org/entries/7 --as "
    "spiffe://example.org/billing",
)
def ask(
    terminal: Terminal,
    method: Annotated[
        str, typer.Argument(help="The request's method.", metavar="METHOD", show_default=False)
    ],
    target: Annotated[
        str, typer.Argument(help="The request's URL.", metavar="URL", show_default=False)
    ],
    peer: Annotated[
        str, typer.Option("--as", help="Who sends it, by SPIFFE ID.", metavar="SPIFFE_ID")
    ] = "",
    ip: Annotated[str, typer.Option(help="Where it comes from.", metavar="ADDRESS")] = "",
) -> None:
    """Say whether a request would pass, and why not: what a proxy would be told.

    The answer is written down like any other.
    """
    place = urlsplit(target)
    if not place.netloc or place.scheme not in ("http", "https"):
        raise Invalid(f"{target!r} is no URL such as https://host/path.")
    path = target.split("/", 3)[3] if target.count("/") >= 3 else ""
    request = make_request(
        enforcement.EnforceDecision,
        method=method,
        host=place.netloc,
        path=f"/{path}",
        peer=peer,
        ip=ip,
        transport="mtls" if peer else "tls" if place.scheme == "https" else "plain",
    )
    found = terminal.call("decision.enforce", request)
    terminal.show(found, lambda: [make_sheet(_describe(found))])
    if not found.allowed:
        raise Refused(f"It would not pass: {found.detail or found.reason}")


def _describe(found: enforcement.EnforcedDecision) -> list[tuple[str, object]]:
    return [
        ("allowed", "yes" if found.allowed else "no"),
        ("resource", found.resource),
        ("action", found.action),
        ("id", found.id),
        ("subject", found.subject),
        ("status", found.status),
        ("reason", found.reason),
        ("decision", found.decision),
    ]


def _fetch_resource(terminal: Terminal, name: str) -> resources.ResourceView:
    view: resources.ResourceView = terminal.call(
        "resource.show", make_request(resources.NameResource, name=name)
    )
    if not view.routes:
        raise Refused(
            f"Resource {name} has no routes, so every request would be refused: say in its "
            "manifest which requests are which actions (spec.routes)."
        )
    return view


def _check_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if text and not (host and port.isdigit() and 0 < int(port) < 65_536):
        raise Invalid(f"{text!r} is not HOST:PORT, such as troth.example.org:8444.")
    return text


def _guess_mutual(origin: str) -> str:
    """One port above the origin, where the listener is unless it was set."""
    place: Any = urlsplit(origin)
    host = f"[{place.hostname}]" if ":" in (place.hostname or "") else place.hostname
    return f"{host}:{(place.port or 443) + 1}"
