"""Whom to refuse, as a verifier of peers knows it: fed by a stream, true for as long as its lease.

What is known is replaced or changed by one thread and asked by any: each question reads whole
values alone, and additions come before removals.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from troth.core.clock import Clock
from troth.core.errors import Internal
from troth.identity.identity import State
from troth.issuance.profiles import JWT_TTL_CEILING, TOKENS_OVER
from troth.wire.api.revocations import (
    RevocationChange,
    RevocationHeartbeat,
    RevocationSnapshot,
)

SWEEP_SECONDS = 300.0
"""How often what has expired is forgotten."""

MAX_LEASE = 3600.0
"""Seconds: a server that grants more than this is not believed."""


@dataclass(slots=True)
class _Known:
    trust_domain: str
    cut_off: dict[str, str]
    revoked: dict[str, int]
    distrusted: dict[str, int]
    tokens: dict[str, int]
    issued_until: dict[str, int]
    retired: dict[str, float]
    """Who of those that are cut off is at its end, and when (monotonic) no token of it can live."""


class Revocations:
    """The newest complete value, and until when it may be relied on.

    `lease` in seconds overrides the one that the server grants; only a shorter one is safer.
    """

    def __init__(self, clock: Clock, lease: float | None = None) -> None:
        self._clock = clock
        self._own_lease = lease
        self._lease = 0.0
        self._known: _Known | None = None
        self._true_at = -math.inf
        self._swept = clock.monotonic()
        self.epoch = 0
        self.mark = ""

    @property
    def age(self) -> float:
        """Seconds since what is known was certainly true; infinite before the first value."""
        return self._clock.monotonic() - self._true_at

    @property
    def lease(self) -> float:
        """For how many seconds what was true may be relied on."""
        return self._lease if self._own_lease is None else self._own_lease

    @property
    def trust_domain(self) -> str:
        """The trust domain it is about; "" before the first value."""
        return "" if self._known is None else self._known.trust_domain

    def forget_place(self) -> None:
        """Ask for a complete value next time; what is known still counts until then."""
        self.epoch, self.mark = 0, ""

    def take(
        self, message: RevocationSnapshot | RevocationChange | RevocationHeartbeat, asked: float
    ) -> None:
        """Take in one message of a stream that was asked for at `asked` (monotonic seconds).

        A message was true at the server at the earliest `as_of` seconds after that. So however long
        somebody on the way holds messages back, what they say never passes for newer than it is.
        Raises `Internal` for a change that doesn't follow on what is known.
        """
        match message:
            case RevocationSnapshot():
                self._known = _Known(
                    message.trust_domain,
                    dict(message.cut_off),
                    dict(message.revoked),
                    dict(message.distrusted),
                    dict(message.tokens),
                    dict(message.issued_until),
                    self._list_ends(message.cut_off),
                )
                self._lease = min(message.lease, MAX_LEASE)
            case RevocationChange():
                self._change(message)
                self._lease = min(message.lease, MAX_LEASE)
            case RevocationHeartbeat():
                if self._known is None or message.epoch < self.epoch:
                    raise Internal("A heartbeat of the revocation stream tells of another journal.")
        # A server that has just started doesn't know the mark of a place that it was shown.
        stays = message.epoch == self.epoch and not isinstance(message, RevocationSnapshot)
        if message.mark or not stays:
            self.mark = message.mark
        self.epoch = message.epoch
        # Never later than now: a server whose clock runs fast must not lend itself time.
        self._true_at = min(asked + message.as_of, self._clock.monotonic())
        self._sweep()

    def _change(self, change: RevocationChange) -> None:
        known = self._known
        if known is None or change.since != self.epoch:
            raise Internal(
                f"The revocation stream goes on from {change.since} where {self.epoch} is known."
            )
        known.revoked.update(change.revoked)
        known.distrusted.update(change.distrusted)
        known.tokens.update(change.tokens)
        known.issued_until.update(change.issued_until)
        known.cut_off.update(change.cut_off)
        for spiffe_id in (*change.cut_off, *change.restored):
            known.retired.pop(spiffe_id, None)
        known.retired.update(self._list_ends(change.cut_off))
        for spiffe_id in change.restored:
            known.cut_off.pop(spiffe_id, None)

    def _list_ends(self, cut_off: Mapping[str, str]) -> dict[str, float]:
        """Until when to remember those of `cut_off` that are retired: no server tells again."""
        end = self._clock.monotonic() + JWT_TTL_CEILING.total_seconds()
        return {name: end for name, state in cut_off.items() if state == State.RETIRED.value}

    def _sweep(self) -> None:
        if self._known is None or self._clock.monotonic() - self._swept < SWEEP_SECONDS:
            return
        self._swept = moment = self._clock.monotonic()
        now = self._clock.now().timestamp()
        known = self._known
        known.revoked = {serial: end for serial, end in known.revoked.items() if end > now}
        known.distrusted = {key: end for key, end in known.distrusted.items() if end > now}
        known.tokens = {jti: end for jti, end in known.tokens.items() if end > now}
        known.issued_until = {
            name: second
            for name, second in known.issued_until.items()
            if second + TOKENS_OVER.total_seconds() > now
        }
        past = {name for name, end in known.retired.items() if end <= moment}
        known.cut_off = {name: s for name, s in known.cut_off.items() if name not in past}
        known.retired = {name: end for name, end in known.retired.items() if name not in past}

    def find_objections(self, spiffe_id: str, serial: str = "", signer: str = "") -> list[str]:
        """Why this peer must be refused now, in sentences; empty if nothing speaks against it.

        `serial` and `signer` (key identifier) of its certificate are lower-case hex, and "" where
        there is no certificate.
        """
        known = self._known
        if known is None or self.age > self.lease:
            return [self._explain_silence()]
        found = []
        state = known.cut_off.get(spiffe_id)
        if state is not None:
            found.append(f"{spiffe_id} is {state}.")
        if serial and serial in known.revoked:
            found.append(f"The certificate {serial} was revoked.")
        if signer and signer in known.distrusted:
            found.append(f"The authority {signer} that signed the certificate was revoked.")
        return found

    def find_token_objections(
        self, jti: str, parties: Collection[str], issued_at: int, signer: str
    ) -> list[str]:
        """Why this access token must be refused now, in sentences; empty if nothing speaks against
        it.

        `parties` are the SPIFFE IDs of its subject, its client and all of its actors, and the ids
        of the instances that obtained it; `issued_at` is its ``iat``, and `signer` the ``kid`` of
        the key that signed it.
        """
        known = self._known
        if known is None or self.age > self.lease:
            return [self._explain_silence()]
        # States first: who is let back is noted with its end of tokens before its state goes.
        found = [f"{name} is {state}." for name in parties if (state := known.cut_off.get(name))]
        if jti in known.tokens:
            found.append("The token was revoked.")
        if signer in known.distrusted:
            found.append("The authority that signed the token is trusted no more.")
        for name in parties:
            if issued_at <= known.issued_until.get(name, -1):
                found.append(f"Tokens of {name} from before count no more; it must ask anew.")
        return found

    def _explain_silence(self) -> str:
        if self._known is None:
            return "Nothing was heard from a troth server yet, so nobody is accepted."
        return (
            f"No troth server was heard for {self.age:.0f} s, longer than the lease of "
            f"{self.lease:.0f} s, so nobody is accepted until one is back."
        )
