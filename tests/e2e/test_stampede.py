"""Many agents that lose their server at once, over real mutual TLS: all are back soon.

A hundred by default; ``STAMPEDE=1000`` makes it a thousand, which takes a minute or two.
"""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from structlog.testing import capture_logs

from tests.e2e.processes import Server
from troth.agent.connection import Connection
from troth.agent.credential import Credential, compose_credential, generate_key, make_csr
from troth.agent.sync import Sync
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy
from troth.wire.api.nodes import AttestNode, CreateJoinToken

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

AGENTS = int(os.environ.get("STAMPEDE", "100"))
BACK_SECONDS = 15.0 + AGENTS / 20
"""From the start of the server until the last agent has heard it: its own start, the longest
pause of an agent (5 s, 10 s in a large fleet), and a slow machine's handshakes."""


def join(troth: Server, count: int) -> list[Credential]:
    """That many nodes, attested through the admin socket."""
    found = []
    with troth.connect() as client:
        for number in range(count):
            key = generate_key()
            token = client.call("token.join", CreateJoinToken(node=f"n{number}")).token
            request = AttestNode(method="join_token", evidence=token, csr=make_csr(key))
            answer = client.call("node.attest", request)
            found.append(
                compose_credential(
                    node_id=answer.node_id,
                    spiffe_id=answer.spiffe_id,
                    key=key,
                    chain=tuple(answer.chain),
                    roots=tuple(answer.x509_authorities),
                )
            )
    return found


async def wait_for_word(agents: list[Sync], heard: list[int], seconds: float) -> None:
    """Wait until every agent has heard more than it had."""
    async with asyncio.timeout(seconds):
        for agent, before in zip(agents, heard, strict=True):
            await agent.changes.wait_beyond(before)


async def run(troth: Server, credentials: list[Credential]) -> float:
    """Seconds from the server's second start until the last agent is back."""
    lines = [Connection(troth.mutual, held.roots, held) for held in credentials]
    agents = [Sync(line, SystemClock(), SystemEntropy(), asyncio.sleep) for line in lines]
    tasks = [asyncio.create_task(agent.run()) for agent in agents]
    try:
        await wait_for_word(agents, [0] * len(agents), BACK_SECONDS)
        heard = [agent.changes.version for agent in agents]
        await asyncio.to_thread(troth.daemon.kill)
        await asyncio.sleep(1)
        began = time.monotonic()
        await asyncio.to_thread(troth.start, "--no-agent")
        await wait_for_word(agents, heard, BACK_SECONDS)
        return time.monotonic() - began
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for line in lines:
            await line.close()


def test_all_agents_are_back_soon_after_the_server(lone_troth, record_property):
    lone_troth.start("--no-agent")
    credentials = join(lone_troth, AGENTS)
    with capture_logs() as logs:
        seconds = asyncio.run(run(lone_troth, credentials))
    record_property("agents", AGENTS)
    record_property("seconds", round(seconds, 2))
    print(f"{AGENTS} agents were back {seconds:.1f} s after the server was started")
    assert seconds < BACK_SECONDS
    refused = [e for e in logs if e.get("code") in ("permission_denied", "unauthenticated")]
    assert not refused
