"""What an agent still has after its own restart while the server is away.

The newest snapshot and the X.509-SVIDs with their keys lie sealed on disk. An SVID goes back to the
very process that had it and to no other: same boot, pid, start, program and user, attested anew by
the kernel's word. A new process finds nothing here (docs/adr/0004).
"""

from __future__ import annotations

import asyncio
import hashlib
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta

from troth.agent.cache import MAX_WORKLOADS, Cache, Process
from troth.agent.credential import Credential, read_leaf
from troth.agent.sealing import SealedFile, Unsealable
from troth.agent.snapshot import Content, Registration, Snapshot
from troth.agent.sync import Sync
from troth.agent.timing import Broadcast, Sleep, sleep_until, wait_first
from troth.agent.view import Svid
from troth.core.clock import Clock
from troth.core.errors import Internal
from troth.wire.api.nodes import NodeSnapshot

log = structlog.get_logger(__name__)

MAX_KEPT = 2 * MAX_WORKLOADS
PAUSE = 0.1
"""Seconds between a change and its saving; changes in between are saved with it."""
LONGEST_PAUSE = 5.0
EFFORT = 10
"""Saving takes at most one in so many seconds, however much there is to save."""
UNCLAIMED = timedelta(minutes=10)
"""How long after the server's first word what nobody came back for is kept."""


_Moment = Annotated[datetime, Meta(tz=True)]


class KeptSvid(msgspec.Struct, frozen=True, kw_only=True):
    """An X.509-SVID in the hands of one process, which `process` names (SHA-256 of its key)."""

    process: str
    pid: int
    identity_id: str
    instance_id: str
    spiffe_id: str
    dns_names: list[str]
    x509_ttl: int
    chain: list[bytes]
    key: bytes
    renew_at: _Moment | None
    not_after: _Moment
    serial: str
    signer: str

    @property
    def content(self) -> Content:
        """As `Registration.content` at the time of its issue."""
        return Content(self.spiffe_id, tuple(self.dns_names), self.x509_ttl)


