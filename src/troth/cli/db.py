"""`troth db`: the state as a whole, looked after on the server's machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.terminal import Terminal, make_sheet
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy

if TYPE_CHECKING:
    from troth.server.config import Config
    from troth.server.upkeep import Copy

app = make_app("The state as a whole: move it, back it up, restore it. On the server's machine.")

DatabaseOption = Annotated[
    str | None,
    typer.Option(help="The database, without a password; default: as `troth up`.", metavar="URL"),
]
ConfigOption = Annotated[
    Path | None, typer.Option(help="Settings; default DATA/troth.toml.", metavar="FILE")
]
FileArgument = Annotated[Path, typer.Argument(help="A backup.", metavar="FILE")]


@command(
    app,
    "move",
    example="troth db move --from sqlite:////var/lib/troth/troth.db "
    "--to postgresql://troth@db.example.org/troth",
    local=True,
)
def move(
    terminal: Terminal,
    source: Annotated[str, typer.Option("--from", help="Where the state is now.", metavar="URL")],
    target: Annotated[
        str, typer.Option("--to", help="An empty database, for all of it.", metavar="URL")
    ],
    config: ConfigOption = None,
) -> None:
    """Copy the whole state into an empty database of any engine, all or nothing.

    Every server on it must be stopped, and none can start there until the copy is kept. Every table
    and the journal's order are compared afterwards; the source stays as it is. Passwords come from
    PGPASSFILE or PGPASSWORD.
    """
    from troth.server.upkeep import move_database

    urls = [_load(terminal, url, config).database for url in (source, target)]
    with _show_progress(terminal, "moving") as progress:
        copy = move_database(urls[0], urls[1], SystemClock(), progress)
    _show(terminal, copy, "moved")
    terminal.say(
        "Next: set database.url to the new URL, then `troth up`. Never start a server on the old "
        "database again: put it away once you are content.",
        "Keys that are files stay in DATA/keys; keys in the database went along.",
    )


@command(app, "backup", example="troth db backup --out /var/backups/troth", local=True)
def backup(
    terminal: Terminal,
    out: Annotated[
        Path, typer.Option(help="A new file, or a directory to make one in.", metavar="PATH")
    ],
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Write all of the state to one file, while the server runs.

    It holds the signing keys too, sealed, and never the key-encryption key: keep that elsewhere.
    """
    from troth.server.upkeep import back_up

    settings = _load(terminal, database, config)
    with _show_progress(terminal, "backing up") as progress:
        copy = back_up(settings, out, SystemClock(), SystemEntropy(), progress)
    _show(terminal, copy, "backed up")
    terminal.say(
        "Keep the key-encryption key too, in another place: without it no key in here opens."
    )


@command(app, "check", example="troth db check /var/backups/troth/FILE", local=True)
def check(terminal: Terminal, file: FileArgument) -> None:
    """Read a backup to its end and say whether it is whole."""
    from troth.server.upkeep import check_backup

    with _show_progress(terminal, "checking") as progress:
        copy = check_backup(file, progress)
    _show(terminal, copy, "whole")


@command(app, "restore", example="troth db restore /var/backups/troth/FILE", local=True)
def restore(
    terminal: Terminal,
    file: FileArgument,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Bring a backup back into an installation that has no state, on any engine.

    Join tokens and enrolment codes are void afterwards, and revocation lists are made anew.
    """
    from troth.server.upkeep import restore_backup

    settings = _load(terminal, database, config)
    with _show_progress(terminal, "restoring") as progress:
        copy = restore_backup(settings, file, SystemClock(), SystemEntropy(), progress)
    _show(terminal, copy, "restored")
    terminal.say(
        f"Next: put the key-encryption key in its place, then `troth up`. What was quarantined, "
        f"evicted or revoked after {copy.made_at:%Y-%m-%d %H:%M:%S} UTC is not known here: do it "
        "again, and rotate the authorities (docs/how-to/operations.md)."
    )


def _load(terminal: Terminal, database: str | None, config: Path | None) -> Config:
    from troth.server.config import InvalidArgument, load_config

    try:
        return load_config(
            data=terminal.options.data_dir,
            database=database,
            config_file=config,
            environ=os.environ,
        )
    except InvalidArgument as error:
        raise typer.BadParameter(error.detail) from error


def _show(terminal: Terminal, copy: Copy, verbed: str) -> None:
    terminal.show(
        copy,
        lambda: [
            make_sheet(
                [
                    (verbed, copy.file or copy.trust_domain),
                    ("as of", copy.made_at.isoformat()),
                    ("rows", sum(copy.rows.values())),
                    ("journal", f"{copy.journal_head} events, sha256 {copy.journal_sha256}"),
                    ("key files", copy.keys),
                ]
            )
        ],
    )


@contextmanager
def _show_progress(terminal: Terminal, what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each table on a terminal; nothing where nobody looks."""
    console = terminal.open_console(stderr=True)
    if terminal.json or not console.is_terminal:
        yield lambda table, done, total: None
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bars:
        shown = {"": bars.add_task(what, total=None)}

        def progress(table: str, done: int, total: int) -> None:
            if table not in shown:
                shown[table] = bars.add_task(f"  {table}", total=total)
            bars.update(shown[table], completed=done)

        yield progress
