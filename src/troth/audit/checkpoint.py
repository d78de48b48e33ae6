"""Checkpoints (C2SP tlog-checkpoint): what a log says it is, at a size, as the text of a note."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from troth.audit.merkle import HASH_SIZE
from troth.audit.note import Note, VerifierKey, decode_base64, parse_note, verify_note
from troth.core.errors import Invalid
from troth.core.logsize import LARGEST_SIZE

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The root hash of the log that is called `origin` when it has `size` entries.

    `extensions` are lines of which nobody but the log says anything; troth's log has none.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


def render_checkpoint(checkpoint: Checkpoint) -> str:
    """The text that is signed. `Invalid` if `parse_checkpoint` wouldn't take it."""
    root = b64encode(checkpoint.root).decode()
    lines = (checkpoint.origin, str(checkpoint.size), root, *checkpoint.extensions)
    text = "".join(f"{line}\n" for line in lines)
    if parse_checkpoint(text) != checkpoint:
        raise Invalid("A checkpoint's origin and extensions are one line each.")
    return text


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text; `Invalid` if there is none."""
    *lines, rest = text.split("\n")
    if rest or len(lines) < 3 or not all(lines):
        raise Invalid("A checkpoint is three lines or more, none of them empty.")
    origin, size, root = lines[:3]
    found = decode_base64(root)
    if len(found) != HASH_SIZE:
        raise Invalid("The checkpoint's root is no SHA-256 hash.")
    return Checkpoint(origin, parse_size(size), found, tuple(lines[3:]))


def parse_size(text: str) -> int:
    """A tree's size, in decimal without leading zeroes."""
    if _DECIMAL.fullmatch(text) is None or int(text) > LARGEST_SIZE:
        raise Invalid(f"{text[:40]!r} is no size of a tree: write it in decimal.")
    return int(text)


def open_checkpoint(
    data: bytes, keys: Iterable[VerifierKey], origin: str = ""
) -> tuple[Checkpoint, Note, tuple[VerifierKey, ...]]:
    """The checkpoint in a signed note, the note, and those of the known `keys` that signed it.

    Raises `Invalid` unless at least one did, or if it is of another log than `origin`, where that
    is given.
    """
    note = parse_note(data)
    signers = verify_note(note, keys)
    checkpoint = parse_checkpoint(note.text)
    if origin and checkpoint.origin != origin:
        raise Invalid(
            f"The checkpoint is of the log {checkpoint.origin[:80]!r}, and not of {origin!r}."
        )
    return checkpoint, note, signers
