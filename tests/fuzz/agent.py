"""What a hostile or broken server can tell an agent: every byte of ``node.sync``."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import msgspec
from hypothesis import strategies as st

from tests.fakes.issuer import NOW, FakeIssuer
from tests.fakes.server import make_entry
from tests.fuzz.api import chop
from tests.fuzz.harness import check_refusal, fuzz
from tests.fuzz.issuance import JWK
from tests.fuzz.mutations import json_documents, mutated, mutated_der, mutated_json, render_json
from troth.agent.connection import Connection, _Line
from troth.agent.sealing import Unsealable, seal, unseal
from troth.agent.snapshot import read_snapshot
from troth.agent.sync import Sync
from troth.agent.vault import KeptState, parse_state
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Internal, TrothError
from troth.identity.selectors import Selector
from troth.wire.api.nodes import Heartbeat, NodeSnapshot, StreamEnd, TemplateEntry

ISSUER = FakeIssuer()
ROOT, CRL = ISSUER.x509.certificate, ISSUER.issue_crl()
SNAPSHOT: dict[str, Any] = msgspec.to_builtins(
    NodeSnapshot(
        epoch=7,
        lease=30,
        trust_domain="example.org",
        entries=[make_entry("web", hint="a", dns_names=["a.b"]), make_entry("db", "unix:gid:5")],
        locked=["ins_1"],
        x509_authorities=[ROOT],
        crls=[CRL],
        jwks={"keys": [JWK]},
        cut_off=["spiffe://example.org/bad"],
        templates=[TemplateEntry(name="batch", match=["unix:uid:1-9", "unix:path:/opt/**"])],
    )
)
_OTHERS = [
    msgspec.to_builtins(Heartbeat(epoch=1)),
    msgspec.to_builtins(StreamEnd(code="unavailable", detail="Restarting.", retryable=True)),
]


def _hold(field: str) -> Any:
    def put(der: bytes) -> bytes:
        return render_json({**SNAPSHOT, field: [b64encode(der).decode()]})

    return put


_LINES = (
    json_documents(SNAPSHOT)
    | json_documents(*_OTHERS)
    | mutated_json(SNAPSHOT["entries"][0]).map(lambda e: render_json({**SNAPSHOT, "entries": [e]}))
    | mutated_json(SNAPSHOT["templates"]).map(lambda t: render_json({**SNAPSHOT, "templates": t}))
    | mutated_der(ROOT).map(_hold("x509_authorities"))
    | mutated_der(CRL).map(_hold("crls"))
)


@contextmanager
def open_loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@fuzz(
    st.tuples(st.lists(_LINES, max_size=3), st.lists(st.integers(0, 5_000), max_size=3)),
    stage=open_loop,
)
def fuzz_node_sync(found: tuple[list[bytes], list[int]], runner: asyncio.Runner) -> None:
    runner.run(_follow(b"".join(line + b"\n" for line in found[0]), found[1]))


async def _follow(data: bytes, cuts: list[int]) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in chop(data, cuts):
            yield piece

    async def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=pieces())

    async def sleep(_: float) -> None:
        raise AssertionError("one attempt is enough")

    connection = await _connect(httpx.MockTransport(respond))
    sync = Sync(connection, VirtualClock(NOW), SeededEntropy(), sleep)
    try:
        await sync._follow()
    except TrothError as error:
        check_refusal(error, internal=True)
    await connection.close()
    if (snapshot := sync.snapshot) is None:
        return
    assert snapshot.roots
    msgspec.json.decode(snapshot.bundle.jwks)
    for registration in snapshot.registrations.values():
        assert registration.spiffe_id.startswith(f"spiffe://{snapshot.trust_domain}/")
        registration.is_servable(NOW)
        assert all(isinstance(selector, Selector) for selector in registration.selectors)
        found = snapshot.match(frozenset(registration.selectors))
        assert not registration.selectors or registration in found
    assert not snapshot.match(frozenset())
    snapshot.rank_nearest(frozenset({Selector("unix:uid", "1001")}), 3, 10)


async def _connect(transport: httpx.AsyncBaseTransport) -> Connection:
    """The agent's own connection, with a transport of ours underneath."""
    connection = Connection("https://localhost:1", (ROOT,))
    await connection._line.client.aclose()
    connection._line = _Line(httpx.AsyncClient(transport=transport, base_url="https://x"))
    return connection


_STATE = msgspec.msgpack.encode(
    KeptState(boot="b", snapshot=msgspec.convert(SNAPSHOT, NodeSnapshot), svids=[])
)
_SECRET, _OWNER = b"k" * 32, "nod_1 spiffe://example.org/troth/node/local"
_SEALED = seal(_SECRET, _STATE, _OWNER, b"n" * 12)


@fuzz(st.binary(max_size=64) | mutated(_SEALED))
def fuzz_sealed_cache(data: bytes) -> None:
    """What lies on the agent's disk: only what was sealed opens."""
    with suppress(Unsealable):
        assert unseal(_SECRET, data, _OWNER) == _STATE


@fuzz(mutated(_STATE))
def fuzz_kept_state(data: bytes) -> None:
    with suppress(Unsealable):
        state = parse_state(data)
        with suppress(Internal):
            read_snapshot(state.snapshot, None)
