"""One installation: its data directory has one server, and a random id that goes where it goes."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path

import structlog

from troth.core.entropy import Entropy
from troth.core.errors import Conflict, Refused, Unavailable
from troth.server.config import Config

log = structlog.get_logger(__name__)

FILE = "installation"
SERVER_LOCK = "server.lock"
CLOSED = "workloads of other users can't reach agent.sock in it"
_FORM = re.compile(r"[0-9a-f]{8}\n?", re.ASCII)


def prepare_directories(config: Config) -> None:
    """The data directory: others may pass through to the sockets, and see nothing else.

    One that exists is taken as it is, never changed; `Refused` if somebody else could replace what
    is in it.
    """
    data = config.data
    try:
        data.mkdir(parents=True)
        data.chmod(0o711)
    except FileExistsError:
        found = data.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise Refused(
                f"{data} must belong to the server's user and be writable by nobody else, since "
                "it will hold keys and sockets: choose a directory of its own, or mend it with "
                f"chown and 'chmod 711 {data}'."
            ) from None
        if not found.st_mode & 0o001:
            log.warning("data.closed", data=str(data), mend=f"chmod o+x {data}", why=CLOSED)
    (data / "keys").mkdir(mode=0o700, exist_ok=True)


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
