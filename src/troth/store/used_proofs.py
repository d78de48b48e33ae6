"""The gateway to used proofs: what may be accepted once, until it would be too old anyway."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import delete, insert, select

from troth.core.errors import Conflict, Refused
from troth.store.bulk import FreshInsert
from troth.store.columns import store_moment
from troth.store.session import Session
from troth.store.tables import used_proofs

_t = used_proofs.c
_ADD = insert(used_proofs)
_TAKE = FreshInsert(used_proofs, "digest", "expires_at")
_CHUNK = 200  # engines bound how many parameters a statement may have


class UsedProofGateway:
    """Digests of proofs that were taken. Whoever makes a digest names the kind of proof in it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, digest: str, expires_at: datetime) -> None:
        """Use a proof up: of any number of takers exactly one gets it; `Refused` for the others.

        `expires_at` is when the proof is refused for its age. A refusal ends the transaction: let
        it out of the function.
        """
        taken = "The proof was used before; make a new one for each request."
        try:
            self._session.insert(
                _ADD, {"digest": digest, "expires_at": expires_at}, {"digest": taken}
            )
        except Conflict as error:
            raise Refused(error.detail) from error

    def take_all(self, proofs: Mapping[str, datetime]) -> set[str]:
        """As `take` for many by digest, without an error: those that were used before."""
        if not proofs:
            return set()
        self._session.require_write()
        rows = [(digest, store_moment(end)) for digest, end in proofs.items()]
        fresh: set[str] = set()
        for start in range(0, len(rows), _CHUNK):
            fresh.update(self._session.insert_fresh(_TAKE, rows[start : start + _CHUNK]))
        return proofs.keys() - fresh

    def is_used(self, digest: str) -> bool:
        """Whether it was taken, for refusing early; only `take` decides."""
        query = select(_t.digest).where(_t.digest == digest)
        return self._session.execute(query).first() is not None

    def purge(self, now: datetime, limit: int) -> int:
        """Forget at most `limit` proofs that are too old to be accepted; how many went."""
        old = select(_t.digest).where(_t.expires_at <= now).limit(limit)
        return self._session.execute(delete(used_proofs).where(_t.digest.in_(old))).rowcount
