"""Questions to the archive: what is asked of it, and where it looks.

The face for operations, all of it blocking (not for the event loop) and safe from several threads:

    archive.search(query, limit, after=None, *, names=(), events_before=None) -> Answer
    archive.who_touched(resource, since, until, limit) -> Touches
    archive.find(decision, day=None) -> (DecisionRecord, DecisionProof | None)
    archive.find_proof(decision, day=None) -> DecisionProof
    archive.scan(since, until, *, subject="", resource="") -> Iterator[DecisionRecord]
    archive.find_last_event() -> int
    archive.redact_event(position) -> bool

It covers closed days, pieces of days, and what this server's decision log holds beyond them; hot
rows of the journal are the caller's, who merges both by `troth.audit.query.find_spot`, newest
first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple, Protocol

from troth.archive.proof import DecisionProof
from troth.archive.record import DecisionRecord
from troth.audit.query import Found, Query, Spot


@dataclass(frozen=True, slots=True)
class Answer:
    """Things found, newest first. `following` is the spot to go on behind, or None if there is no
    more. `damage` names files that couldn't be read, and what to do about it, in words: what they
    hold is missing here."""

    found: tuple[Found, ...]
    following: Spot | None
    damage: tuple[str, ...] = ()


class Touch(NamedTuple):
    """How often a subject got one answer about one action on a resource. `outcome` is ``success``
    or ``failure``; `subject` as decisions have it: an identity's name."""

    subject: str
    subject_type: str
    action: str
    outcome: str
    times: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Touches:
    """Who touched a resource, the most recent first. `complete` is False if there were more."""

    found: tuple[Touch, ...]
    complete: bool
    damage: tuple[str, ...] = ()


class DecisionHistory(Protocol):
    """Decisions of the past: the decision log alone, or with the archive."""

    def find(self, decision: str) -> tuple[DecisionRecord, DecisionProof | None]:
        """The decision with this id, with its proof unless its segment is open."""
        ...

    def find_proof(self, decision: str) -> DecisionProof:
        """The proof alone; `Refused` while the segment is open."""
        ...

    def scan(
        self,
        since: datetime,
        until: datetime,
        *,
        subject: str = "",
        resource: str = "",
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[DecisionRecord]:
        """Decisions from `since` to before `until`, about in the order of their times."""
        ...


class Archive(Protocol):
    """The past, as far as this server can read it."""

    def search(
        self,
        query: Query,
        limit: int,
        after: Spot | None = None,
        *,
        names: Collection[str] = (),
        events_before: int | None = None,
    ) -> Answer:
        """At most `limit` things that fit, newest first, behind `after` if given.

        `names` are names that `query.identity` has or had: decisions tell of an identity by its
        name. A decision whose subject is one of them, of type ``identity``, fits as if it were the
        SPIFFE ID, and `Found.subject` stays the name. `events_before` leaves out events at that
        position and behind it: those that the caller has from the journal. 0 leaves out all.

        `Limited` while too many searches run, `TooLarge` if it takes too long or needs too much
        memory: ask for less time.
        """
        ...

    def who_touched(
        self, resource: str, since: datetime, until: datetime, limit: int = 1000
    ) -> Touches:
        """Whom decisions about the declared `resource` were about, from `since` to before `until`.

        Counts are of whole days where the span has the whole day, of single decisions elsewhere.
        `Limited` and `TooLarge` as `search`.
        """
        ...

    def find(
        self, decision: str, day: date | None = None
    ) -> tuple[DecisionRecord, DecisionProof | None]:
        """The decision with this id, with its proof unless its segment is open.

        Without its day the newest days are looked at first. `NotFound` if it is nowhere.
        """
        ...

    def find_proof(self, decision: str, day: date | None = None) -> DecisionProof:
        """The proof alone; `Refused` while the segment is open."""
        ...

    def scan(
        self,
        since: datetime,
        until: datetime,
        *,
        subject: str = "",
        resource: str = "",
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[DecisionRecord]:
        """Decisions in the order of their times, as `DecisionLog.scan` has them, also of the days
        whose segments are packed."""
        ...

    def find_last_event(self) -> int:
        """Up to which position the archive has all events; 0 before the first."""
        ...

    def redact_event(self, position: int) -> bool:
        """Take out of the archived event whom it is about, who did it, where from and why. False if
        the archive doesn't have it."""
        ...
