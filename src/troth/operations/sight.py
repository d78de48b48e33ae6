"""First sight: a node meets a workload that nobody registered, and a template gives it an identity.

The node vouches for what it attested, as it does when it asks for a certificate, and for nothing
else: which template fits, and how the identity is named, is found out here. What an operator cut
off or ended is never given back by this.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Conflict, Denied, Limited, Refused
from troth.core.ids import IdentityId, NodeId, TrustDomain, new_id
from troth.identity.attendance import Phase, Sighting, find_end
from troth.identity.difference import describe_fields
from troth.identity.identity import Identity, State
from troth.identity.naming import name_path
from troth.identity.readers import MAX_NODES
from troth.identity.selectors import BOUNDARIES, Selector, match_selectors
from troth.identity.template import (
    Binding,
    Catalogue,
    Template,
    bind_workload,
    make_identity,
    refresh_identity,
)
from troth.live.snapshot import CUT_OFF, Snapshot
from troth.operations.admission import admit_node
from troth.operations.call import Call
from troth.operations.identity import move_in
from troth.operations.recording import record_identity
from troth.operations.withdrawal import check_withdrawn
from troth.store.engine import Store
from troth.store.records import Node
from troth.store.transaction import Transaction
from troth.wire.api import templates as wire

NODE_LIMIT = 300
NODE_WINDOW = timedelta(minutes=10)
"""At the word of one node at most so many new identities in so long a time."""

SHOWN_RIVALS = 5


@dataclass(frozen=True, slots=True)
class SightWorkload:
    """``identity.sight``: the identity of a workload that was just met, made now if need be."""

    store: Store
    clock: Clock
    entropy: Entropy
    snapshot: Snapshot
    trust_domain: TrustDomain

    async def __call__(self, call: Call[wire.SightWorkload]) -> wire.SightedWorkload:
        """The identity. The same node, template and workload get the same one, however often.

        Raises `Denied` if no template fits, `Refused` with what stands in the way, and `Limited`
        if the node asks for too many.
        """
        self.snapshot.check_fresh()
        attested = frozenset(map(Selector.parse, call.body.selectors))
        fresh = IdentityId(new_id("idn", self.entropy))

        def meet(tx: Transaction) -> Identity:
            meeting = _Meeting(tx, call, admit_node(tx, call.caller), self.clock.now())
            return meeting.meet(attested, fresh, self.trust_domain)

        try:
            identity = await self.store.transact(meet)
        except Conflict:  # another node met the same workload at the same moment
            identity = await self.store.transact(meet)
        return wire.SightedWorkload(
            identity_id=identity.id,
            name=identity.name,
            spiffe_id=str(identity.spiffe_id),
            state=identity.state.value,
            template=identity.template,
        )


@dataclass(frozen=True, slots=True)
class _Meeting:
    """One transaction of it."""

    tx: Transaction
    call: Call[Any]
    node: Node
    now: datetime

    def meet(
        self, attested: frozenset[Selector], fresh: IdentityId, trust_domain: TrustDomain
    ) -> Identity:
        """Find or make the identity."""
        template = choose_template(self.tx.templates.list_for_node(self.node.name), attested)
        binding = bind_workload(template, attested, self.node.name)
        self._refuse_cut_off(attested)
        self._refuse_proposed(attested)
        sighting = self._find_sighting(template, binding, attested)
        if sighting is not None:
            identity = self.tx.identities.get(sighting.identity_id)
            _refuse_held(identity)
            living = identity.state is not State.RETIRED and identity.template == template.name
            if living and self.now < sighting.ends_at:
                if sighting.binding != binding.digest:
                    identity, sighting = self._rebind(identity, sighting, binding)
                return self._meet_again(identity, sighting, template)
            self._end(identity, sighting)
        return self._register(template, binding, fresh, trust_domain)

    def _refuse_cut_off(self, attested: frozenset[Selector]) -> None:
        """Under one uid or unit a program can pass for another: what cuts off one cuts off all."""
        for identity in self.tx.identities.list_held_on(self.node.name, CUT_OFF):
            shared = [s for s in identity.selectors if s.key in BOUNDARIES and s in attested]
            if shared:
                raise Refused(
                    f"'{identity.name}', which shares {' and '.join(map(str, shared))}, is "
                    f"{identity.state.value} ({identity.state_reason}); nothing new there until "
                    "an operator has decided about it."
                )

    def _refuse_proposed(self, attested: frozenset[Selector]) -> None:
        """What is registered goes before templates, also while it waits for approval."""
        for identity in self.tx.identities.list_proposed_on(self.node.name):
            if match_selectors(identity.selectors, attested).complete:
                raise Refused(
                    f"'{identity.name}' is registered for this workload and awaits approval: "
                    "`troth identity activate`, or `retire` it."
                )

    def _find_sighting(
        self, template: Template, binding: Binding, attested: frozenset[Selector]
    ) -> Sighting | None:
        """The last one of this workload; else of its name, from when the template asked for other
        values. Who lives under that name is this workload only if all of the values fit it."""
        found = self.tx.sightings.find_latest(template.name, binding.digest)
        if found is not None:
            return found
        namesake = self.tx.identities.find_named(name_path(binding.path))
        if namesake is None:
            return None
        if namesake.state is not State.RETIRED and not attested.issuperset(namesake.selectors):
            return None
        before = self.tx.sightings.find(namesake.id)
        return before if before is not None and before.template == template.name else None

    def _rebind(
        self, identity: Identity, sighting: Sighting, binding: Binding
    ) -> tuple[Identity, Sighting]:
        """The same workload, told by what its template asks for by now."""
        if self.tx.instances.list_locked_identities([identity.id]):
            raise Refused(
                f"The template of '{identity.name}' asks for other values now, and a copy of it is "
                "locked: unlock that or retire it first."
            )
        bound = replace(
            identity,
            selectors=binding.selectors,
            revision=identity.revision + 1,
            updated_at=self.now,
        )
        self.tx.identities.save(bound, identity.revision)
        words = [f"selectors: {_list(identity.selectors)} -> {_list(bound.selectors)}"]
        record_identity(self.tx, self.call, "changed", bound, self.now, words=words)
        again = replace(sighting, binding=binding.digest)
        self.tx.sightings.save(again)
        return bound, again

    def _meet_again(self, identity: Identity, sighting: Sighting, template: Template) -> Identity:
        """The living identity, put off and made known to this node where needed."""
        met = identity
        if self.node.name not in met.nodes:
            met = self._add_node(met)
        span, grace = template.unattended_after, template.retire_after
        if self.now - sighting.seen_at < sighting.span / 8 and self.now < met.expires_at:
            return met
        end = find_end(self.now, span, sighting.ends_at)
        if self.now >= met.expires_at or end - met.expires_at >= span / 8:
            extended = refresh_identity(met, template, end, self.now)
            self.tx.identities.save(extended, met.revision)
            record_extension(self.tx, self.call, met, extended, self.now, "seen again")
            met = extended
        self.tx.sightings.save(
            replace(
                sighting,
                phase=Phase.ATTENDED,
                seen_at=self.now,
                due_at=min(self.now + span / 2, met.expires_at),
                span=span,
                grace=grace,
            )
        )
        return met

    def _add_node(self, identity: Identity) -> Identity:
        if len(identity.nodes) >= MAX_NODES:
            raise Refused(
                f"'{identity.name}' is held by {MAX_NODES} nodes already, which is all it may: add "
                "{node} to the naming of its template."
            )
        wider = replace(
            identity,
            nodes=(*identity.nodes, self.node.name),
            revision=identity.revision + 1,
            updated_at=self.now,
        )
        self.tx.identities.save(wider, identity.revision)
        words = [f"nodes: + {self.node.name}", "met there too"]
        record_identity(self.tx, self.call, "changed", wider, self.now, identity, words=words)
        return wider

    def _end(self, identity: Identity, sighting: Sighting) -> None:
        """What came before is over, if it is so by itself; else it isn't for us to bring back."""
        if identity.state is not State.RETIRED and identity.template == sighting.template:
            if self.tx.instances.list_locked_identities([identity.id]):
                raise Refused(
                    f"The time of '{identity.name}' is over, and a copy of it is locked: an "
                    "administrator must retire it, and register one if there is to be another."
                )
            reason = f"its time was over at {sighting.ends_at.isoformat()}"
            move_in(self.tx, self.call, identity, "retire", reason, now=self.now)
            self.tx.sightings.save(replace(sighting, phase=Phase.RETIRED))
        elif sighting.phase is not Phase.RETIRED:
            happened = "was retired" if identity.state is State.RETIRED else "was taken over"
            raise Refused(
                f"'{identity.name}' {happened} by an administrator ({identity.state_reason or '–'}"
                "); a template doesn't bring it back. Register an identity for this workload, if "
                "it is to have one."
            )

    def _register(
        self, template: Template, binding: Binding, fresh: IdentityId, trust_domain: TrustDomain
    ) -> Identity:
        tx, now = self.tx, self.now
        self._check_numbers(template)
        made = make_identity(template, binding, fresh, trust_domain, self.node.name, now)
        holder = tx.identities.find_named(made.name)
        if holder is not None and holder.state is not State.RETIRED:
            raise Refused(
                f"The name '{made.name}' belongs to another workload ({_list(holder.selectors)}); "
                "register an identity for this one."
            )
        check_withdrawn(tx, [str(made.spiffe_id)])
        tx.identities.add(made)
        tx.sightings.add(make_sighting(template, binding, made, self.node.id, now))
        record_identity(
            tx,
            self.call,
            "registered",
            made,
            now,
            purpose=made.purpose,
            template=template.name,
            selectors=[str(selector) for selector in made.selectors],
            node=self.node.name,
            pid=self.call.body.pid,
            reason=f"seen for the first time; template '{template.name}' fits",
        )
        return made

    def _check_numbers(self, template: Template) -> None:
        living = self.tx.identities.count_of_template(template.name)
        if living >= template.limit:
            raise Refused(
                f"Template '{template.name}' has made {living} identities that live, which is all "
                "it may: raise its 'max', or see whose they are with "
                f"`troth identity ls --template {template.name}`."
            )
        since = self.now - NODE_WINDOW
        if self.tx.sightings.count_since(self.node.id, since) >= NODE_LIMIT:
            minutes = int(NODE_WINDOW.total_seconds() // 60)
            raise Limited(
                f"Node {self.node.name} has met {NODE_LIMIT} new workloads within {minutes} "
                "minutes, which is all it may. Is one of them restarting under ever new names?"
            )


def _refuse_held(identity: Identity) -> None:
    """Wherever it was cut off, seen elsewhere: it is neither put off nor replaced."""
    if identity.state is not State.RETIRED and identity.state in CUT_OFF:
        raise Refused(
            f"'{identity.name}' is {identity.state.value} ({identity.state_reason}); an operator "
            "must decide about it first."
        )


def choose_template(templates: Iterable[Template], attested: frozenset[Selector]) -> Template:
    """The one template that fits; `Denied` if there is none, `Refused` if several do alike."""
    choice = Catalogue(templates).choose(attested)
    if choice.rivals:
        names = ", ".join(choice.rivals[:SHOWN_RIVALS])
        raise Refused(
            f"Several templates fit alike: {names}. Make one of them narrower, so that it is the "
            "more special one."
        )
    if choice.template is None:
        raise Denied("No template of this node fits what was attested.")
    return choice.template


def make_sighting(
    template: Template, binding: Binding, made: Identity, node_id: NodeId, now: datetime
) -> Sighting:
    """The record of a first sight."""
    ends_at = now + template.lifetime
    return Sighting(
        identity_id=made.id,
        template=template.name,
        binding=binding.digest,
        node_id=node_id,
        phase=Phase.ATTENDED,
        seen_at=now,
        due_at=min(now + template.unattended_after / 2, ends_at),
        ends_at=ends_at,
        span=template.unattended_after,
        grace=template.retire_after,
        created_at=now,
    )


def record_extension(
    tx: Transaction,
    call: Call[Any],
    before: Identity,
    identity: Identity,
    now: datetime,
    reason: str,
) -> None:
    """Append ``identity.extended``, with what else its template changed."""
    changed = describe_fields(replace(before, expires_at=identity.expires_at), identity)
    words = {"words": list(changed)} if changed else {}
    record_identity(
        tx,
        call,
        "extended",
        identity,
        now,
        before,
        **words,
        template=identity.template,
        expires_at=identity.expires_at.isoformat(),
        reason=reason,
    )


def _list(selectors: Iterable[Selector]) -> str:
    return ", ".join(map(str, selectors))
