"""The agent's heart: gives each process the identities it should hold now, and no others.

Everything goes through `_settle`: it compares what a workload holds with what the newest snapshot
and the clock say it should, drops what it should not, and starts what is missing. It may be called
at any time, any number of times; so a lost event costs nothing but time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from troth.agent.batches import Batches
from troth.agent.cache import Cache, Holding, Process, Workload
from troth.agent.credential import generate_key, make_csr, read_leaf
from troth.agent.snapshot import Registration, Snapshot
from troth.agent.sync import Sync
from troth.agent.timing import Agenda, Backoff, Broadcast, Sleep, place_renewal
from troth.agent.vault import Vault
from troth.agent.view import Stale, Svid, View
from troth.core.clock import Clock
from troth.core.entropy import Entropy, fraction
from troth.core.errors import Denied, Internal, TrothError, Unavailable
from troth.identity.identity import State
from troth.issuance.der import read_signer
from troth.wire.api.certificates import CertificateRequest, InstanceClaim, IssuedCertificate

log = structlog.get_logger(__name__)

PURGE_PERIOD = 5.0
"""Seconds between two looks at all processes: so long may a stream outlive the process that it
was opened for, when a child has kept the socket or another program has taken its place."""
IDLE_LIMIT = 300.0
"""Seconds that a process without streams and certificates is remembered."""
SPREAD = 0.5
"""Seconds over which all that waited for the server ask again once it is back."""
FORGOTTEN = timedelta(days=1)
"""How long it is known when what a tainted key signed was to be renewed: longer than that lives."""
GONE = "no longer registered for it"


class Workloads:
    """Keeps the cache in step with the snapshot and the clock.

    `held` is announced whenever what is held may have changed.
    """

    def __init__(
        self,
        sync: Sync,
        batches: Batches,
        cache: Cache,
        clock: Clock,
        entropy: Entropy,
        sleep: Sleep,
        vault: Vault | None = None,
    ) -> None:
        self._sync = sync
        self._batches = batches
        self._cache = cache
        self._clock = clock
        self._entropy = entropy
        self._sleep = sleep
        self._vault = vault
        self._hastened: dict[str, datetime] = {}
        self._agenda = Agenda(clock, sleep)
        self.held = Broadcast()

    async def run(self) -> None:
        """Follow snapshots, due dates and the end of processes, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_returns())
            group.create_task(self._follow_snapshots())
            group.create_task(self._agenda.run(self._settle_due))
            group.create_task(self._purge_for_ever())

    def close(self) -> None:
        """Forget every key and certificate."""
        for workload in self._cache:
            self._cache.remove(workload)

    async def watch(self, process: Process) -> AsyncGenerator[View, None]:
        """The process' view now and after each change; see `Source.watch`."""
        workload = self._cache.admit(process, self._clock.monotonic())
        workload.watchers += 1
        try:
            self._settle(workload)
            shown: View | None = None
            while True:
                version = workload.changes.version
                if workload.ended is not None:
                    raise workload.ended
                view = self._view(workload, first=shown is None)
                if view is not None and view != shown:
                    shown = view
                    yield view
                await workload.changes.wait_beyond(version)
        finally:
            workload.watchers -= 1
            workload.used_at = self._clock.monotonic()

    def list_instances(self) -> list[str]:
        """The ids of instances that hold an unexpired certificate now."""
        now = self._clock.now()
        return sorted(
            {
                holding.instance_id
                for workload in self._cache
                for holding in workload.holdings.values()
                if holding.svid is not None and holding.svid.not_after > now
            }
            - {""}
        )

    async def _follow_returns(self) -> None:
        """The server is back: what failed without it is asked for again, but not all at once."""
        version = 0
        while True:
            version = await self._sync.returns.wait_beyond(version)
            now = self._clock.now()
            for workload in self._cache:
                for holding in workload.holdings.values():
                    if holding.failure is None or _is_passing(holding.failure):
                        wait = timedelta(seconds=SPREAD * fraction(self._entropy))
                        holding.forgive(now + wait if holding.retry_at is not None else None)
                self._settle(workload)

    async def _follow_snapshots(self) -> None:
        version = 0
        while True:
            version = await self._sync.changes.wait_beyond(version)
            for workload in self._cache:
                for holding in workload.holdings.values():
                    if holding.failure is not None and _is_passing(holding.failure):
                        holding.forgive()  # word from the server: it may be able to issue again
                self._settle(workload)

    def _settle_due(self, key: str) -> None:
        workload = self._cache.find(key)
        if workload is not None:
            self._settle(workload)

    def _settle(self, workload: Workload) -> None:
        snapshot = self._sync.snapshot
        if snapshot is None or workload.ended is not None:
            return
        now = self._clock.now()
        only = workload.process.only
        matched = [
            registration
            for registration in snapshot.match(workload.process.attested)
            if only is None or registration.name == only
        ]
        workload.matched = tuple(matched)
        for identity_id in workload.holdings.keys() - {r.identity_id for r in matched}:
            workload.holdings.pop(identity_id).drop()
        for registration in matched:
            self._settle_holding(workload, registration, snapshot, now)
        self._plan_next_look(workload, now)
        workload.changes.announce()
        self.held.announce()

    def _plan_next_look(self, workload: Workload, now: datetime) -> None:
        moments = [h.find_due() for h in workload.holdings.values()]
        moments += [r.expires_at for r in workload.matched if r.is_servable(now)]
        if workload.watchers == 0:
            moments = [h.svid.not_after for h in workload.holdings.values() if h.svid is not None]
        due = [moment for moment in moments if moment is not None]
        self._agenda.plan(workload.process.key, min(due, default=None))

    def _settle_holding(
        self, workload: Workload, registration: Registration, snapshot: Snapshot, now: datetime
    ) -> None:
        holding = workload.holdings.get(registration.identity_id)
        if holding is None:
            holding = Holding(registration, Backoff(self._entropy, first=0.5))
            workload.holdings[registration.identity_id] = holding
            self._restore(workload, holding)
        locked = holding.instance_id in snapshot.locked
        holding.cut_off = locked or not registration.is_servable(now)
        if holding.cut_off:
            if holding.svid is not None:
                reason = "instance locked" if locked else registration.state
                log.info("svid.withdrawn", spiffe_id=registration.spiffe_id, reason=reason)
            holding.drop()
            holding.registration = registration
            return
        if registration != holding.registration or (
            holding.failure is not None and holding.locked != snapshot.locked
        ):
            holding.forgive()
        holding.registration = registration
        self._drop_unservable(workload, holding, snapshot, now)
        self._hasten_tainted(holding, snapshot, now)
        if workload.watchers > 0 and _needs_issue(holding, now):
            holding.task = asyncio.get_running_loop().create_task(
                self._obtain(workload, holding, registration)
            )

    def _restore(self, workload: Workload, holding: Holding) -> None:
        """Give the process back what it had before our own restart; what follows judges it."""
        found = None
        if self._vault is not None:
            found = self._vault.claim(workload.process, holding.registration)
        if found is None:
            return
        kept, holding.svid = found
        holding.content = kept.content
        holding.serial = int(kept.serial, 16)
        holding.signer = kept.signer
        holding.instance_id = kept.instance_id
        holding.renew_at = kept.renew_at

    def _drop_unservable(
        self, workload: Workload, holding: Holding, snapshot: Snapshot, now: datetime
    ) -> None:
        registration, svid = holding.registration, holding.svid
        if svid is None:
            return
        if holding.serial in snapshot.revoked:
            reason = "revoked"
            holding.forgive()
        elif svid.not_after <= now:
            reason = "expired"
        elif svid.spiffe_id != registration.spiffe_id:
            reason = "renamed"
        elif workload.watchers == 0 and holding.signer in snapshot.tainted:
            reason = "signed by a tainted authority"  # whoever comes next gets a new one
        else:
            return
        log.info("svid.dropped", spiffe_id=svid.spiffe_id, reason=reason)
        holding.svid = None

    def _hasten_tainted(self, holding: Holding, snapshot: Snapshot, now: datetime) -> None:
        """What a tainted key signed is renewed soon: not at the same moment on every node."""
        if holding.svid is None or holding.signer not in snapshot.tainted:
            return
        moment = self._hastened.get(holding.signer)
        if moment is None:
            wait = timedelta(seconds=snapshot.spread * fraction(self._entropy))
            self._hastened = {key: at for key, at in self._hastened.items() if at > now - FORGOTTEN}
            moment = self._hastened[holding.signer] = now + wait
        if holding.renew_at is None or holding.renew_at > moment:
            holding.renew_at = moment

    async def _obtain(
        self, workload: Workload, holding: Holding, registration: Registration
    ) -> None:
        """Get one certificate for a fresh key; success and failure both end in `_settle`."""
        process = workload.process
        key = generate_key()
        claim = InstanceClaim(
            key=process.instance_key, pid=process.pid, selectors=list(process.selectors)
        )
        request = CertificateRequest(
            identity_id=registration.identity_id, csr=make_csr(key), instance=claim
        )
        try:
            issued = await self._batches.issue(request)
            self._install(holding, registration, key, issued)
        except TrothError as error:
            self._note_failure(holding, error)
        except Exception:  # a bug here must not end the node's service: log, retry
            log.exception("svid.failed", spiffe_id=registration.spiffe_id)
            self._note_failure(holding, Internal("The agent failed; its log has the reason."))
        # Being cancelled means that the holding was dropped: nobody waits for this any more.
        holding.task = None
        self._settle(workload)

    def _install(
        self, holding: Holding, registration: Registration, key: bytes, issued: IssuedCertificate
    ) -> None:
        leaf = read_leaf(tuple(issued.chain), key, registration.spiffe_id)
        now = self._clock.now()
        if leaf.not_valid_after_utc <= now:
            raise Internal("The server issued a certificate that has expired; compare the clocks.")
        signer, snapshot = read_signer(leaf), self._sync.require_snapshot()
        if signer in snapshot.tainted:
            raise Unavailable("The server still issues from a tainted authority.")
        holding.svid = Svid(
            spiffe_id=registration.spiffe_id,
            hint=registration.hint,
            chain=tuple(issued.chain),
            private_key=key,
            not_after=leaf.not_valid_after_utc,
        )
        holding.content = registration.content
        holding.serial = leaf.serial_number
        holding.signer = signer
        holding.instance_id = issued.instance_id
        holding.renew_at = place_renewal(now, leaf.not_valid_after_utc, self._entropy)
        holding.forgive()

    def _note_failure(self, holding: Holding, error: TrothError) -> None:
        snapshot = self._sync.snapshot
        holding.failure = error
        holding.locked = snapshot.locked if snapshot is not None else frozenset()
        delay = holding.backoff.take(error)
        holding.retry_at = self._clock.now() + timedelta(seconds=delay)
        log.warning(
            "svid.not_issued",
            spiffe_id=holding.registration.spiffe_id,
            code=error.code,
            reason=error.detail,
            retry_seconds=round(delay, 1),
            serving_old=holding.svid is not None,
        )

    def _view(self, workload: Workload, *, first: bool) -> View | None:
        """What to show, or None while that is being fetched; raises if there is nothing to."""
        snapshot = self._sync.require_snapshot()
        now = self._clock.now()
        svids: list[Svid] = []
        pending: set[str] = set()
        failures: list[TrothError] = []
        for registration in workload.matched:
            holding = workload.holdings[registration.identity_id]
            if holding.svid is not None and holding.svid.not_after > now:
                svids.append(_hint(holding.svid, registration.hint))
            elif holding.failure is not None:
                failures.append(holding.failure)
            elif holding.task is not None or holding.retry_at is not None:
                pending.add(registration.spiffe_id)
        served = {svid.spiffe_id for svid in svids}
        reasons = _list_cut_off(workload, snapshot)
        lost = _list_lost(workload, served | reasons.keys(), now) - served - pending
        withdrawn = tuple(sorted(lost | reasons.keys() - served))
        if pending and (first or not (svids or withdrawn)):
            return None
        if not svids and not lost:
            if failures:
                raise soften(failures[0])
            if not workload.matched:
                raise Denied(
                    "No identity is registered for this process any more. Ask an administrator, "
                    f"who can run: troth doctor --pid {workload.process.pid}"
                )
        if workload.default not in withdrawn:  # what is cut off or retired has no successor yet
            workload.default = next((r.spiffe_id for r in workload.matched), None)
        workload.held.update({svid.spiffe_id: svid.not_after for svid in svids})
        return View(
            svids=tuple(svids),
            bundles=(snapshot.bundle,),
            withdrawn=withdrawn,
            reasons={name: reasons.get(name, GONE) for name in withdrawn},
            names={r.spiffe_id: r.name for r in workload.matched if r.spiffe_id in withdrawn},
            default=workload.default,
        )

    async def _purge_for_ever(self) -> None:
        while True:
            await self._sleep(PURGE_PERIOD)
            await self.purge()

    async def purge(self) -> None:
        """Forget processes that are gone or became another, and idle ones that hold nothing.

        Streams of the former end, so that whoever holds them now is attested anew.
        """
        known = list(self._cache)
        loop = asyncio.get_running_loop()
        alive = await loop.run_in_executor(None, lambda: [_is_alive(w.process) for w in known])
        now = self._clock.monotonic()
        for workload, lives in zip(known, alive, strict=True):
            empty = all(h.svid is None for h in workload.holdings.values())
            idle = workload.watchers == 0 and empty and now - workload.used_at > IDLE_LIMIT
            if not lives or idle:
                self._forget(workload, lives=lives)

    def _forget(self, workload: Workload, *, lives: bool) -> None:
        if not lives and workload.watchers:
            log.info("workload.ended", pid=workload.process.pid, streams=workload.watchers)
        if not lives:
            workload.ended = Stale(
                "The process that asked for this has ended, or runs another program or as another "
                "user now; connect again."
            )
        self._cache.remove(workload)
        if self._cache.find(workload.process.key) is None:
            self._agenda.plan(workload.process.key, None)
        workload.changes.announce()
        self.held.announce()


