"""What a client of a log remembers of it: the keys that it met first, and the newest checkpoint.

Whoever remembers that sees a rewritten history, even if it is signed with the log's own keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from troth.audit.checkpoint import open_checkpoint
from troth.audit.continuity import Forked, RolledBack, Unproved
from troth.audit.merkle import verify_consistency
from troth.audit.note import VerifierKey, parse_vkey
from troth.core.errors import Invalid

MOST_KEYS = 16


class DamagedPin(Invalid):
    """What was remembered isn't a pin any more."""


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


def renew_pin(pin: Pin, note: str, proof: Sequence[str]) -> Pin:
    """The pin at a newer checkpoint; the same if there is no newer one.

    `proof` leads from the pinned size to the new one (RFC 6962, section 2.1.2), in hexadecimal.
    Raises `RolledBack` or `Forked` if the log isn't the one that was pinned, `Unproved` if the
    proof doesn't show that it is, and `Invalid` if its keys didn't sign.
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
    if new.size == old.size and new.root != old.root:
        raise Forked(
            f"The log of {old.origin!r} was forked: its checkpoint of {new.size} entries has "
            "another root than the one that was seen here. Keep both: each is signed by the log, "
            "so they prove that history was rewritten."
        )
    try:
        path = [bytes.fromhex(one) for one in proof]
        verify_consistency(old.size, old.root, new.size, new.root, path)
    except (Invalid, ValueError) as error:
        raise Unproved(
            f"The log of {old.origin!r} doesn't prove that its checkpoint of {new.size} entries "
            f"continues the one of {old.size} that was seen here. Keep both: if nobody can prove "
            "it, the log was forked, and each is signed by it."
        ) from error
    return Pin(pin.keys, new.size, new.root.hex(), note) if new.size > old.size else pin


def read_pin(data: bytes) -> Pin:
    """A pin that was kept; `DamagedPin` if it isn't whole."""
    try:
        pin = msgspec.json.decode(data, type=Pin)
        begin_pin(pin.keys, pin.note)
    except (Invalid, ValueError, RecursionError) as error:
        raise DamagedPin("What was remembered of the log can't be read.") from error
    return pin


def _parse(keys: Sequence[str]) -> list[VerifierKey]:
    return [parse_vkey(key) for key in keys]
