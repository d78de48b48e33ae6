"""Places in the file system where nobody but root and the agent's user can interfere.

Who may write to a directory can put a symlink where we expect a file of ours. So a path is walked
step by step, each step is judged by its descriptor, and work goes on relative to the last one.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from troth.core.errors import Refused

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40
"""As many symlinks as the kernel follows, path_resolution(7)."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def find_fault(found: os.stat_result) -> str:
    """Why others than root and our user could change what `found` tells about, or nothing.

    In a directory with the sticky bit everybody may write, but only owners can rename or remove.
    """
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to uid {found.st_uid}"
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & OTHERS_WRITE and not sticky:
        return "lets its group or others write"
    return ""


def suggest_mend(found: os.stat_result, path: object) -> str:
    """The command that takes a fault away which `find_fault` found."""
    if found.st_uid not in (0, os.geteuid()):
        return f"chown {os.geteuid()} {path}"
    return f"chmod go-w {path}"


def open_trusted(path: Path) -> int:
    """An O_PATH descriptor of the directory at absolute `path`, with every step to it checked.

    Symlinks count if root or our user made them. Raises `Refused`, naming the step and the mend.
    """
    here = os.open("/", _STEP)
    try:
        _demand_trusted(here)
        todo, links = list(reversed(path.parts[1:])), 0
        while todo:
            name = todo.pop()
            target = _read_trusted_link(here, name)
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise Refused(f"{path} can't be used: {os.strerror(errno.ELOOP)}.")
                todo += reversed(target.parts)
                continue
            here = _step(here, name)
            _demand_trusted(here)
    except OSError as error:
        os.close(here)
        raise Refused(
            f"{path} can't be used: {error.strerror}. Make it, or name another directory."
        ) from error
    except BaseException:
        os.close(here)
        raise
    return here


def _step(here: int, name: str) -> int:
    """The directory `name` in `here`, which is given up for it; an absolute name starts anew."""
    there = os.open(name, _STEP, dir_fd=here)
    os.close(here)
    return there


def _read_trusted_link(here: int, name: str) -> Path | None:
    found = os.stat(name, dir_fd=here, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        return None
    if found.st_uid not in (0, os.geteuid()):
        raise Refused(
            f"The symlink {tell_path(here)}/{name} belongs to uid {found.st_uid}, who could let "
            "it lead elsewhere; name a path without it."
        )
    return Path(os.readlink(name, dir_fd=here))


def _demand_trusted(here: int) -> None:
    found = os.fstat(here)
    if fault := find_fault(found):
        path = tell_path(here)
        raise Refused(
            f"The directory {path} {fault}, so others could lead what is written below it astray; "
            f"run: {suggest_mend(found, path)}"
        )


def tell_path(descriptor: int) -> str:
    """Where `descriptor` leads, for messages."""
    return os.readlink(f"/proc/self/fd/{descriptor}")
