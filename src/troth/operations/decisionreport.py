"""Reports of services that decide for themselves: what they say they decided goes into the decision
log, as what they say."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from troth.archive.log import DecisionLog
from troth.archive.record import DecisionRecord, encode_record
from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Denied, Invalid, TooLarge
from troth.core.ids import new_id
from troth.live.share import list_served
from troth.operations.call import Call
from troth.operations.policyfeed import NOT_SERVING, PolicyDesk
from troth.wire.api import rules as wire

POINT = "sdk"
OLDEST = timedelta(days=30)
AHEAD = timedelta(minutes=5)
"""How far a service's clock may be ahead."""

REMEMBERED = 100_000
"""Ids of reported decisions that this server knows again."""


@dataclass(frozen=True, slots=True)
class ReportDecisions:
    """``decision.report``: decisions that a service made by the rules that it was told.

    One that was kept before isn't kept twice, as long as this server remembers it: a service that
    got no answer reports again. What one can't have decided is refused, and the rest is kept.
    """

    desk: PolicyDesk
    decisions: DecisionLog
    clock: Clock
    entropy: Entropy
    _seen: OrderedDict[tuple[str, str], None] = field(default_factory=OrderedDict)

    async def __call__(self, call: Call[wire.ReportDecisions]) -> wire.DecisionsReported:
        """What is kept is durable when this returns. `Denied` for who serves no resource."""
        caller = call.caller.principal
        server = await self.desk.find_server(caller)
        served = list_served(await self.desk.read_book(), server)
        if not served:
            raise Denied(NOT_SERVING.format(caller=f"'{server}'"))
        now, names = self.clock.now(), frozenset(served)
        records: list[DecisionRecord] = []
        refused: list[wire.DecisionRefusal] = []
        known: set[str] = set()
        fresh: dict[tuple[str, str], None] = {}
        for one in call.body.decisions:
            key = (caller, one.id)
            if key in self._seen or key in fresh:
                known.add(one.id)
                continue
            try:
                record = _make_record(one, caller, names, now)
                encode_record(record)
            except (Invalid, TooLarge) as error:
                refused.append(wire.DecisionRefusal(id=one.id, reason=error.detail))
                continue
            fresh[key] = None
            records.append(record)
        kept = len(records)
        if call.body.lost:
            records.append(self._tell_loss(call, server, now))
        if records:
            await self.decisions.append(records)
        self._remember(fresh)
        return wire.DecisionsReported(kept=kept, known=len(known), refused=refused)

    def _tell_loss(
        self, call: Call[wire.ReportDecisions], server: str, now: datetime
    ) -> DecisionRecord:
        return DecisionRecord(
            id=new_id("dec", self.entropy),
            at=now,
            request_id=call.request_id,
            caller=call.caller.principal,
            point=POINT,
            subject_type="",
            subject="",
            action="",
            resource="",
            resource_type="",
            resource_id="",
            allowed=False,
            policies=(),
            reason=(
                f"{call.body.lost} decisions of '{server}' were lost before they were reported: "
                "it kept no more of them."
            ),
            epoch=0,
        )

    def _remember(self, fresh: dict[tuple[str, str], None]) -> None:
        self._seen.update(fresh)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)


def _make_record(
    one: wire.ReportedDecision, caller: str, served: frozenset[str], now: datetime
) -> DecisionRecord:
    """The record of a reported decision; `Invalid` for one that its caller can't have made."""
    if one.resource and one.resource not in served:
        raise Invalid(f"{caller} doesn't serve the resource {one.resource[:128]!r}.")
    if not one.resource and one.allowed:
        raise Invalid("Nothing is permitted where no resource is meant.")
    if one.at.tzinfo is None or not now - OLDEST <= one.at <= now + AHEAD:
        raise Invalid(
            f"The time of the decision is none of the last {OLDEST.days} days; set the clock of "
            "whoever decided."
        )
    return DecisionRecord(
        id=one.id,
        at=one.at,
        request_id=one.request_id,
        caller=caller,
        point=POINT,
        subject_type=one.subject_type,
        subject=one.subject,
        action=one.action,
        resource=one.resource,
        resource_type=one.resource_type,
        resource_id=one.resource_id,
        allowed=one.allowed,
        policies=tuple(one.policies),
        reason=one.reason,
        epoch=one.epoch,
        facts=one.facts,
    )
