"""`troth ps` and `troth top`: what is there now, once and live.

Both stay small however many identities there are: a page of those that matter, and how many more.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from troth.cli.command import command, make_app
from troth.cli.rates import Rate, compare_looks
from troth.cli.terminal import Terminal, make_request, make_table, make_text
from troth.cli.words import count_noun, describe_time
from troth.core.errors import TrothError
from troth.wire.api import identities, status
from troth.wire.api.client import ApiClient

if TYPE_CHECKING:
    from rich.console import RenderableType

app = make_app("What is there now.")

PERIOD_SECONDS = 1.0
COLUMNS = ("NAME", "KIND", "STATE", "OWNER", "INSTANCES", "LAST SEEN", "EXPIRES")
RATE_COLUMNS = ("OPERATION", "CALLS/S", "REFUSED/S", "FAILED/S", "MEDIAN", "99 %")
SHOWN = 100
"""Identities that a person is shown, unless they ask for more."""
PAGE = 1000
RATES = 8
FINDINGS = 5
FRAME = 8
"""Lines of the screen that hold neither identities, operations nor findings."""
LEAST = 5

LimitOption = Annotated[int | None, typer.Option("--limit", "-n", help="At most so many.", min=1)]


@command(app, "ps", example="troth ps\ntroth ps --limit 1000\ntroth ps --all --json")
def ps(
    terminal: Terminal,
    all: Annotated[bool, typer.Option("--all", "-a", help="Retired ones too.")] = False,
    limit: LimitOption = None,
) -> None:
    """List identities: kind, state, owner, running copies, when each was last seen.

    People see 100 of them, programs (--json) all, unless --limit says otherwise.
    """
    most = limit or (None if terminal.json else SHOWN)
    with terminal.connect() as client:
        found = _fetch(client, most, retired=all)
        total = _count(client, retired=all) if found.next is not None else None
    terminal.show(
        found,
        lambda: [make_identity_table(found.items, terminal.now())] if found.items else [],
    )
    if found.next is not None:
        more = "" if total is None else f" {max(1, total - len(found.items))}"
        terminal.say(
            f"… and{more} more: `troth ps --limit N`, or `troth identity ls TEXT` to look for some."
        )
    if not found.items:
        _say_none(terminal, all)


def _fetch(client: ApiClient, most: int | None, *, retired: bool) -> identities.IdentityPage:
    """At most `most` identities by name; `next` is None if these are all."""
    items: list[identities.IdentityView] = []
    after: str | None = None
    while True:
        size = PAGE if most is None else min(PAGE, most - len(items))
        request = make_request(
            identities.ListIdentities, after=after, limit=size, living=not retired
        )
        page = client.call("identity.ls", request)
        items += [item for item in page.items if retired or item.state != "retired"]
        after = page.next
        if after is None or (most is not None and len(items) >= most):
            return identities.IdentityPage(items=items, next=after)


def _count(client: ApiClient, *, retired: bool) -> int | None:
    try:
        view: status.StatusView = client.call("status.show", status.GetStatus())
    except TrothError:
        return None  # "and more" is true without a number
    counts: dict[str, int] = view.identities
    return sum(n for state, n in counts.items() if retired or state != "retired")


def _say_none(terminal: Terminal, retired: bool) -> None:
    if not retired:
        with terminal.connect() as client:
            gone = client.call("identity.ls", make_request(identities.ListIdentities, limit=1))
        if gone.items:
            terminal.say("All identities are retired: `troth ps --all`.")
            return
    terminal.say("No identities yet. Describe one in a file and `troth apply FILE`.")


@command(
    app, "top", example="troth top\ntroth top --once\ntroth top --json --limit 20", streaming=True
)
def top(
    terminal: Terminal,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
    limit: LimitOption = None,
) -> None:
    """What the server does, live: operations, findings, identities; each second until Ctrl-C.

    Identities that are cut off come first, then those seen last, as many as fit the screen.
    With --json each look is one line of JSON: {"status": …, "identities": […], "rates": […]}.
    """
    with terminal.connect() as client:
        looks = _Looks(terminal, client, limit)
        if terminal.json or once:
            _print_looks(terminal, looks, once)
        else:
            _paint_looks(terminal, looks)


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


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found."""

    view: status.StatusView
    items: list[identities.IdentityView]
    rates: list[Rate]


