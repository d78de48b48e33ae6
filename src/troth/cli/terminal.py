"""The terminal: results on standard output, messages on standard error, exit codes.

With --json the standard output holds one JSON document, or JSON Lines of a stream, and nothing
else; a failure is such a document too, so a reader never meets half an answer.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec
import typer

from troth.cli.options import Options
from troth.cli.words import clean_text
from troth.core.clock import Clock, SystemClock
from troth.core.errors import KINDS, NotFound, TrothError
from troth.wire.api.client import ApiClient, Unreachable
from troth.wire.api.faults import explain_fault

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

DONE = 0
WANTING = 1
WRONG_USAGE = 2
UNREACHABLE = 3

WIDE = 4096
"""Columns where there is no terminal: a table in a pipe is never cut."""

MAX_LINE = 200
"""The most characters of a cell's line on a terminal; a SPIFFE ID may have ten times as many."""

STYLES = {
    "active": "green",
    "ready": "green",
    "ok": "green",
    "add": "green",
    "change": "yellow",
    "proposed": "yellow",
    "suspended": "yellow",
    "warning": "yellow",
    "quarantined": "bold red",
    "locked": "bold red",
    "revoked": "red",
    "remove": "red",
    "error": "bold red",
    "wrong": "bold red",
    "retired": "dim",
}
"""Words that carry a colour wherever they stand alone in a cell."""

Request = TypeVar("Request", bound=msgspec.Struct)


@dataclass(slots=True)
class Terminal:
    """What a command writes to and asks: options, clock, server."""

    options: Options
    clock: Clock = field(default_factory=SystemClock)
    asks_server: bool = True
    """Whether what fails is a server's answer; the advice for one doesn't fit other causes."""

    @property
    def json(self) -> bool:
        """Whether the reader is a program."""
        return self.options.json

    def now(self) -> datetime:
        """The present, in UTC."""
        return self.clock.now()

    def connect(self) -> ApiClient:
        """A client of the server that the options name."""
        return self.options.connect()

    def call(self, name: str, request: msgspec.Struct) -> Any:
        """Carry out one operation of the server."""
        with self.connect() as client:
            return client.call(name, request)

    def show(self, value: Any, render: Callable[[], Iterable[RenderableType]]) -> None:
        """A command's one result: `value` as JSON, or what `render` makes of it for people."""
        if self.json:
            document = msgspec.json.format(msgspec.json.encode(value), indent=2)
            _write_out(document + b"\n")
            return
        console = self.open_console()
        for part in render():
            soft = isinstance(part, str)
            if console.is_terminal:
                console.print(part, soft_wrap=soft, markup=False, highlight=False)
                continue
            with console.capture() as captured:  # one long cell would fill every row with blanks
                console.print(part, soft_wrap=soft, markup=False, highlight=False)
            for line in captured.get().splitlines():
                console.file.write(f"{line.rstrip(' ')}\n")

    def write(self, document: bytes) -> None:
        """A command's one result in a form of its own, for a program that asked for that form."""
        _write_out(document)

    def show_line(self, value: Any, render: Callable[[], Text]) -> None:
        """One value of a stream, at once."""
        if self.json:
            _write_out(msgspec.json.encode(value) + b"\n")
            return
        self.open_console().print(render(), soft_wrap=True)

    def say(self, *messages: str, style: str = "") -> None:
        """Messages for people, on standard error."""
        console = self.open_console(stderr=True)
        for message in messages:
            console.print(message, style=style, soft_wrap=True, markup=False, highlight=False)

    def open_console(self, *, stderr: bool = False) -> Console:
        """Where to print; without colours and cuts unless it is a terminal."""
        from rich.console import Console

        stream = sys.stderr if stderr else sys.stdout
        return Console(file=stream, width=None if stream.isatty() else WIDE)

    def fail(self, error: TrothError, *, streaming: bool = False) -> NoReturn:
        """End with the error's exit code, its detail, and what to do next."""
        detail = clean_text(error.detail)
        if self.json:
            document = {"code": error.code, "detail": error.detail, "retryable": error.retryable}
            if isinstance(own := getattr(error, "error", None), str) and own:
                document["error"] = own  # the standard's code, of an OAuth refusal
            if streaming:
                document = {"message": "end", **document}
            _write_out(msgspec.json.encode(document) + b"\n")
        self.say(f"error: {detail}", style="red")
        for advice in self._advise(error):
            self.say(advice)
        raise typer.Exit(UNREACHABLE if isinstance(error, Unreachable) else WANTING)

    def _advise(self, error: TrothError) -> list[str]:
        if type(error) is Unreachable:
            if not self.options.uses_socket:
                return ["Start the server there, or correct --url or TROTH_URL."]
            return [
                f"Start a server with `troth up --data {self.options.data}`, name its data "
                "directory with --data or TROTH_DATA, or its address with --url or TROTH_URL."
            ]
        if not self.asks_server:
            return []
        if isinstance(error, NotFound):
            return _advise_absence(error.detail)
        known = type(error) in KINDS  # a more special kind has its advice in the detail
        return [ADVICE[error.code]] if known and error.code in ADVICE else []


