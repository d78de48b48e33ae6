"""`troth node`: the machines that joined."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.identity import require
from troth.cli.terminal import Terminal, make_request, make_table
from troth.cli.words import describe_time
from troth.wire.api import nodes, readmission
from troth.wire.api.client import ApiClient

app = make_app("The machines that joined, and until when.")


def fetch_nodes(client: ApiClient) -> list[nodes.NodeView]:
    """All nodes, page by page."""
    items: list[nodes.NodeView] = []
    after: str | None = None
    while True:
        page = client.call("node.ls", nodes.ListNodes(after=after, limit=1000))
        items += page.items
        if page.next is None:
            return items
        after = page.next


@command(app, "ls", example="troth node ls\ntroth node ls --state active")
def ls(
    terminal: Terminal,
    state: Annotated[str | None, typer.Option(help="Only nodes in this state.")] = None,
) -> None:
    """List nodes: how each proved itself, until when, and when it was last heard of."""
    with terminal.connect() as client:
        items = fetch_nodes(client)
    items = [node for node in items if state in (None, node.state)]
    now = terminal.now()
    rows = [
        (
            node.name,
            f"{node.state}, being revoked" if node.revoking else node.state,
            node.attestation,
            describe_time(node.last_seen, now),
            describe_time(node.expires_at, now),
            node.spiffe_id,
        )
        for node in items
    ]
    columns = ("NAME", "STATE", "PROVED BY", "LAST SEEN", "EXPIRES", "SPIFFE ID")
    terminal.show(nodes.NodePage(items=items), lambda: [make_table(columns, rows)] if rows else [])
    if not items:
        terminal.say("No nodes. Make a token for one: `troth token join --node NAME`.")


@command(app, "evict", example="troth node evict web-1 --reason 'stolen disk'")
def evict(
    terminal: Terminal,
    name: Annotated[str, typer.Argument(help="The node's name.")],
    reason: Annotated[str, typer.Option(help="Why; the journal keeps it (required).")] = "",
) -> None:
    """End a node for good: its certificate and all that its workloads hold.

    It can come back only as a new node: with a new join token, or readmitted by its certificate.
    """
    request = make_request(
        nodes.EvictNode, name=name, reason=require(reason, "--reason", "why do you evict it?")
    )
    view = terminal.call("node.evict", request)
    terminal.show(view, lambda: [f"{view.name} is {view.state}"])
    if view.revoking:
        terminal.say(
            "The many certificates of its workloads are being revoked now: `troth node ls`."
        )
    again = f"troth token join --node {view.name}"
    if view.fingerprint is not None:
        again = f"troth node readmit {view.name} --reason TEXT"
    terminal.say(f"To let it join again: `{again}`.")


@command(app, "readmit", example="troth node readmit press-4 --reason 'disk replaced and wiped'")
def readmit(
    terminal: Terminal,
    name: Annotated[str, typer.Argument(help="The node's name.")],
    reason: Annotated[str, typer.Option(help="Why; the journal keeps it (required).")] = "",
) -> None:
    """Let a machine prove itself anew by a certificate: evicted, or with a new certificate."""
    request = make_request(
        readmission.ReadmitNode,
        name=name,
        reason=require(reason, "--reason", "why may it come back?"),
    )
    view = terminal.call("node.readmit", request)
    terminal.show(view, lambda: [f"{view.name} may prove itself anew"])
    terminal.say("It does so when its agent starts with --x509pop, or at its next try.")