def _needs_issue(holding: Holding, now: datetime) -> bool:
    if holding.task is not None or (holding.retry_at is not None and now < holding.retry_at):
        return False
    if holding.svid is None or holding.content != holding.registration.content:
        return True
    return holding.renew_at is not None and now >= holding.renew_at


def _hint(svid: Svid, hint: str) -> Svid:
    return svid if svid.hint == hint else replace(svid, hint=hint)


def _list_cut_off(workload: Workload, snapshot: Snapshot) -> dict[str, str]:
    """Which of the identities that the process matches may not be handed out now, and why."""
    reasons = {}
    for registration in workload.matched:
        holding = workload.holdings[registration.identity_id]
        if not holding.cut_off:
            continue
        if holding.instance_id in snapshot.locked:
            reasons[registration.spiffe_id] = "locked"
        elif registration.state != State.ACTIVE:
            reasons[registration.spiffe_id] = registration.state[:40]
        else:
            reasons[registration.spiffe_id] = "expired"
    return reasons


def _list_lost(workload: Workload, known: set[str], now: datetime) -> set[str]:
    """What the process was shown; forgets what has expired and is of no concern any more."""
    for spiffe_id, until in list(workload.held.items()):
        if until <= now and spiffe_id not in known:
            del workload.held[spiffe_id]
    return set(workload.held)


def _is_alive(process: Process) -> bool:
    try:
        return process.is_alive()
    except OSError as error:  # it can't be looked at just now, which proves nothing
        log.warning("process.not_looked_at", pid=process.pid, error=error.strerror)
        return True


def _is_passing(error: TrothError) -> bool:
    return error.retryable or isinstance(error, Internal)


def soften(error: TrothError) -> TrothError:
    """The error as a workload's client understands it.

    Clients stop for good on an invalid request, which theirs wasn't; they come back after being
    denied and after finding nobody.
    """
    return Unavailable(error.detail) if _is_passing(error) else Denied(error.detail)
