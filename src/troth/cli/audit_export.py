"""`troth audit export`: what a search finds, all of it, as a file for other programs."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Annotated, Any

import msgspec
import typer

from troth.cli.audit_app import app
from troth.cli.audit_filters import (
    PAGE,
    OcsfOption,
    SinceOption,
    UntilOption,
    find_producer,
    read_pages,
    read_when,
    take_filters,
)
from troth.cli.command import command
from troth.cli.secrets import open_beside
from troth.cli.terminal import Terminal, make_request
from troth.cli.words import clean_text, count_noun
from troth.wire.api import auditsearch as wire

COLUMNS = {
    "at": "TIMESTAMPTZ",
    "kind": "VARCHAR",
    "id": "VARCHAR",
    "action": "VARCHAR",
    "outcome": "VARCHAR",
    "actor": "VARCHAR",
    "subject": "VARCHAR",
    "resource": "VARCHAR",
    "request_id": "VARCHAR",
    "source": "VARCHAR",
    "reason": "VARCHAR",
    "task": "VARCHAR",
    "redacted": "BOOLEAN",
    "detail": "JSON",
}
"""Of CSV and Parquet, with Parquet's types as DuckDB names them."""

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")
"""What a cell begins with that a spreadsheet takes for a formula (OWASP, "CSV Injection"; OWASP
ASVS 5.0, requirement 1.2.10): such a cell gets an apostrophe before it."""
_BEHIND = re.compile(f'(;"*)(?=[{re.escape("".join(FORMULAS))}])')
"""Where a spreadsheet begins a cell if its country writes commas in numbers: it separates cells by
semicolons then, and quotes within them count for nothing (also OWASP)."""


STANDARD_OUTPUT = "standard output"


class Form(StrEnum):
    """What is written."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


@command(
    app,
    "export",
    example="troth audit export --since 30d --format csv -o june.csv\n"
    "troth audit export --identity payments-api --since 7d --format parquet -o payments.parquet\n"
    "troth audit export --since 1d --format jsonl --ocsf -o - | gzip > events.jsonl.gz",
)
@take_filters
def export(
    terminal: Terminal,
    filters: dict[str, str],
    form: Annotated[Form, typer.Option("--format", help="JSON Lines, CSV or Parquet.")],
    out: Annotated[
        str,
        typer.Option("--out", "-o", help="To this file; - is standard output.", metavar="FILE"),
    ],
    since: SinceOption = None,
    until: UntilOption = None,
    ocsf: OcsfOption = False,
) -> None:
    """Write all events and decisions that a search finds to a file, the newest first.

    The file is there once it is whole, with mode 0600. In CSV a cell that a spreadsheet would take
    for a formula has an apostrophe before it, and so has what it would take for one behind a
    semicolon.
    """
    if ocsf and form is not Form.JSONL:
        raise typer.BadParameter("--ocsf is JSON Lines: leave it out, or take --format jsonl.")
    if form is Form.PARQUET and out == "-":
        raise typer.BadParameter("Parquet needs a file: give its name with -o.")
    now = terminal.now()
    asked = make_request(
        wire.SearchAudit,
        **filters,
        since=read_when(since, now, "--since"),
        until=read_when(until, now, "--until"),
        limit=PAGE,
    )
    render = find_producer(terminal) if ocsf else render_line
    write = {
        Form.JSONL: lambda records, file: write_lines(records, file, render),
        Form.CSV: write_csv,
        Form.PARQUET: write_parquet,
    }[form]
    count = _Count(terminal)
    with open_target(out) as file:
        write(count.read(asked), file)
    count.finish(STANDARD_OUTPUT if out == "-" else out)


class _Count:
    """How many were written; a person sees it grow."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._shown = sys.stderr.isatty() and not terminal.json
        self.records = 0
        self.notes: dict[str, None] = {}

    def read(self, asked: wire.SearchAudit) -> Iterator[wire.Record]:
        """All records, page by page."""
        with self._terminal.connect() as client:
            for page in read_pages(client, asked):
                yield from page.items
                self.records += len(page.items)
                self.notes |= dict.fromkeys(page.notes)
                if self._shown and page.items:
                    reached = f"{page.items[-1].at:%Y-%m-%d %H:%M}"
                    sys.stderr.write(f"\r{self.records} written, back to {reached}")
                    sys.stderr.flush()

    def finish(self, where: str) -> None:
        """Say what was written, and what couldn't be read."""
        if self._shown and self.records:
            sys.stderr.write("\n")
        if where != STANDARD_OUTPUT:
            written = {"file": where, "records": self.records, "notes": list(self.notes)}
            self._terminal.show(written, list)
        self._terminal.say(f"{count_noun(self.records, 'record')} written to {clean_text(where)}.")
        self._terminal.say(*map(clean_text, self.notes))
        if not self.records:
            self._terminal.say("Search further back, such as --since 30d, or with fewer filters.")


@contextmanager
def open_target(out: str) -> Iterator[IO[bytes]]:
    """Where to write; a file takes its name once all is written."""
    if out == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with open_beside(Path(out)) as file:
        yield file


def render_line(record: wire.Record) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(list_fields(record)) + b"\n"


def list_fields(record: wire.Record) -> dict[str, Any]:
    """A record's values by column."""
    return {name: getattr(record, name) for name in COLUMNS}


def write_lines(
    records: Iterable[wire.Record], file: IO[bytes], render: Callable[[wire.Record], bytes]
) -> None:
    """JSON Lines."""
    for record in records:
        file.write(render(record))


def write_csv(records: Iterable[wire.Record], file: IO[bytes]) -> None:
    """CSV as RFC 4180 has it: with a header, CRLF, and quotes where they are needed."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for record in records:
        values = list_fields(record)
        values["at"] = record.at.isoformat()
        values["redacted"] = "true" if record.redacted else "false"
        values["detail"] = msgspec.json.encode(record.detail).decode()
        writer.writerow([defuse_cell(value) for value in values.values()])
        if text.tell() > 1 << 20:
            _drain(text, file)
    _drain(text, file)


def _drain(text: io.StringIO, file: IO[bytes]) -> None:
    file.write(text.getvalue().encode())
    text.seek(0)
    text.truncate()


def defuse_cell(value: str) -> str:
    """The cell as no spreadsheet takes it for a formula."""
    value = _BEHIND.sub(r"\1'", value)
    return f"'{value}" if value.startswith(FORMULAS) else value


def write_parquet(records: Iterable[wire.Record], file: IO[bytes]) -> None:
    """Parquet with a column for each field; `detail` is JSON text."""
    import duckdb  # large, and needed here alone

    with TemporaryDirectory(prefix="troth-export-") as folder:
        lines, made = Path(folder) / "lines.jsonl", Path(folder) / "made.parquet"
        with lines.open("wb") as plain:
            write_lines(records, plain, render_line)
        offline: dict[str, Any] = {
            "autoinstall_known_extensions": "false",
            "temp_directory": folder,
        }
        with duckdb.connect(config=offline) as engine:
            found = engine.read_json(str(lines), columns=COLUMNS, format="newline_delimited")
            found.write_parquet(str(made), compression="zstd")
        with made.open("rb") as whole:
            while data := whole.read(1 << 20):
                file.write(data)
