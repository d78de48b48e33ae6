"""Whether somebody still uses what templates made: put off, warn, expire, retire; and reports.

Identities that templates made end by themselves unless their workloads are seen; this puts their
end off, and tells and tidies up when it came. Nobody's own registrations are only reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from troth.core.clock import Clock
from troth.core.ids import IdentityId
from troth.identity.attendance import Look, Phase, Sighting, Step, look_after
from troth.identity.identity import Identity, State
from troth.identity.template import Template, refresh_identity, still_covers
from troth.operations.identity import UNSEEN_AFTER, move_in
from troth.operations.recording import BACKGROUND, record_identity
from troth.operations.sight import record_extension
from troth.store.engine import Store
from troth.store.transaction import Transaction

BATCH = 100
LOOKED_AT = 5


@dataclass(frozen=True, slots=True)
class AttendIdentities:
    """Background: look after the identities that templates made. Idempotent."""

    store: Store
    clock: Clock

    async def __call__(self) -> None:
        """Look at all that are due, in batches."""
        now = self.clock.now()

        def look(tx: Transaction) -> int:
            due = tx.sightings.due(now, BATCH)
            if due:
                templates = {s.template.name: s.template for s in tx.templates.list()}
                identities = tx.identities.find_all(s.identity_id for s in due)
                seen = tx.instances.last_seen_by_identity(identities)
                locked = tx.instances.list_locked_identities(identities)
                for sighting in due:
                    identity = identities[sighting.identity_id]
                    template = templates.get(sighting.template)
                    last = max(sighting.seen_at, seen.get(identity.id, sighting.seen_at))
                    is_locked = identity.id in locked
                    _look_at(tx, identity, sighting, template, last, now, locked=is_locked)
            return len(due)

        while await self.store.transact(look) == BATCH:
            pass


def _look_at(
    tx: Transaction,
    identity: Identity,
    sighting: Sighting,
    template: Template | None,
    last: datetime,
    now: datetime,
    *,
    locked: bool,
) -> None:
    covering = template if template is not None and still_covers(template, identity) else None
    current = sighting
    if covering is not None:
        span, grace = covering.unattended_after, covering.retire_after
        current = replace(sighting, span=span, grace=grace)
    covered = covering is not None
    look = look_after(identity, current, last, covered=covered, now=now, locked=locked)
    _take_step(tx, identity, look, covering, now)
    # A row that stays due would be looked at for ever.
    due = max(look.due_at, now + timedelta(seconds=1))
    tx.sightings.save(
        replace(current, phase=look.phase, due_at=due, seen_at=max(current.seen_at, last))
    )


def _take_step(
    tx: Transaction, identity: Identity, look: Look, template: Template | None, now: datetime
) -> None:
    match look.step:
        case Step.EXTEND if template is not None and look.expires_at is not None:
            extended = refresh_identity(identity, template, look.expires_at, now)
            tx.identities.save(extended, identity.revision)
            record_extension(tx, BACKGROUND, identity, extended, now, "its workload is seen")
        case Step.WARN:
            record_identity(
                tx,
                BACKGROUND,
                "unattended",
                identity,
                now,
                template=identity.template,
                expires_at=identity.expires_at.isoformat(),
                reason=look.reason,
            )
        case Step.EXPIRE:
            record_identity(
                tx,
                BACKGROUND,
                "expired",
                identity,
                now,
                template=identity.template,
                retired_at=look.due_at.isoformat(),
                reason=look.reason,
            )
        case Step.RETIRE:
            move_in(tx, BACKGROUND, identity, "retire", look.reason, now=now)
        case _:
            pass


def find_unattended(tx: Transaction, some: Sequence[Identity], now: datetime) -> list[str]:
    """What nobody seems to use, in sentences that say what happens next and what to do.

    Of what people registered only `some` are looked at, since this is asked every second.
    """
    found: list[str] = []
    for phase, words, remedy in (
        (Phase.UNATTENDED, "not seen lately and will expire", "Start its workload, or let it go"),
        (Phase.EXPIRED, "unattended and expired", "It returns if its workload does"),
    ):
        count = tx.sightings.count_in(phase)
        if count:
            names = _name_some(tx, [s.identity_id for s in tx.sightings.list_in(phase, LOOKED_AT)])
            more = f" and {count - LOOKED_AT} more" if count > LOOKED_AT else ""
            found.append(
                f"Made by templates, {words}: {names}{more}. {remedy}; see "
                "`troth identity ls --unattended`."
            )
    return [*found, *_find_unused(tx, some, now)]


def _find_unused(tx: Transaction, some: Sequence[Identity], now: datetime) -> list[str]:
    since = now - UNSEEN_AFTER
    old = [i for i in some if i.state is State.ACTIVE and not i.template and i.created_at < since]
    seen = tx.instances.last_seen_by_identity(i.id for i in old)
    names = [i.name for i in old if i.id not in seen or seen[i.id] < since]
    if not names:
        return []
    more = f" and {len(names) - LOOKED_AT} more" if len(names) > LOOKED_AT else ""
    return [
        f"Registered, and not used for {UNSEEN_AFTER.days} days: {_quote(names[:LOOKED_AT])}{more}."
        " Retire what nobody needs; see `troth identity ls --unattended`."
    ]


def _name_some(tx: Transaction, ids: list[IdentityId]) -> str:
    identities = tx.identities.find_all(ids)
    return _quote([identities[i].name for i in ids if i in identities])


def _quote(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
