"""Whose trace a request belongs to: the caller's own only if it may call."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tests.unit.server.http.stage import AGENT, Registry, in_loop, open_stage
from troth.core.tracing import (
    NO_SPAN,
    Kind,
    NullTracer,
    Span,
    TraceContext,
    render_traceparent,
)

PLACE = TraceContext(0xA1 << 120, 0xB2 << 56, True)
SENT = {"traceparent": render_traceparent(PLACE)}


class Parents(NullTracer):
    """Records nothing but whose spans requests would hang on."""

    enabled = True

    def __init__(self) -> None:
        self.seen: list[TraceContext | None] = []

    def span(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        *,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
    ) -> AbstractContextManager[Span]:
        """Keep the parent of a request."""
        if kind is Kind.SERVER:
            self.seen.append(parent)
        return NO_SPAN


@in_loop
async def test_a_stranger_begins_a_trace_of_ours(tmp_path: Path):
    tracer = Parents()
    async with open_stage(tmp_path, tracer=tracer) as stage:
        client = await stage.public_client()
        for path in ("/bundle", "/v1/identities"):
            await client.get(path, headers=SENT)
        await client.post("/v1/nodes/attest", headers=SENT, json={})
    assert tracer.seen == [None, None, None]


@in_loop
async def test_who_may_call_goes_on_with_its_own_trace(tmp_path: Path):
    tracer = Parents()
    async with open_stage(tmp_path, tracer=tracer) as stage:
        node = await stage.node_client(stage.authority.issue(AGENT), tmp_path)
        for client in (node, await stage.admin_client()):
            await client.get("/healthz", headers=SENT)
            await client.get("/healthz")
    assert tracer.seen == [PLACE, None, PLACE, None]


@in_loop
async def test_who_may_no_longer_call_is_a_stranger(tmp_path: Path):
    tracer, registry = Parents(), Registry()
    async with open_stage(tmp_path, tracer=tracer, registry=registry) as stage:
        node = await stage.node_client(stage.authority.issue(AGENT), tmp_path)
        admin = await stage.admin_client()
        await node.get("/healthz", headers=SENT)
        registry.revoked, registry.uids = True, set()
        for client in (node, admin):
            await client.get("/healthz", headers=SENT)
    assert tracer.seen == [PLACE, None, None]
