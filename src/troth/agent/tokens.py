"""JWT-SVIDs for the processes of this node: asked for once, kept until half their life.

A kept token is used only while everything is as it was when it was issued: the same registration,
still servable, and the same locks.
"""

from __future__ import annotations

import structlog

from troth.agent.batches import Batches
from troth.agent.cache import Process, Token, Workload
from troth.agent.lanes import Lanes
from troth.agent.snapshot import Registration, Snapshot
from troth.agent.timing import place_renewal
from troth.agent.view import JwtSvid
from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Conflict, Denied, Internal, NotFound, Refused, TrothError
from troth.core.jose.jws import parse_token
from troth.wire.api.certificates import InstanceClaim
from troth.wire.api.jwt_svids import IssuedJwtSvid, JwtSvidRequest

log = structlog.get_logger(__name__)

PARALLEL_PER_UID = 64
"""A quarter of a batch: one uid that asks for many keeps nobody else waiting."""
WAITING_PER_UID = 256
_CUT_OFF = (Denied, Refused, NotFound, Conflict)
"""What may concern the identity. The rest says something about the call, and a token that was
issued for the same audiences, and lives, is as good as before."""


class Tokens:
    """Issues and keeps JWT-SVIDs."""

    def __init__(
        self, batches: Batches[JwtSvidRequest, IssuedJwtSvid], clock: Clock, entropy: Entropy
    ) -> None:
        self._batches = batches
        self._clock = clock
        self._entropy = entropy
        self._lanes = Lanes(PARALLEL_PER_UID, WAITING_PER_UID)

    async def issue(
        self,
        workload: Workload,
        registration: Registration,
        audiences: tuple[str, ...],
        snapshot: Snapshot,
    ) -> JwtSvid:
        """A token for the workload as `registration`; raises what the server answers."""
        key = (registration.identity_id, tuple(sorted(set(audiences))))
        kept = workload.tokens.get(key)
        now = self._clock.now()
        if kept is not None and (
            kept.registration != registration
            or kept.locked != snapshot.locked
            or kept.expires_at <= now
        ):
            del workload.tokens[key]
            kept = None
        if kept is None or now >= kept.renew_at or kept.signer in snapshot.tainted:
            try:
                kept = await self._ask(workload.process, registration, key[1], snapshot)
            except TrothError as error:
                if kept is None or isinstance(error, _CUT_OFF):
                    raise
                log.warning("jwt.serving_kept", reason=error.detail)
            else:
                workload.keep_token(key, kept)
        return JwtSvid(registration.spiffe_id, kept.token, registration.hint)

    async def _ask(
        self,
        process: Process,
        registration: Registration,
        audiences: tuple[str, ...],
        snapshot: Snapshot,
    ) -> Token:
        claim = InstanceClaim(
            key=process.instance_key, pid=process.pid, selectors=list(process.selectors)
        )
        request = JwtSvidRequest(
            identity_id=registration.identity_id, instance=claim, audiences=list(audiences)
        )
        await self._lanes.enter(process.uid)
        try:
            issued = await self._batches.issue(request)
        finally:
            self._lanes.leave(process.uid)
        now = self._clock.now()
        if (
            issued.spiffe_id != registration.spiffe_id
            or issued.expires_at is None
            or issued.expires_at.tzinfo is None
            or issued.expires_at <= now
        ):
            raise Internal("The server issued a token that is not what was asked for.")
        return Token(
            token=issued.token,
            renew_at=place_renewal(now, issued.expires_at, self._entropy),
            expires_at=issued.expires_at,
            registration=registration,
            locked=snapshot.locked,
            signer=str(parse_token(issued.token).header.get("kid", "")),
        )
