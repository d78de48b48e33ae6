"""`troth ps` and `troth top`: what is there now, once and live."""

from __future__ import annotations

import threading
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from troth.cli.command import command, make_app
from troth.cli.identity import fetch_identities
from troth.cli.terminal import Terminal, make_table, make_text
from troth.cli.words import count_noun, describe_time
from troth.wire.api import identities, status
from troth.wire.api.client import ApiClient

if TYPE_CHECKING:
    from rich.console import RenderableType

app = make_app("What is there now.")

PERIOD_SECONDS = 1.0
COLUMNS = ("NAME", "KIND", "STATE", "OWNER", "INSTANCES", "LAST SEEN", "EXPIRES")


@command(app, "ps", example="troth ps\ntroth ps --all --json")
def ps(
    terminal: Terminal,
    all: Annotated[bool, typer.Option("--all", "-a", help="Retired ones too.")] = False,
) -> None:
    """List identities: kind, state, owner, running copies, when each was last seen."""
    with terminal.connect() as client:
        items = fetch_identities(client)
    shown = [item for item in items if all or item.state != "retired"]
    page = identities.IdentityPage(items=shown)
    terminal.show(page, lambda: [make_identity_table(shown, terminal.now())] if shown else [])
    if not items:
        terminal.say("No identities yet. Describe one in a file and `troth apply FILE`.")
    elif not shown:
        terminal.say(f"{count_noun(len(items), 'identity')}, all retired: `troth ps --all`.")


@command(app, "top", example="troth top\ntroth top --once", streaming=True)
def top(
    terminal: Terminal,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
) -> None:
    """The same as `ps`, live: looks each second until Ctrl-C.

    With --json each look is one line of JSON: {"status": …, "identities": […]}.
    """
    with terminal.connect() as client:
        if terminal.json or once:
            _print_looks(terminal, client, once)
        else:
            _paint_looks(terminal, client)


def make_identity_table(items: list[identities.IdentityView], now: datetime) -> RenderableType:
    """Identities as a table."""
    rows: list[tuple[object, ...]] = [
        (item.name, item.kind, item.state, item.owner, item.instances,
         describe_time(item.last_seen, now), describe_time(item.expires_at, now))
        for item in items
    ]  # fmt: skip
    if not any(item.template for item in items):
        return make_table(COLUMNS, rows)
    made = [(*row, item.template or "–") for row, item in zip(rows, items, strict=True)]
    return make_table((*COLUMNS, "TEMPLATE"), made)


def _look(client: ApiClient) -> tuple[status.StatusView, list[identities.IdentityView]]:
    view = client.call("status.show", status.GetStatus())
    return view, [item for item in fetch_identities(client) if item.state != "retired"]


def _print_looks(terminal: Terminal, client: ApiClient, once: bool) -> None:
    try:
        while True:
            view, items = _look(client)
            value: dict[str, Any] = {"status": view, "identities": items}
            if terminal.json:
                terminal.show_line(value, make_text)
            else:
                terminal.show(value, partial(_render, view, items, terminal.now()))
            if once:
                return
            threading.Event().wait(PERIOD_SECONDS)
    except KeyboardInterrupt:
        return


def _paint_looks(terminal: Terminal, client: ApiClient) -> None:
    from rich.console import Group
    from rich.live import Live

    console = terminal.open_console()
    full_screen = console.is_terminal
    try:
        with Live(console=console, screen=full_screen, auto_refresh=False) as live:
            while True:
                view, items = _look(client)
                live.update(Group(*_render(view, items, terminal.now())), refresh=True)
                threading.Event().wait(PERIOD_SECONDS)
    except KeyboardInterrupt:
        return


def _render(
    view: status.StatusView, items: list[identities.IdentityView], now: datetime
) -> list[RenderableType]:
    counted = sorted(view.identities.items())
    states = ", ".join(f"{count} {state}" for state, count in counted if count)
    parts: list[RenderableType] = [
        make_text(
            (view.trust_domain, "bold"),
            " is ",
            ("ready", "green") if view.ready else ("not ready", "bold red"),
            f", started {describe_time(view.started_at, now)}"
            f" · troth {view.version} · {count_noun(view.nodes, 'node')}"
            f" · journal {view.journal_head} · {states or 'no identities'}",
        )
    ]
    parts += [make_text((f"! {finding}", "yellow")) for finding in view.findings]
    parts.append(make_text(""))
    parts.append(
        make_identity_table(items, now)
        if items
        else make_text("No identities yet. Describe one in a file and `troth apply FILE`.")
    )
    return parts