ADVICE = {
    "unauthenticated": "Run it on the server's machine, where your uid is enough, or name "
    "yourself: `troth --url URL --cert FILE --key FILE …` at the mutual-TLS listener.",
    "permission_denied": "Ask an administrator for the role, or run the command as one.",
    "rate_limited": "Wait a moment and try again.",
    "unavailable": "Wait a moment and try again; `troth doctor` tells what is missing.",
    "internal": "The server's log has the reason; `troth doctor` may know more.",
}
"""Error code → what to do next, where the detail alone can't know it."""

LISTS = {
    "identity": "troth identity ls",
    "resource": "troth resource ls",
    "instance": "troth instance ls NAME",
    "certificate": "troth certificate ls NAME",
    "client secret": "troth client-secret ls",
    "signing authority": "troth authority ls",
    "node": "troth node ls",
}
"""Noun of what isn't there → the command that lists what is."""

_ABSENT = re.compile(rf"There is no ({'|'.join(LISTS)}) (?:with|named|['\"])")


def make_request(kind: type[Request], /, **fields: Any) -> Request:
    """A request whose bounds hold; a wrong field is wrong usage (exit code 2) and is never sent."""
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(explain_fault(str(error), kind)) from error


def _advise_absence(detail: str) -> list[str]:
    """Where to look for what isn't there, unless the detail says so itself."""
    if "`" in detail:
        return []
    if found := _ABSENT.match(detail):
        return [f"See what there is: `{LISTS[found[1]]}`."]
    if detail.startswith(("There is nothing at", "There is no operation")):
        return ["Correct --url or TROTH_URL, or use the `troth` of the server's version."]
    return []


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """A table without lines: readable by people, and by `awk` when there is no terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [_cut_cell(_clean_cell(cell)) for cell in row]
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in cells))
    return table


def make_sheet(fields: Iterable[tuple[str, object]]) -> RenderableType:
    """One thing's fields, one a line; fields without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    sheet = Table.grid(padding=(0, 2, 0, 0))
    sheet.add_column()
    sheet.add_column(overflow="fold")
    for name, value in fields:
        if (cell := _clean_cell(value)) not in ("", "None"):
            sheet.add_row(
                Text(clean_text(name), style="bold"), Text(cell, style=STYLES.get(cell, ""))
            )
    return sheet


def make_text(*parts: tuple[object, str] | object) -> Text:
    """A line of texts, each plain or with a style."""
    from rich.text import Text

    line = Text()
    for part in parts:
        words, style = part if isinstance(part, tuple) else (part, "")
        line.append(clean_text(words), style=style)
    return line


def _clean_cell(value: object) -> str:
    """A cell's text; a list has one item a line, and nothing else can break a line."""
    if isinstance(value, list | tuple):
        return "\n".join(map(clean_text, value))
    return clean_text(value)


def _cut_cell(text: str) -> str:
    """The cell bounded for a person; a program, or --json, gets it in full."""
    if not sys.stdout.isatty():
        return text
    lines = text.splitlines()
    return "\n".join(li if len(li) <= MAX_LINE else f"{li[: MAX_LINE - 1]}…" for li in lines)


def _write_out(data: bytes) -> None:
    """Bytes to standard output at once: a stream's reader waits for every line."""
    stream = sys.stdout
    binary = getattr(stream, "buffer", None)
    if binary is None:
        stream.write(data.decode())
    else:
        stream.flush()
        binary.write(data)
        binary.flush()
    stream.flush()


def is_interactive() -> bool:
    """Whether a person can answer questions here."""
    return sys.stdin.isatty() and sys.stderr.isatty() and "CI" not in os.environ
