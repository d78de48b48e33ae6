"""The gateway to versions of what is declared about access, and to changes that are held."""

from __future__ import annotations

import builtins
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from troth.core.errors import Conflict, NotFound
from troth.policy.version import Version
from troth.store.policy_tables import policy_proposals, policy_sets
from troth.store.session import Session

LARGEST = 512 << 20
"""Bytes of the largest content, unpacked."""
_LEVEL = 1
_s = policy_sets.c
_p = policy_proposals.c
_HEAD = [column for column in _s if column.name != "content"]
_OUTLINE = [column for column in _p if column.name != "content"]


class PolicySetGateway:
    """Versions by number, from 1 on, without a gap. They are never changed and never removed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find_last(self) -> Version | None:
        """The newest; None before the first."""
        query = select(*_HEAD).order_by(_s.number.desc()).limit(1)
        row = self._session.execute(query).first()
        return None if row is None else _read(row)

    def find(self, number: int) -> Version | None:
        """The version of that number."""
        row = self._session.execute(select(*_HEAD).where(_s.number == number)).first()
        return None if row is None else _read(row)

    def get(self, number: int) -> Version:
        """As `find`; `NotFound` if there is none."""
        found = self.find(number)
        if found is None:
            raise NotFound(
                f"There is no version {number} of the policy set; `troth policy history` lists "
                "what there is."
            )
        return found

    def read_content(self, number: int) -> bytes:
        """What it declares, as it was stored; `NotFound` as `get`."""
        row = self._session.execute(select(_s.content).where(_s.number == number)).first()
        if row is None:
            self.get(number)
            return b""
        return unpack(row.content)

    def list(self, *, before: int | None, limit: int) -> builtins.list[Version]:
        """The newest first, of those with lower numbers than `before`."""
        query = select(*_HEAD).order_by(_s.number.desc()).limit(limit)
        if before is not None:
            query = query.where(_s.number < before)
        return [_read(row) for row in self._session.execute(query)]

    def list_unsigned(self, limit: int) -> builtins.list[Version]:
        """Those without a signature, the oldest first."""
        query = select(*_HEAD).where(_s.key_id == "").order_by(_s.number).limit(limit)
        return [_read(row) for row in self._session.execute(query)]

    def add(self, version: Version, content: bytes) -> None:
        """Store the next one; `Conflict` if somebody else took its number."""
        self._session.insert(
            insert(policy_sets),
            {**_write(version), "content": zlib.compress(content, _LEVEL)},
            {"number": "Somebody else applied a set at this moment. Look again, then repeat."},
        )

    def sign(self, number: int, key_id: str, signature: bytes) -> None:
        """Add the signature, unless there is one."""
        self._session.execute(
            update(policy_sets).where(_s.number == number, _s.key_id == ""),
            {"key_id": key_id, "signature": signature},
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change that is held until somebody else agrees. `reasons` say why it is, `base` is the
    digest of what it was planned against, `state` is pending, approved or rejected."""

    number: int
    author: str
    request_id: str
    created_at: datetime
    expires_at: datetime
    base: str
    reasons: tuple[str, ...]
    words: tuple[str, ...]
    state: str = "pending"
    decided_by: str = ""
    decided_at: datetime | None = None
    reason: str = ""


class ProposalGateway:
    """Held changes by number, from 1 on. Their content goes once they are decided."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def next_number(self) -> int:
        """The number of the next one."""
        return (self._session.execute(select(func.max(_p.number))).scalar() or 0) + 1

    def get(self, number: int) -> Proposal:
        """The change; `NotFound` if there is none of that number."""
        row = self._session.execute(select(*_OUTLINE).where(_p.number == number)).first()
        if row is None:
            raise NotFound(
                f"There is no held change {number}; `troth policy pending` lists what there is."
            )
        return _read_proposal(row)

    def read_content(self, number: int) -> bytes:
        """What was submitted; `NotFound` as `get`, b"" once it is decided."""
        row = self._session.execute(select(_p.content).where(_p.number == number)).first()
        if row is None:
            self.get(number)
            return b""
        return unpack(row.content) if row.content else b""

    def list(self, *, pending: bool, limit: int) -> builtins.list[Proposal]:
        """The newest first; those alone that nobody decided, if `pending`."""
        query = select(*_OUTLINE).order_by(_p.number.desc()).limit(limit)
        if pending:
            query = query.where(_p.state == "pending")
        return [_read_proposal(row) for row in self._session.execute(query)]

    def count_pending(self, now: datetime) -> int:
        """How many may still be approved."""
        query = select(func.count()).where(_p.state == "pending", _p.expires_at > now)
        return self._session.execute(query).scalar() or 0

    def add(self, proposal: Proposal, content: bytes) -> None:
        """Store a new one; `Conflict` if its number is taken."""
        self._session.insert(
            insert(policy_proposals),
            {**_write_proposal(proposal), "content": zlib.compress(content, _LEVEL)},
            {"number": "Somebody else proposed a change at this moment. Try again."},
        )

    def decide(self, number: int, state: str, by: str, at: datetime, reason: str) -> None:
        """Note the decision, and forget the content; `Conflict` if there was one before."""
        changed = self._session.execute(
            update(policy_proposals).where(_p.number == number, _p.state == "pending"),
            {
                "state": state,
                "decided_by": by,
                "decided_at": at,
                "reason": reason,
                "content": None,
            },
        )
        if not changed.rowcount:
            raise Conflict(f"Change {number} was decided by somebody else meanwhile.")


def unpack(stored: bytes) -> bytes:
    """Content as it was given to `add`; what is larger than anything is cut."""
    return zlib.decompressobj().decompress(stored, LARGEST)


def _write(version: Version) -> dict[str, Any]:
    return {
        "number": version.number,
        "digest": version.digest,
        "previous": version.previous,
        "epoch": version.epoch,
        "author": version.author,
        "approver": version.approver,
        "request_id": version.request_id,
        "created_at": version.created_at,
        "key_id": version.key_id,
        "signature": version.signature,
    }


def _read(row: Row[Any]) -> Version:
    return Version(
        number=row.number,
        digest=row.digest,
        previous=row.previous,
        epoch=row.epoch,
        author=row.author,
        approver=row.approver,
        request_id=row.request_id,
        created_at=row.created_at,
        key_id=row.key_id,
        signature=bytes(row.signature),
    )


def _write_proposal(proposal: Proposal) -> dict[str, Any]:
    return {
        "number": proposal.number,
        "author": proposal.author,
        "request_id": proposal.request_id,
        "created_at": proposal.created_at,
        "expires_at": proposal.expires_at,
        "base": proposal.base,
        "reasons": list(proposal.reasons),
        "words": list(proposal.words),
        "state": proposal.state,
        "decided_by": proposal.decided_by,
        "decided_at": proposal.decided_at,
        "reason": proposal.reason,
    }


def _read_proposal(row: Row[Any]) -> Proposal:
    return Proposal(
        number=row.number,
        author=row.author,
        request_id=row.request_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        base=row.base,
        reasons=tuple(row.reasons),
        words=tuple(row.words),
        state=row.state,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        reason=row.reason,
    )
