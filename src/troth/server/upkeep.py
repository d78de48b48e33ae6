"""Upkeep of the state without a server: moving it to another engine, backup and restore."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from troth.archive.place import open_place
from troth.archive.tiles import LogFolder
from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Conflict, Invalid, Refused
from troth.drivers.durability import sync_directory
from troth.drivers.keystores.file import Folder, open_folder
from troth.drivers.keystores.sealed import SEAL, Shelf, list_names, may_hold
from troth.operations.restoration import settle_restored
from troth.server.config import Config
from troth.server.installation import claim_directory, prepare_directories
from troth.server.keyring import has_files
from troth.store.copies import (
    Load,
    Progress,
    check_frames,
    export_database,
    import_frames,
    open_source,
)
from troth.store.engine import Transaction, open_database
from troth.store.sealer import put_back_lost
from troth.wire.backup import Frame, SealedKey, parse_backup, render_backup

SUFFIX = ".troth-backup"


@dataclass(frozen=True, slots=True)
class Copy:
    """What was copied: as of when, how many rows of each table, and the journal in its order.

    `keys` counts sealed files of the file keystore that went along.
    """

    trust_domain: str
    made_at: datetime
    schema: str
    rows: dict[str, int]
    journal_head: int
    journal_sha256: str
    keys: int
    file: str | None = None


def move_database(source: str, target: str, clock: Clock, progress: Progress) -> Copy:
    """Copy the database at URL `source` into the empty one at `target`; all or nothing.

    The source stays as it is, and no server can use it until the copy is kept. Raises `Refused` if
    one does, at the beginning or at the end, `Conflict` if the target isn't empty.
    """
    with open_source(open_database(source), alone=True) as held:
        frames = held.export(clock.now(), lambda: ())
        with closing(frames):
            load = import_frames(
                open_database(target), frames, progress, lambda tx, load: held.check_alone()
            )
        return _describe(load)


def back_up(config: Config, out: Path, clock: Clock, entropy: Entropy, progress: Progress) -> Copy:
    """Write a backup of the state to `out`, a new file or a directory to make one in.

    A server may be at work: it is the state of one moment. The key-encryption key isn't in it.
    """
    now = clock.now()
    if out.is_dir():
        out = out / f"{config.trust_domain}-{now:%Y%m%dT%H%M%SZ}{SUFFIX}"
    folder = Folder(config.data / "keys", entropy)
    by_files = has_files(config) and config.keystore.driver in ("auto", "file")
    frames = export_database(
        open_database(config.database), now, lambda: _read_keys(folder) if by_files else ()
    )
    load = Load(progress)

    def pass_on() -> Iterator[Frame]:
        for frame in frames:
            load.take(frame)
            yield frame

    with closing(frames):
        _write_new(out, render_backup(pass_on()), entropy)
    return _describe(load, out)


def check_backup(path: Path, progress: Progress) -> Copy:
    """Read a backup to its end and compare every sum; `Invalid` if it is damaged."""
    with _open_private(path) as file:
        load = check_frames(parse_backup(file.read), progress)
    for key in load.keys:
        _check_key(key)
    return _describe(load, path)


def restore_backup(
    config: Config, path: Path, clock: Clock, entropy: Entropy, progress: Progress
) -> Copy:
    """Bring a backup back into an installation that has no state yet.

    Raises `Conflict` if there is state, or keys of another installation, or a server.
    """
    prepare_directories(config)
    lock = claim_directory(config.data)
    folder = open_folder(config.data / "keys", entropy)

    def finish(tx: Transaction, load: Load) -> None:
        opening, _ = load.finish()
        for key in load.keys:
            _put_key(folder, key)
        if (memory := _open_log(config)) is not None:
            put_back_lost(tx, memory, clock.now())
        settle_restored(tx, opening.made_at, opening.head, clock.now())

    try:
        with _open_private(path) as file:
            frames = parse_backup(file.read)
            load = import_frames(open_database(config.database), frames, progress, finish)
            return _describe(load, path)
    finally:
        os.close(lock)


def _open_log(config: Config) -> LogFolder | None:
    """The log that goes on from the backup, if it is there: what it has and the backup lacks must
    keep its place in the journal."""
    place = config.audit.place
    if "://" not in place and not Path(place).exists():
        return None
    return LogFolder(open_place(place))


def _describe(load: Load, path: Path | None = None) -> Copy:
    opening, end = load.finish()
    return Copy(
        trust_domain=opening.trust_domain,
        made_at=opening.made_at,
        schema=opening.schema,
        rows={name: found.count for name, found in load.sums.items()},
        journal_head=opening.head,
        journal_sha256=end.journal.sha256,
        keys=sum(key.name != SEAL for key in load.keys),
        file=None if path is None else str(path),
    )


def _read_keys(shelf: Shelf) -> Iterable[SealedKey]:
    for name in list_names(shelf):
        content = shelf.get(name)
        if content is not None:  # erased meanwhile: its authority is over
            yield SealedKey(name=name, content=content)


def _check_key(key: SealedKey) -> None:
    if not may_hold(key.name, key.content):
        raise Invalid("The backup is damaged: it holds a key that is none. Use another one.")


def _put_key(shelf: Shelf, key: SealedKey) -> None:
    _check_key(key)
    try:
        shelf.put(key.name, key.content)
    except Conflict:
        if shelf.get(key.name) != key.content:
            raise Conflict(
                f"{shelf.describe(key.name)} belongs to another installation. Restore into a data "
                "directory of its own."
            ) from None


@contextmanager
def _open_private(path: Path) -> Iterator[BinaryIO]:
    """A backup to be read; `Refused` for one that others could have changed."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise Refused(
                f"Others may write {path}, and what it says becomes the truth. If you know that it "
                "is sound: chown it to yourself, and chmod 600."
            )
        yield file


def _write_new(path: Path, pieces: Iterable[bytes], entropy: Entropy) -> None:
    """All or nothing, mode 0600, and never over an existing file."""
    draft = path.with_name(f".{path.name}.{entropy.token(8).hex()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            raise Conflict(f"{path} exists already. Name another file, or a directory.") from None
    finally:
        draft.unlink()
    sync_directory(path.parent)
