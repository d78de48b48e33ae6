"""Whether a log still is the one that was seen before: it grows, and nothing of it changes.

A log can sign two histories with one key. Whoever remembers a checkpoint sees it: by a smaller
size (rollback), by another root of the same size, or by no proof leading from one to the other
(fork). Then both checkpoints are the evidence, and nobody has to be believed.
"""

from __future__ import annotations

from troth.audit.checkpoint import Checkpoint
from troth.audit.merkle import verify_consistency
from troth.audit.tile import DamagedTile, Read, Tiles, prove_consistency
from troth.core.errors import Invalid, Refused


class RolledBack(Refused):
    """The log has fewer entries than it had."""


class Forked(Refused):
    """The log has another history than it had."""


class Unproved(Refused):
    """Nothing shows that the log continues what it was: it is another one, or the proof is bad."""


def verify_growth(read: Read, seen: Checkpoint, found: Checkpoint) -> None:
    """That the log at `found` continues the log at `seen`; both are signed, and of one log.

    Raises `RolledBack` or `Forked` if it doesn't, `DamagedTile` or `NotFound` if its tiles can't
    show which, and `Invalid` if they are of different logs.
    """
    if seen.origin != found.origin:
        raise Invalid(
            f"The checkpoint that was seen is of {seen.origin[:80]!r}, and this one of "
            f"{found.origin[:80]!r}: two logs."
        )
    if found.size < seen.size:
        raise RolledBack(
            f"The log of {seen.origin[:80]!r} was rolled back: it had {seen.size} entries, and now "
            f"its checkpoint says {found.size}."
        )
    if found.size == seen.size:
        if found.root != seen.root:
            raise _fork(seen, found)
        return
    if not seen.size:
        return  # every log begins with nothing
    proof = prove_consistency(read, seen.size, found.size)
    try:
        verify_consistency(seen.size, seen.root, found.size, found.root, proof)
        return
    except Invalid as error:
        reason = error
    # What the tiles themselves say of the older size: if that leads to the new root, they are
    # whole, and what was signed before is something else.
    older = Tiles(read, found.size).hash_range(0, seen.size)
    try:
        verify_consistency(seen.size, older, found.size, found.root, proof)
    except Invalid:
        raise DamagedTile(
            "tile",
            f"The tiles don't lead to the checkpoint's root of {found.size} entries: some are "
            "damaged, and whether the log continues the one that was seen can't be told. Verify "
            "it as a whole to see which.",
        ) from reason
    raise _fork(seen, found) from reason


def _fork(seen: Checkpoint, found: Checkpoint) -> Forked:
    where = f"of {found.size} entries" if found.size == seen.size else "that they lead to"
    return Forked(
        f"The log of {seen.origin[:80]!r} was forked: the checkpoint of {seen.size} entries that "
        f"was seen has the root {seen.root.hex()}, and the one {where} has {found.root.hex()}, "
        "which doesn't continue it. Keep both: they prove that history was rewritten."
    )
