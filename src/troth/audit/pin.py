"""What a client of a log remembers of it: the keys that it met first, and the newest checkpoint.

Whoever remembers that sees a rewritten history, even if it is signed with the log's own keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from troth.audit.checkpoint import open_checkpoint
from troth.audit.continuity import Forked, RolledBack
from troth.audit.merkle import verify_consistency
from troth.audit.note import VerifierKey, parse_vkey
from troth.core.errors import Invalid

MOST_KEYS = 16


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`keys` as signed-note writes them, `note` the newest checkpoint, whole; `root` in
    hexadecimal."""

    keys: tuple[str, ...]
    size: int
    root: str
    note: str


def begin_pin(keys: Sequence[str], note: str) -> Pin:
    """Trust on first use: from now on the log is the one with these keys and this checkpoint.

    `Invalid` unless all of the keys signed it.
    """
    if not 0 < len(keys) <= MOST_KEYS:
        raise Invalid("A log has a key at least, and not more than sixteen.")
    known = _parse(keys)
    checkpoint, _, signers = open_checkpoint(note.encode(), known)
    if set(signers) != set(known):
        raise Invalid("Not all keys of the log signed its checkpoint.")
    return Pin(tuple(keys), checkpoint.size, checkpoint.root.hex(), note)


def renew_pin(pin: Pin, note: str, proof: Sequence[bytes]) -> Pin:
    """The pin at a newer checkpoint; the same if there is no newer one.

    `proof` leads from the pinned size to the new one (RFC 6962, section 2.1.2). Raises `RolledBack`
    or `Forked` if the log isn't the one that was pinned, and `Invalid` if its keys didn't sign.
    """
    known = _parse(pin.keys)
    old, _, _ = open_checkpoint(pin.note.encode(), known)
    new, _, signers = open_checkpoint(note.encode(), known, old.origin)
    if set(signers) != set(known):
        raise Invalid("Not all keys of the log signed its checkpoint.")
    if new.size < old.size:
        raise RolledBack(
            f"The log of {old.origin!r} was rolled back: it had {old.size} entries, and now its "
            f"checkpoint says {new.size}."
        )
    try:
        verify_consistency(old.size, old.root, new.size, new.root, proof)
    except Invalid as error:
        raise Forked(
            f"The log of {old.origin!r} was forked: its checkpoint of {new.size} entries doesn't "
            f"continue the one of {old.size} that was seen here. Keep both: each is signed by the "
            "log, so they prove that history was rewritten."
        ) from error
    return Pin(pin.keys, new.size, new.root.hex(), note) if new.size > old.size else pin


def read_pin(data: bytes) -> Pin:
    """A pin that was kept; `Invalid` if it isn't whole."""
    try:
        pin = msgspec.json.decode(data, type=Pin)
    except (ValueError, RecursionError) as error:
        raise Invalid("What was remembered of the log can't be read.") from error
    begin_pin(pin.keys, pin.note)
    return pin


def _parse(keys: Sequence[str]) -> list[VerifierKey]:
    return [parse_vkey(key) for key in keys]
