"""Secrets that come in and go out: from files and standard input, never from the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import typer

from troth.core.errors import Invalid, Refused, TooLarge

MAX_TOKEN = 64 << 10
STANDARD_INPUT = "-"


def read_token(source: str, hint: str = "") -> str:
    """The token in the file `source`, or on standard input for "-".

    Wrong usage is a token in the place of a file: every user of the machine could see it.
    """
    if source == STANDARD_INPUT:
        data = sys.stdin.buffer.read(MAX_TOKEN + 1)
    else:
        if source.count(".") == 2 and len(source) > 60 and not os.path.exists(source):
            raise typer.BadParameter(
                "that looks like a token. Every user of this machine can see what stands in a "
                "command; put it into a file, or pipe it and write -.",
                param_hint=hint or None,
            )
        try:
            with Path(source).open("rb") as file:
                data = file.read(MAX_TOKEN + 1)
        except FileNotFoundError as error:
            raise Invalid(
                f"There is no file {source}: name the one that holds the token, or pipe the token "
                "and write -."
            ) from error
    if len(data) > MAX_TOKEN:
        raise TooLarge(f"The token has more than {MAX_TOKEN:,} bytes; is it one?")
    text = data.decode("ascii", "replace").strip()
    if not text:
        raise Invalid("There is no token: what was read is empty.")
    return text


@contextmanager
def open_beside(path: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` once all is on the disk, so that a reader sees
    the old or the new one, whole; after an error there is the old one. `Refused` for a device, a
    pipe or a folder: its place is never taken."""
    if path.exists() and not path.is_file():
        raise Refused(f"{path} is no plain file: name one that is, or one that isn't there yet.")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    """Write a file as `open_beside` has it."""
    with open_beside(path, mode) as file:
        file.write(content)
    return path
