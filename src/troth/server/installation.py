"""One installation: its data directory has one server, and a random id that goes where it goes."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path

from troth.core.entropy import Entropy
from troth.core.errors import Conflict, Unavailable

FILE = "installation"
SERVER_LOCK = "server.lock"
_FORM = re.compile(r"[0-9a-f]{8}\n?", re.ASCII)


def read_installation(data: Path, entropy: Entropy) -> str:
    """The id of the installation in `data`, eight hexadecimal digits; made on the first start.

    The caller owns the directory. Raises `Unavailable` if the file holds something else.
    """
    path = data / FILE
    if not path.exists():
        draft = path.with_suffix(".new")
        with suppress(FileNotFoundError):
            draft.unlink()
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(entropy.token(4).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    text = path.read_text(encoding="ascii", errors="replace")
    if not _FORM.fullmatch(text):
        raise Unavailable(
            f"{path} must hold eight hexadecimal digits, this installation's id; restore it from "
            "a backup, or delete it and the directory agent beside it for a new one."
        )
    return text.strip()


def claim_directory(data: Path) -> int:
    """Take the data directory for this server alone; returns the lock's descriptor.

    It comes before all else, since a second server would share the first one's agent and end it
    with itself. The kernel takes the lock back from a server that has crashed.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(data / SERVER_LOCK, flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Conflict(
            f"Another server uses {data}; stop it, or choose another data directory."
        ) from None
    return lock
