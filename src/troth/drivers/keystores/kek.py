"""Where the key-encryption key comes from: a private file, an environment variable, a command.

The text of each is 32 bytes in hex or base64, with or without a line end.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from troth.core.entropy import Entropy
from troth.core.errors import Unavailable
from troth.drivers.durability import sync_directory
from troth.drivers.references import COMMAND_TIMEOUT_S, read_reference

KEY_SIZE = 32
_WHAT = "key-encryption key"
_HEX = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


def resolve_key_encryption_key(
    source: str,
    *,
    environment: Mapping[str, str],
    entropy: Entropy,
    create: bool = False,
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> bytes:
    """The 32 bytes that `source` names.

    ``file:PATH`` is a plain file of mode 0600 (or 0400) that belongs to this process's user; with
    `create` it is made when it is missing. ``env:NAME`` is looked up in `environment`.
    ``command:ARGV…`` is split as a shell would, run without a shell under `environment`, and must
    print the key within `timeout_s` seconds; its standard error stays visible to the operator.

    Raises `Invalid` for a source of another form, `Unavailable` when it doesn't yield a key. No
    message repeats what was read.
    """
    kind, _, rest = source.partition(":")
    if kind == "file" and rest.strip() and create and not os.path.lexists(rest):
        _create_file(Path(rest), entropy)
    text = read_reference(source, _WHAT, environment=environment, timeout_s=timeout_s)
    return _decode(text, _name_place(kind, rest))


def _name_place(kind: str, rest: str) -> str:
    match kind:
        case "file":
            return f"The file {rest}"
        case "env":
            return f"The environment variable {rest}"
    return "The key-encryption key's command"


def _decode(text: str, where: str) -> bytes:
    text = text.strip()
    key = b""
    if _HEX.fullmatch(text):
        key = bytes.fromhex(text)
    else:
        try:
            key = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            # Not chained: the exception's context would carry the secret into a log.
            key = b""
    if len(key) != KEY_SIZE:
        raise Unavailable(f"{where} doesn't hold {KEY_SIZE} bytes in hex or base64.")
    if len(set(key)) == 1:
        raise Unavailable(f"{where} holds one byte repeated, which is no key; make a random one.")
    return key


def _create_file(path: Path, entropy: Entropy) -> None:
    """A fresh key in hex, whole and on the disk, or the one that somebody else made meanwhile."""
    draft = path.with_name(f".{path.name}.{entropy.token(8).hex()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(entropy.token(KEY_SIZE).hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
        sync_directory(path.parent)
    except OSError as error:
        raise Unavailable(
            f"Can't make the key-encryption key {path}: {error.strerror or 'unknown reason'}."
        ) from error
