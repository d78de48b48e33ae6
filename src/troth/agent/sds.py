"""Envoy's secret discovery service on the agent's socket: StreamSecrets and FetchSecrets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from troth.agent.call import Call, Handler
from troth.agent.subscription import Subscription
from troth.agent.tombstone import Tombstone
from troth.agent.view import Source, View
from troth.agent.watch import merge, watch_views
from troth.core.errors import Denied, Unimplemented
from troth.wire.sds import SERVICE, SecretRequest, parse_request, render_response


class SecretDiscovery:
    """The SDS service. Envoy sends no security header, so none is asked for."""

    def __init__(self, source: Source, tombstone: Tombstone) -> None:
        self._source = source
        self._tombstone = tombstone

    def methods(self) -> Mapping[str, Handler]:
        """The three methods of the service."""
        return {
            f"/{SERVICE}/StreamSecrets": self.stream_secrets,
            f"/{SERVICE}/FetchSecrets": self.fetch_secrets,
            f"/{SERVICE}/DeltaSecrets": self.refuse_delta,
        }

    async def stream_secrets(self, call: Call) -> None:
        """Answer subscriptions and push what changes, until the caller or the source goes away.

        A caller that has no more to ask may still listen.
        """
        subscription = Subscription(self._tombstone)
        subscription.apply_request(parse_request(await call.receive_first()))
        caller = await call.attest(self._source)
        views = watch_views(self._source, caller)
        try:
            async with aclosing(merge(_read_requests(call), views)) as news:
                async for item in news:
                    if isinstance(item, View):
                        subscription.apply_view(item)
                    else:
                        subscription.apply_request(item)
                    await _send_next(call, subscription)
        except Denied:
            # Envoy would keep its last certificate when the stream merely ends.
            subscription.withdraw_all()
            await _send_next(call, subscription)
            raise

    async def fetch_secrets(self, call: Call) -> None:
        """Answer once with what is known now."""
        subscription = Subscription(self._tombstone)
        subscription.apply_request(parse_request(await call.receive_first()))
        caller = await call.attest(self._source)
        async with aclosing(watch_views(self._source, caller)) as views:
            subscription.apply_view(await anext(views))
        await call.send(subscription.next_response() or render_response("", "", ()))

    async def refuse_delta(self, call: Call) -> None:
        """DeltaSecrets is not offered; Envoy's configuration says which variant it uses."""
        raise Unimplemented("DeltaSecrets isn't offered; set the SDS source's api_type to GRPC.")


async def _read_requests(call: Call) -> AsyncGenerator[SecretRequest | View, None]:
    while (message := await call.receive()) is not None:
        yield parse_request(message)


async def _send_next(call: Call, subscription: Subscription) -> None:
    response = subscription.next_response()
    if response is not None:
        await call.send(response)
