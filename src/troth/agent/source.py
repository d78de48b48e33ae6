"""What the socket asks: who a peer is, what it may see, and tokens. Implements `view.Source`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import structlog

from troth.agent.attestation import Attestation
from troth.agent.cache import Cache, Process
from troth.agent.refusals import Refusals, refuse_process
from troth.agent.sightings import NotIntroduced, Sightings
from troth.agent.snapshot import Registration, Snapshot
from troth.agent.sync import Sync
from troth.agent.tokens import Tokens
from troth.agent.view import Caller, JwtSvid, View
from troth.agent.workloads import Workloads, soften
from troth.core.clock import Clock
from troth.core.errors import Denied, Internal, Invalid, Limited, TrothError, Unavailable
from troth.drivers.attestors import Peer
from troth.identity.identity import State
from troth.issuance.jwtsvid import check_audiences, validate_jwt_svid

log = structlog.get_logger(__name__)

PATIENCE = 5.0
"""Seconds that a caller waits for an agent that has just started, instead of being sent away."""
SHOWN = 5


@dataclass(frozen=True, slots=True)
class AttestedCaller(Caller):
    """A caller with what was found out about its process."""

    process: Process = field(kw_only=True)


class NodeSource:
    """The agent's answers, from the newest snapshot and the cache."""

    def __init__(
        self,
        *,
        attestation: Attestation,
        sync: Sync,
        cache: Cache,
        workloads: Workloads,
        tokens: Tokens,
        refusals: Refusals,
        clock: Clock,
        sightings: Sightings | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._attestation = attestation
        self._sync = sync
        self._cache = cache
        self._workloads = workloads
        self._tokens = tokens
        self._refusals = refusals
        self._clock = clock
        self._sightings = sightings
        self._patience = patience

    async def wait_until_ready(self) -> None:
        """Wait for the server's first word, at most `patience` seconds; then `Unavailable`."""
        try:
            async with asyncio.timeout(self._patience):
                while self._sync.snapshot is None:
                    await self._sync.changes.wait_beyond(self._sync.changes.version)
        except TimeoutError:
            self._sync.require_snapshot()

    async def attest(self, peer: Peer) -> AttestedCaller:
        """Who `peer` is; `Denied` if nothing is registered for it, `Unavailable` while starting.

        If a template has an identity for it, it comes first; that may take some seconds.
        """
        self._sync.require_snapshot()
        process = await self._attestation.examine(peer)
        snapshot = self._sync.require_snapshot()
        if self._is_new(process, snapshot):
            snapshot = await self._introduce(process, snapshot)
        if not snapshot.match(process.attested):
            self._refuse(process, snapshot)
        return AttestedCaller(
            peer=peer, selectors=process.selectors, key=process.key, process=process
        )

    def watch(self, caller: Caller) -> AsyncIterator[View]:
        """The caller's view now, then after each change."""
        return self._workloads.watch(_require_process(caller))

    async def fetch_jwt_svids(
        self, caller: Caller, audiences: tuple[str, ...], spiffe_id: str | None
    ) -> tuple[JwtSvid, ...]:
        """Tokens for all the caller's identities that may be served, or for `spiffe_id` alone."""
        audiences = check_audiences(audiences)  # here, since it would go with the wishes of others
        process = _require_process(caller)
        snapshot = self._sync.require_snapshot()
        workload = self._cache.admit(process, self._clock.monotonic())
        workload.used_at = self._clock.monotonic()
        wanted = self._select_servable(snapshot, process, spiffe_id)
        issues = [
            self._tokens.issue(workload, registration, audiences, snapshot)
            for registration in wanted
        ]
        try:
            tokens = tuple(await asyncio.gather(*issues))
        except TrothError as error:
            raise soften(error) from error
        # The answers took time: what was cut off meanwhile is not handed out.
        still = self._select_servable(self._sync.require_snapshot(), process, spiffe_id)
        servable = {registration.spiffe_id for registration in still}
        return tuple(token for token in tokens if token.spiffe_id in servable)

    async def validate_jwt_svid(
        self, caller: Caller, audience: str, token: str
    ) -> tuple[str, Mapping[str, Any]]:
        """The SPIFFE ID and claims of a sound token whose identity isn't cut off anywhere."""
        _require_process(caller)
        snapshot = self._sync.require_snapshot()
        keys = {snapshot.trust_domain.name: snapshot.jwks["keys"]}
        claims = validate_jwt_svid(token, audience, keys, self._clock.now())
        subject = str(claims["sub"])
        if subject in snapshot.cut_off:
            raise Invalid("The token's identity is cut off: suspended, quarantined or retired.")
        return subject, claims

    def _is_new(self, process: Process, snapshot: Snapshot) -> bool:
        """Whether the server is to be asked for an identity: a template fits, and none is there."""
        if self._sightings is None or not snapshot.offers:
            return False
        now = self._clock.now()
        if not all(
            registration.is_lapsed(now) for registration in snapshot.match(process.attested)
        ):
            return False
        return snapshot.offers.choose(process.attested).template is not None

    async def _introduce(self, process: Process, snapshot: Snapshot) -> Snapshot:
        assert self._sightings is not None
        try:
            return await self._sightings.introduce(process)
        except NotIntroduced as error:
            self._refuse(process, snapshot, error.detail)
        except Unavailable as error:
            if isinstance(error.__cause__, Limited):  # worth a look by those who set the bounds
                now = self._clock.monotonic()
                self._refusals.note(process, snapshot, now, error.detail)
            raise

    def _refuse(self, process: Process, snapshot: Snapshot, reason: str | None = None) -> NoReturn:
        if self._refusals.note(process, snapshot, self._clock.monotonic(), reason):
            log.info("workload.refused", pid=process.pid, selectors=list(process.selectors))
        raise refuse_process(process)

    def _select_servable(
        self, snapshot: Snapshot, process: Process, spiffe_id: str | None
    ) -> list[Registration]:
        matched = snapshot.match(process.attested)
        if not matched:
            self._refuse(process, snapshot)
        if spiffe_id is not None:
            matched = [r for r in matched if r.spiffe_id == spiffe_id]
            if not matched:
                raise Denied(f"This process doesn't hold {spiffe_id[:300]!r}.")
        now = self._clock.now()
        workload = self._cache.find(process.key)
        holdings = workload.holdings if workload is not None else {}
        servable = [
            registration
            for registration in matched
            if registration.is_servable(now)
            and (
                registration.identity_id not in holdings
                or holdings[registration.identity_id].instance_id not in snapshot.locked
            )
        ]
        if not servable:
            states = ", ".join(f"{r.spiffe_id} ({_say_state(r)})" for r in matched[:SHOWN])
            raise Denied(
                f"The identity of this process is cut off for now; nothing is issued: {states}."
            )
        return servable


def _say_state(registration: Registration) -> str:
    if registration.state != State.ACTIVE:
        return registration.state[:40]
    return "its end has come, or this copy is locked"


def _require_process(caller: Caller) -> Process:
    if not isinstance(caller, AttestedCaller):
        raise Internal("The caller was not attested by this source.")
    return caller.process
