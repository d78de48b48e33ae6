"""The gateway to checkpoints of the log: what was signed, and what of it is published."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from troth.core.errors import Conflict
from troth.store.session import Session
from troth.store.tables import checkpoints

_t = checkpoints.c
_NEWEST = select(checkpoints).order_by(_t.size.desc()).limit(1)


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A signed checkpoint: `note` as C2SP signed-note has it. It is `published` once as many
    witnesses as there must be have signed it too."""

    size: int
    root: bytes
    note: str
    signed_at: datetime
    published: bool


class CheckpointGateway:
    """Checkpoints by size. Only the newest, and the newest that is published, are kept."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def newest(self) -> StoredCheckpoint | None:
        """The last that was signed, or None before the first."""
        return _read(self._session.execute(_NEWEST).first())

    def newest_published(self) -> StoredCheckpoint | None:
        """The last that was published, or None before the first."""
        return _read(self._session.execute(_NEWEST.where(_t.published)).first())

    def add(self, checkpoint: StoredCheckpoint) -> None:
        """Keep what was signed; `Conflict` unless it is larger than the last.

        Of a log, only one node signs: that is what the sealer's lease is for.
        """
        newest = self.newest()
        if newest is not None and newest.size >= checkpoint.size:
            raise Conflict(
                f"A checkpoint of {newest.size} entries is signed already; this one is of "
                f"{checkpoint.size}."
            )
        self._session.insert(
            insert(checkpoints),
            {
                "size": checkpoint.size,
                "root": checkpoint.root,
                "note": checkpoint.note,
                "signed_at": checkpoint.signed_at,
                "published": checkpoint.published,
            },
            {"size": "A checkpoint of that size is signed already."},
        )
        self._forget()

    def save_note(self, size: int, note: str, *, published: bool) -> bool:
        """Replace a checkpoint's note by one with more signatures; whether it is still there.

        What is published once stays so.
        """
        values = {"note": note, **({"published": True} if published else {})}
        done = self._session.execute(
            update(checkpoints).where(_t.size == size).values(values)
        ).rowcount
        self._forget()
        return bool(done)

    def remove_all(self) -> None:
        """Forget all: the log that they are of isn't continued."""
        self._session.execute(delete(checkpoints))

    def _forget(self) -> None:
        newest, published = self.newest(), self.newest_published()
        kept = [one.size for one in (newest, published) if one is not None]
        self._session.execute(delete(checkpoints).where(_t.size.not_in(kept)))


def _read(row: Row[Any] | None) -> StoredCheckpoint | None:
    if row is None:
        return None
    return StoredCheckpoint(row.size, bytes(row.root), row.note, row.signed_at, row.published)
