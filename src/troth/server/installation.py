"""The random id of an installation: it lies in the data directory and goes where that goes."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from troth.core.entropy import Entropy
from troth.core.errors import Unavailable

FILE = "installation"
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
