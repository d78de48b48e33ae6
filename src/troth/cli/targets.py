"""The file that `troth agent --files` reads: which identity goes into which files, for whom."""

from __future__ import annotations

import grp
import os
import pwd
import re
import signal
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from troth.agent.files import FileTarget
from troth.agent.place import find_fault, suggest_mend
from troth.agent.reload import CommandReload, Reload, SignalReload
from troth.core.errors import Invalid, Refused, TooLarge

MAX_FILE = 1 << 20
MAX_TARGETS = 1000
_MODE = re.compile(r"0[0-7]{3}", re.ASCII)


class ReloadTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the program learns of new files: a signal with a pid file, or a command."""

    signal: str = ""
    pid_file: str = ""
    command: list[str] = []


class TargetTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[files]]`` table."""

    identity: Annotated[str, Meta(min_length=1, max_length=128)]
    directory: Annotated[str, Meta(min_length=1, max_length=4096)]
    user: str | int
    group: str | int | None = None
    mode: str = "0600"
    reload: ReloadTable | None = None


class TargetFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    files: Annotated[list[TargetTable], Meta(min_length=1, max_length=MAX_TARGETS)]


def read_targets(path: Path) -> tuple[FileTarget, ...]:
    """The targets in the TOML file at `path`.

    Raises `Invalid` with the place and the remedy, or `Refused` if others could have written it:
    it names programs that the agent runs.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if fault := find_fault(found):
            raise Refused(
                f"{path} {fault}, and it names programs that run as the agent's user; "
                f"run: {suggest_mend(found, path)}"
            )
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise TooLarge(f"{path}: the file has more than {MAX_FILE:,} bytes.")
    try:
        tree = msgspec.convert(tomllib.loads(data.decode()), TargetFile)
        targets = tuple(_read_target(table) for table in tree.files)
        for target in targets:
            target.check()
    except UnicodeDecodeError as error:
        raise Invalid(f"{path}: the file is not UTF-8; save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError; an endless integer
        raise Invalid(f"{path}: not TOML: {error}.") from error
    except msgspec.ValidationError as error:
        raise Invalid(f"{path}: {error}; see `troth agent --help`.") from error
    except Invalid as error:
        raise Invalid(f"{path}: {error.detail}") from error
    return targets


def _read_target(table: TargetTable) -> FileTarget:
    if not _MODE.fullmatch(table.mode):
        raise Invalid(f"The mode {table.mode[:20]!r} must be four octal digits such as '0640'.")
    uid, gid = _find_user(table.user)
    return FileTarget(
        identity=table.identity,
        directory=Path(table.directory),
        uid=uid,
        gid=gid if table.group is None else _find_group(table.group),
        mode=int(table.mode, 8),
        reload=None if table.reload is None else _read_reload(table.reload),
    )


def _find_user(user: str | int) -> tuple[int, int]:
    try:
        found = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except (KeyError, ValueError, OverflowError) as error:
        if isinstance(user, int) and 0 <= user < 2**32 - 1:
            return user, user
        raise Invalid(f"There is no user {str(user)[:80]!r} on this machine; make one.") from error
    return found.pw_uid, found.pw_gid


def _find_group(group: str | int) -> int:
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError) as error:
        raise Invalid(f"There is no group {group[:80]!r} on this machine; make one.") from error


def _read_reload(table: ReloadTable) -> Reload:
    if table.command and not (table.signal or table.pid_file):
        return CommandReload(tuple(table.command))
    if table.command or not (table.signal and table.pid_file):
        raise Invalid(
            "A 'reload' needs either 'command', or both 'signal' (such as 'HUP') and 'pid_file'."
        )
    name = "SIG" + table.signal.upper().removeprefix("SIG")
    try:
        return SignalReload(signal.Signals[name].value, Path(table.pid_file))
    except KeyError as error:
        raise Invalid(
            f"There is no signal {table.signal[:20]!r}; write one such as 'HUP' or 'USR1'."
        ) from error
