"""`troth token`: with what a node joins."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.identity import require
from troth.cli.options import CA_FILE, Options
from troth.cli.terminal import Terminal, make_request
from troth.cli.words import describe_time, parse_duration
from troth.core.errors import Invalid
from troth.wire.api import nodes, status

app = make_app("Tokens with which nodes join, once each.")


@command(app, "join", example="troth token join --node web-1 --ttl 1h")
def join(
    terminal: Terminal,
    node: Annotated[str, typer.Option(help="The name that the node will have (required).")] = "",
    ttl: Annotated[str, typer.Option(help="How long the token may wait: 90s, 10m, 2h.")] = "10m",
) -> None:
    """Make a token with which one node joins, once. It is shown now and never again."""
    try:
        seconds = int(parse_duration(ttl).total_seconds())
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint="--ttl") from error
    request = make_request(
        nodes.CreateJoinToken,
        node=require(node, "--node", "what is the machine called?"),
        ttl=seconds,
    )
    made = terminal.call("token.join", request)
    terminal.show(made, lambda: [made.token])
    if not terminal.json:
        ends = describe_time(made.expires_at, terminal.now())
        terminal.say("", f"It works once, for the node {made.node}, and ends {ends}.", "")
        origin = terminal.call("status.show", status.GetStatus()).origin
        terminal.say(*describe_joining(terminal.options, origin))


def describe_joining(options: Options, url: str) -> list[str]:
    """What to do on the node, the exact command last; the token never stands in a command."""
    return [
        f"On that machine: put {options.ca_file or options.data / CA_FILE} of the server into",
        "ca.pem, the token into a file join-token that only the agent's user can read (in a",
        "command line every user of the machine would see it), and run",
        "",
        f"  troth agent --server {url} --ca ca.pem --join-token @join-token",
    ]
