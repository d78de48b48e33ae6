"""``envoy.service.auth.v3.Authorization``: Envoy's ext_authz over gRPC.

A refusal is an answer with status OK of the call, which carries what the client gets. What is the
proxy's fault or ours ends the call with an error, on which Envoy lets nothing through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from troth.core.errors import Invalid
from troth.operations.dispatch import Dispatcher
from troth.server.grpc.call import Handler, Peer
from troth.server.http.callers import CallerRegistry
from troth.wire.api.enforcement import EnforcedDecision
from troth.wire.ext_authz_grpc import SERVICE, parse_check, render_check

log = structlog.get_logger(__name__)

OPERATION = "decision.enforce"


@dataclass(frozen=True, slots=True)
class AuthorizationService:
    """Answers proxies that prove themselves by their certificate."""

    dispatcher: Dispatcher
    callers: CallerRegistry

    def methods(self) -> Mapping[str, Handler]:
        """Handlers by path."""
        return {f"/{SERVICE}/Check": self.check}

    async def check(self, peer: Peer, message: bytes) -> bytes:
        """One CheckRequest."""
        request_id = self.dispatcher.new_request_id()
        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            self.dispatcher.count_refusal(OPERATION),
        ):
            caller = self.callers.confirm_certificate(peer.certificate, peer.source)
            if caller is None:
                caller = await self.callers.by_certificate(peer.certificate, peer.source)
        try:
            question = parse_check(message)
        except Invalid as error:
            log.info("enforcement.unclear", caller=caller.principal, reason=error.detail)
            return render_check(
                EnforcedDecision(allowed=False, decision="", status=403, reason="bad_request")
            )
        answer: EnforcedDecision = await self.dispatcher.call(
            OPERATION, caller, request_id, question
        )
        return render_check(answer)
