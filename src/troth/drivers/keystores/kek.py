"""Where the key-encryption key comes from: a private file, an environment variable, a command.

The text of each is 32 bytes in hex or base64, with or without a line end.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import shlex
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from troth.core.entropy import Entropy
from troth.core.errors import Invalid, Unavailable
from troth.drivers.keystores.file import sync_directory

KEY_SIZE = 32
COMMAND_TIMEOUT_S = 10.0
_MAX_TEXT = 4096
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
    if not rest.strip():
        kind = ""
    match kind:
        case "file":
            path = Path(rest)
            if create and not os.path.lexists(path):
                _create_file(path, entropy)
            return _decode(_read_file(path), f"The file {path}")
        case "env":
            if rest not in environment:
                raise Unavailable(f"The environment variable {rest} with the key is not set.")
            return _decode(environment[rest], f"The environment variable {rest}")
        case "command":
            return _decode(_run(rest, environment, timeout_s), "The key-encryption key's command")
    raise Invalid(
        "The key-encryption key's source must be file:PATH, env:NAME or command:PROGRAM ARGUMENTS."
    )


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


def _read_file(path: Path) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Unavailable(f"The key-encryption key {path} must be a plain file.")
            if found.st_uid != os.geteuid() or found.st_mode & 0o177:
                raise Unavailable(
                    f"The key-encryption key {path} must belong to this process's user and be"
                    " closed to all others: chown it, and chmod 600."
                )
            content = file.read(_MAX_TEXT)
    except OSError as error:
        raise Unavailable(
            f"Can't read the key-encryption key {path}: {error.strerror or 'unknown reason'}."
        ) from error
    return content.decode("ascii", errors="replace")


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


def _run(command: str, environment: Mapping[str, str], timeout_s: float) -> str:
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise Invalid("The key-encryption key's command has an unclosed quote.") from error
    try:
        process = subprocess.Popen(  # the operator's own command; no shell reads it
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(
            f"The key-encryption key's command can't start: {error.strerror or 'unknown reason'}."
        ) from error
    with process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            # The whole session: a child of the command would otherwise hold the pipe open.
            os.killpg(process.pid, signal.SIGKILL)
            raise Unavailable(
                f"The key-encryption key's command took longer than {timeout_s:g} seconds."
            ) from None
    if process.returncode != 0:
        raise Unavailable(
            f"The key-encryption key's command failed with status {process.returncode}."
        )
    return output[:_MAX_TEXT].decode("ascii", errors="replace")