class KeptState(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `boot` names the machine's boot, since processes don't outlive it."""

    boot: str
    snapshot: NodeSnapshot
    svids: list[KeptSvid]


def name_process(process: Process) -> str:
    """How a process is called in the sealed file: it is another with other selectors."""
    return hashlib.sha256(process.key.encode()).hexdigest()


def parse_state(content: bytes) -> KeptState:
    """The state in what was unsealed; raises `Unsealable`."""
    try:
        state = msgspec.msgpack.decode(content, type=KeptState)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unsealable("its content isn't understood") from error
    if len(state.svids) > MAX_KEPT:
        raise Unsealable("it holds more than an agent may")
    return state


class Vault:
    """Keeps the sealed file in step with the cache, and gives back from it."""

    def __init__(self, file: SealedFile, clock: Clock, sleep: Sleep, boot: str) -> None:
        self._file = file
        self._clock = clock
        self._sleep = sleep
        self._boot = boot
        self._owner = ""
        self._unclaimed: dict[tuple[str, str], KeptSvid] = {}
        self._forget_at: datetime | None = None
        self._saved: list[KeptSvid] = []
        self._written = b""

    def open(self, credential: Credential) -> NodeSnapshot | None:
        """What the server last said to this node before; None with a word in the log if nothing
        usable is there. From now on the file belongs to the node of `credential`."""
        self._owner = f"{credential.node_id} {credential.spiffe_id}"
        try:
            content = self._file.load(self._owner)
            state = None if content is None else parse_state(content)
        except Unsealable as error:
            log.warning("cache.ignored", reason=str(error))
            return None
        if state is None:
            return None
        now = self._clock.now()
        of_this_boot = state.svids if state.boot == self._boot else []
        self._saved = [kept for kept in of_this_boot if kept.not_after > now]
        self._unclaimed = {(kept.process, kept.identity_id): kept for kept in self._saved}
        log.info("cache.opened", svids=len(self._saved), epoch=state.snapshot.epoch)
        return state.snapshot

    def claim(self, process: Process, registration: Registration) -> tuple[KeptSvid, Svid] | None:
        """What this very process held of that identity, once; None if it held nothing."""
        if not self._unclaimed:
            return None
        kept = self._unclaimed.pop((name_process(process), registration.identity_id), None)
        if kept is None or kept.not_after <= self._clock.now():
            return None
        try:
            leaf = read_leaf(tuple(kept.chain), kept.key, registration.spiffe_id)
        except (Internal, ValueError) as error:
            log.info("cache.entry_ignored", spiffe_id=kept.spiffe_id, reason=str(error))
            return None
        svid = Svid(
            spiffe_id=registration.spiffe_id,
            hint=registration.hint,
            chain=tuple(kept.chain),
            private_key=kept.key,
            not_after=leaf.not_valid_after_utc,
        )
        log.info("svid.restored", spiffe_id=svid.spiffe_id, pid=process.pid)
        return kept, svid

    async def run(self, sync: Sync, cache: Cache, held: Broadcast) -> None:
        """For ever: save after each change of snapshot or cache; erase what was cut off."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_cuts(sync))
            group.create_task(self._follow_refusals(sync))
            group.create_task(self._save_changes(sync, cache, held))

    async def _follow_cuts(self, sync: Sync) -> None:
        version = 0
        while True:
            version = await sync.changes.wait_beyond(version)
            self._erase_cut_off(sync.snapshot)

    async def _follow_refusals(self, sync: Sync) -> None:
        version = 0
        while True:
            version = await sync.refusals.wait_beyond(version)
            self.erase()

    async def _save_changes(self, sync: Sync, cache: Cache, held: Broadcast) -> None:
        changes = holdings = 0
        while True:
            await wait_first(
                sync.changes.wait_beyond(changes),
                held.wait_beyond(holdings),
                self._wait_to_forget(),
            )
            await self._sleep(PAUSE)
            changes, holdings = sync.changes.version, held.version
            began = self._clock.monotonic()
            await self._save(sync, cache)
            spent = self._clock.monotonic() - began
            await self._sleep(min(spent * EFFORT, LONGEST_PAUSE))

    async def _wait_to_forget(self) -> None:
        """Until what nobody came back for has to go; for ever if there is no such thing."""
        if self._forget_at is None or not self._unclaimed:
            await asyncio.get_running_loop().create_future()
        else:
            await sleep_until(self._forget_at, self._clock, self._sleep)

    def erase(self) -> None:
        """Forget everything, on disk too: the server won't have this node."""
        self._unclaimed, self._saved, self._written = {}, [], b""
        self._unlink(key=True)

    def _erase_cut_off(self, snapshot: Snapshot | None) -> None:
        """What may not be handed out any more leaves the disk at once, with all else for now."""
        now = self._clock.now()
        if snapshot is None or all(is_servable(kept, snapshot, now) for kept in self._saved):
            return
        self._saved = []
        self._unlink()

    def _unlink(self, *, key: bool = False) -> None:
        self._written = b""
        try:
            self._file.erase(key=key)
        except OSError as error:
            log.error("cache.not_erased", reason=str(error))

    async def _save(self, sync: Sync, cache: Cache) -> None:
        snapshot, message = sync.snapshot, sync.message
        if snapshot is None or message is None:
            return  # nothing was heard yet, or the server won't have this node
        self._drop_unclaimed(snapshot, sync.is_restored)
        svids = [*_collect(cache, self._clock.now()), *self._unclaimed.values()][:MAX_KEPT]
        state = KeptState(boot=self._boot, snapshot=message, svids=svids)
        try:
            written = await asyncio.to_thread(self._write, state)
        except OSError as error:
            log.warning("cache.not_saved", reason=str(error))
            return
        if sync.message is None:
            self._unlink(key=True)  # it was refused while that was written
            return
        self._written, self._saved = written, svids
        self._erase_cut_off(sync.snapshot)  # it may have changed while that was written

    def _write(self, state: KeptState) -> bytes:
        content = msgspec.msgpack.encode(state)
        digest = hashlib.sha256(content).digest()
        if digest != self._written:
            self._file.save(content, self._owner)
        return digest

    def _drop_unclaimed(self, snapshot: Snapshot, is_restored: bool) -> None:
        now = self._clock.now()
        if self._forget_at is None and not is_restored:
            self._forget_at = now + UNCLAIMED
        if self._forget_at is not None and now >= self._forget_at:
            self._unclaimed = {}
        self._unclaimed = {
            name: kept for name, kept in self._unclaimed.items() if is_servable(kept, snapshot, now)
        }


def is_servable(kept: KeptSvid, snapshot: Snapshot, now: datetime) -> bool:
    """Whether `snapshot` still lets it be handed out."""
    registration = snapshot.registrations.get(kept.identity_id)
    return (
        registration is not None
        and registration.spiffe_id == kept.spiffe_id
        and registration.is_servable(now)
        and kept.not_after > now
        and kept.instance_id not in snapshot.locked
        and int(kept.serial, 16) not in snapshot.revoked
    )


def _collect(cache: Cache, now: datetime) -> list[KeptSvid]:
    found = []
    for workload in cache:
        name = name_process(workload.process)
        for identity_id, holding in workload.holdings.items():
            svid = holding.svid
            if svid is None or holding.cut_off or svid.not_after <= now:
                continue
            assert holding.content is not None, "an SVID says something"
            found.append(
                KeptSvid(
                    process=name,
                    pid=workload.process.pid,
                    identity_id=identity_id,
                    instance_id=holding.instance_id,
                    spiffe_id=svid.spiffe_id,
                    dns_names=list(holding.content.dns_names),
                    x509_ttl=holding.content.x509_ttl,
                    chain=list(svid.chain),
                    key=svid.private_key,
                    renew_at=holding.renew_at,
                    not_after=svid.not_after,
                    serial=f"{holding.serial:x}",
                    signer=holding.signer,
                )
            )
    return found
