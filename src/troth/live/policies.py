"""The rules about a service's own resources, and the parties that they can permit something: fed by
a stream, true for as long as its lease.

What is known is replaced or changed by one thread and asked by any: each question reads whole
values alone.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from troth.core.clock import Clock
from troth.core.errors import Internal
from troth.live.parties import KnownParty, read_party
from troth.live.revocations import MAX_LEASE
from troth.live.share import read_rules
from troth.policy.rulebook import RuleBook
from troth.wire.api.rules import (
    PartyView,
    PolicyChange,
    PolicyHeartbeat,
    PolicySnapshot,
    RuleSet,
)

MOST_ASKED = 10_000
"""Parties that were asked for one by one, of which the last asked for are remembered."""


class Parties:
    """Who is known, by name and SPIFFE ID."""

    def __init__(self, *, complete: bool) -> None:
        self.complete = complete
        self._named: OrderedDict[str, KnownParty] = OrderedDict()
        self._by_id: dict[str, KnownParty] = {}
        self.told = 0
        """Counts the messages that named somebody who is gone or different."""

    def __len__(self) -> int:
        return len(self._named)

    def find(self, name: str) -> KnownParty | None:
        """The party with that SPIFFE ID or name."""
        return self._by_id.get(name) or self._named.get(name)

    def put(self, view: PartyView) -> KnownParty:
        """Know a party, instead of what was known of it."""
        party = read_party(view)
        before = self._named.get(view.name)
        # In place: whoever asks meanwhile finds the one or the other, never nobody.
        self._by_id[view.spiffe_id] = self._named[view.name] = party
        if before is not None and str(before.identity.spiffe_id) != view.spiffe_id:
            self._by_id.pop(str(before.identity.spiffe_id), None)
        if not self.complete and len(self._named) > MOST_ASKED:
            self.drop(next(iter(self._named)))
        return party

    def drop(self, name: str) -> None:
        """Forget a party."""
        known = self._named.pop(name, None)
        if known is not None:
            self._by_id.pop(str(known.identity.spiffe_id), None)


class KnownRules:
    """One complete value: the rules about what is `served`, and the parties that they can mean."""

    def __init__(
        self,
        digest: str,
        served: frozenset[str],
        book: RuleBook,
        parties: Parties,
    ) -> None:
        self.digest = digest
        self.served = served
        self.book = book
        self.parties = parties


class Policies:
    """The newest complete value, and until when it may be relied on.

    `lease` in seconds shortens the one that the server grants.
    """

    def __init__(self, clock: Clock, lease: float | None = None) -> None:
        self._clock = clock
        self._own_lease = math.inf if lease is None else lease
        self._lease = 0.0
        self._known: KnownRules | None = None
        self._true_at = -math.inf
        self.epoch = 0
        self.mark = ""

    @property
    def known(self) -> KnownRules | None:
        """The value; None before the first one."""
        return self._known

    @property
    def age(self) -> float:
        """Seconds since what is known was certainly true; infinite before the first value."""
        return self._clock.monotonic() - self._true_at

    @property
    def lease(self) -> float:
        """For how many seconds what was true may be relied on."""
        return min(self._lease, self._own_lease)

    @property
    def digest(self) -> str:
        """What tells the rules that are known from others; "" before the first."""
        return "" if self._known is None else self._known.digest

    def forget_place(self) -> None:
        """Ask for a complete value next time; what is known still counts until then."""
        self.epoch, self.mark = 0, ""

    def find_objection(self) -> str:
        """Why nobody is permitted anything now, in a sentence; "" if the rules decide."""
        if self._known is None:
            return "No rules were heard from a troth server yet, so nothing is permitted."
        age, lease = self.age, self.lease
        if age <= lease:
            return ""
        return (
            f"No troth server was heard for {age:.0f} s, longer than the lease of {lease:.0f} s, "
            "so nothing is permitted until one is back."
        )

    def take(self, message: PolicySnapshot | PolicyChange | PolicyHeartbeat, asked: float) -> None:
        """Take in one message of a stream that was asked for at `asked` (monotonic seconds).

        A message was true at the server at the earliest `as_of` seconds after that. Raises
        `Internal` for one that isn't understood, or doesn't follow on what is known; then what was
        known stays, and its lease runs out.
        """
        match message:
            case PolicySnapshot():
                parties = Parties(complete=message.complete)
                for view in message.parties:
                    parties.put(view)
                self._known = self._make(message.rules, parties)
                self._lease = min(message.lease, MAX_LEASE)
            case PolicyChange():
                self._change(message)
                self._lease = min(message.lease, MAX_LEASE)
            case PolicyHeartbeat():
                if self._known is None or message.epoch < self.epoch:
                    raise Internal("A heartbeat of the policy stream tells of another journal.")
        stays = message.epoch == self.epoch and not isinstance(message, PolicySnapshot)
        if message.mark or not stays:
            self.mark = message.mark
        self.epoch = message.epoch
        # Never later than now: a server whose clock runs fast must not lend itself time.
        self._true_at = min(asked + message.as_of, self._clock.monotonic())

    def _make(self, rules: RuleSet, parties: Parties) -> KnownRules:
        served = frozenset(rules.served)
        return KnownRules(rules.digest, served, read_rules(rules), parties)

    def _change(self, change: PolicyChange) -> None:
        known = self._known
        if known is None or change.since != self.epoch:
            raise Internal(
                f"The policy stream goes on from {change.since} where {self.epoch} is known."
            )
        after = known
        if change.rules is not None:
            after = self._make(change.rules, known.parties)
        # Who is gone first, then the new rules: in between nobody has more than either permits.
        known.parties.told += bool(change.gone or change.parties)
        for name in change.gone:
            known.parties.drop(name)
        for view in change.parties:
            known.parties.put(view)
        self._known = after