class _Looks:
    """Looks at one server, each compared with the one before. Each costs two small calls."""

    def __init__(self, terminal: Terminal, client: ApiClient, limit: int | None) -> None:
        self._terminal = terminal
        self._client = client
        self._limit = limit
        self._before: tuple[float, status.StatusView] | None = None

    def take(self, height: int | None) -> Look:
        """Look; `height` is the screen's, where there is one."""
        view = self._client.call("status.show", status.GetStatus())
        at = self._terminal.clock.monotonic()
        if self._before is None:
            since = (self._terminal.now() - view.started_at).total_seconds()
            rates = compare_looks(None, view, since)
        else:
            rates = compare_looks(self._before[1], view, at - self._before[0])
        self._before = (at, view)
        most = self._limit or SHOWN
        if height is not None:
            taken = FRAME + min(len(rates), RATES) + min(len(view.findings), FINDINGS)
            most = min(most, max(LEAST, height - taken))
        request = make_request(
            identities.ListIdentities, limit=min(most, PAGE), living=True, order="attention"
        )
        items = self._client.call("identity.ls", request).items
        return Look(view, [item for item in items if item.state != "retired"], rates)


def _print_looks(terminal: Terminal, looks: _Looks, once: bool) -> None:
    try:
        while True:
            look = looks.take(None)
            value: dict[str, Any] = {
                "status": look.view,
                "identities": look.items,
                "rates": look.rates,
            }
            if terminal.json:
                terminal.show_line(value, make_text)
            else:
                terminal.show(value, partial(_render, look, terminal.now()))
            if once:
                return
            threading.Event().wait(PERIOD_SECONDS)
    except KeyboardInterrupt:
        return


def _paint_looks(terminal: Terminal, looks: _Looks) -> None:
    from rich.console import Group
    from rich.live import Live

    console = terminal.open_console()
    full_screen = console.is_terminal
    try:
        with Live(console=console, screen=full_screen, auto_refresh=False) as live:
            while True:
                look = looks.take(console.height if full_screen else None)
                live.update(Group(*_render(look, terminal.now())), refresh=True)
                threading.Event().wait(PERIOD_SECONDS)
    except KeyboardInterrupt:
        return


def _render(look: Look, now: datetime) -> list[RenderableType]:
    view = look.view
    counted = sorted(view.identities.items())
    states = ", ".join(f"{count} {state}" for state, count in counted if count)
    silent = f" ({view.nodes_silent} silent)" if view.nodes_silent else ""
    parts: list[RenderableType] = [
        make_text(
            (view.trust_domain, "bold"),
            " is ",
            ("ready", "green") if view.ready else ("not ready", "bold red"),
            f", started {describe_time(view.started_at, now)}"
            f" · troth {view.version} · {count_noun(view.nodes, 'node')}{silent}"
            f" · {states or 'no identities'}",
        ),
        make_text(
            f"journal {view.journal_head}, {view.waiting} to be sealed, "
            f"{max(0, view.journal_head - view.epoch)} to be taken in; last heard "
            f"{view.silence:.1f} s ago",
            f" of a lease of {view.lease:.0f} s" if view.lease else "",
        ),
    ]
    parts += [make_text((f"! {finding}", "yellow")) for finding in view.findings[:FINDINGS]]
    if len(view.findings) > FINDINGS:
        parts.append(make_text(f"… and {len(view.findings) - FINDINGS} more: `troth doctor`"))
    parts.append(make_text(""))
    if look.rates:
        parts += [make_rate_table(look.rates[:RATES]), make_text("")]
    if not look.items:
        parts.append(make_text("No identities yet. Describe one in a file and `troth apply FILE`."))
        return parts
    parts.append(make_identity_table(look.items, now))
    living = sum(count for state, count in counted if state != "retired")
    if living > len(look.items):
        parts.append(make_text(f"… and {living - len(look.items)} more: `troth ps`"))
    return parts


def make_rate_table(rates: list[Rate]) -> RenderableType:
    """Operations as a table."""
    rows = [
        (rate.name, f"{rate.calls:.1f}", f"{rate.refused:.1f}", f"{rate.failed:.1f}",
         _describe_seconds(rate.median), _describe_seconds(rate.slowest))
        for rate in rates
    ]  # fmt: skip
    return make_table(RATE_COLUMNS, rows)


def _describe_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds == float("inf"):
        return "> 10 s"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
