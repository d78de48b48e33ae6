"""Secrets by reference: a private file, an environment variable, or what a command prints.

The configuration names where a secret is and never holds it. What is read is never repeated in an
error.
"""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from troth.core.errors import Invalid, Unavailable

COMMAND_TIMEOUT_S = 10.0
LARGEST = 4096
"""Bytes of a secret that are looked at."""


def read_reference(
    source: str,
    what: str,
    *,
    environment: Mapping[str, str],
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> str:
    """The text that `source` names, with whatever line end it has; at most `LARGEST` bytes.

    ``file:PATH`` is a plain file of mode 0600 (or 0400) that belongs to this process's user.
    ``env:NAME`` is looked up in `environment`. ``command:ARGV…`` is split as a shell would, run
    without a shell under `environment`, and must end within `timeout_s` seconds; its standard error
    stays visible to the operator. `what` says in errors what is being read, such as
    ``key-encryption key``.

    Raises `Invalid` for a source of another form, `Unavailable` when it yields nothing.
    """
    kind, _, rest = source.partition(":")
    if not rest.strip():
        kind = ""
    match kind:
        case "file":
            return _read_file(Path(rest), what)
        case "env":
            if rest not in environment:
                raise Unavailable(f"The environment variable {rest} with the {what} is not set.")
            return environment[rest]
        case "command":
            return _run(rest, what, environment, timeout_s)
    raise Invalid(
        f"The source of the {what} must be file:PATH, env:NAME or command:PROGRAM ARGUMENTS."
    )


def _read_file(path: Path, what: str) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Unavailable(f"The {what} {path} must be a plain file.")
            if found.st_uid != os.geteuid() or found.st_mode & 0o177:
                raise Unavailable(
                    f"The {what} {path} must belong to this process's user and be"
                    " closed to all others: chown it, and chmod 600."
                )
            content = file.read(LARGEST)
    except OSError as error:
        raise Unavailable(
            f"Can't read the {what} {path}: {error.strerror or 'unknown reason'}."
        ) from error
    return content.decode("utf-8", errors="replace")


def _run(command: str, what: str, environment: Mapping[str, str], timeout_s: float) -> str:
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise Invalid(f"The {what}'s command has an unclosed quote.") from error
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
            f"The {what}'s command can't start: {error.strerror or 'unknown reason'}."
        ) from error
    with process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            # The whole session: a child of the command would otherwise hold the pipe open.
            os.killpg(process.pid, signal.SIGKILL)
            raise Unavailable(
                f"The {what}'s command took longer than {timeout_s:g} seconds."
            ) from None
    if process.returncode != 0:
        raise Unavailable(f"The {what}'s command failed with status {process.returncode}.")
    return output[:LARGEST].decode("utf-8", errors="replace")
