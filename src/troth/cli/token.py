"""`troth token`: with what a node joins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.identity import require
from troth.cli.options import CA_FILE, Options
from troth.cli.terminal import Terminal, make_request
from troth.cli.words import describe_time, parse_duration
from troth.core.errors import Invalid
from troth.wire.api import nodes

app = make_app("Tokens with which nodes join, once each.")

DEFAULT_URL = "https://localhost:8443"


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
    line = make_agent_line(terminal.options)
    terminal.show(made, lambda: [made.token])
    if not terminal.json:
        terminal.say(
            "",
            f"It works once, for the node {made.node}, and ends "
            f"{describe_time(made.expires_at, terminal.now())}.",
            "On that node, put it into a file that only the agent's user can read and run this; "
            "never write the token itself into a command, where every user of the machine sees it:",
            "",
            f"  {line}",
        )


def make_agent_line(options: Options) -> str:
    """The command that starts the agent with a token from a file."""
    url = options.url or DEFAULT_URL
    authority = options.ca_file or Path(options.data) / CA_FILE
    return f"troth agent --server {url} --ca {authority} --join-token @join-token"
