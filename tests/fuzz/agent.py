"""What a hostile or broken server can tell an agent: every byte of ``node.sync``."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import strategies as st

from tests.fakes.issuer import NOW, FakeIssuer, encode_spki
from tests.fakes.server import make_entry
from tests.fuzz.api import PROBLEMS, chop
from tests.fuzz.harness import answer, check_refusal, fuzz
from tests.fuzz.issuance import JWK
from tests.fuzz.mutations import json_documents, mutated, mutated_der, mutated_json, render_json
from troth.agent.connection import LONGEST_RETRY, Connection, _Line, make_context
from troth.agent.membership import _read_answer
from troth.agent.sealing import Unsealable, seal, unseal
from troth.agent.snapshot import read_snapshot
from troth.agent.sync import Sync
from troth.agent.vault import KeptState, parse_state
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Internal, TrothError
from troth.core.ids import SpiffeId
from troth.identity.selectors import Selector
from troth.wire.api.nodes import (
    Heartbeat,
    NodeCredential,
    NodeSnapshot,
    RenewNode,
    StreamEnd,
    TemplateEntry,
)

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


_KEY = ec.generate_private_key(ec.SECP256R1())
_PKCS8 = _KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
_NODE_ID = SpiffeId.of(ISSUER.trust_domain, "/troth/node/local")
_LEAF = ISSUER.issue(ISSUER.plan(spiffe_id=_NODE_ID, public_key=encode_spki(_KEY)))
_CREDENTIAL: dict[str, Any] = msgspec.to_builtins(
    NodeCredential(
        node_id="nod_1",
        spiffe_id=str(_NODE_ID),
        chain=[_LEAF],
        x509_authorities=[ROOT],
        not_after=NOW,
    )
)
_ANSWERS = (
    json_documents(_CREDENTIAL)
    | mutated_der(_LEAF).map(
        lambda der: render_json({**_CREDENTIAL, "chain": [b64encode(der).decode()]})
    )
    | PROBLEMS
)


@fuzz(
    st.tuples(
        st.sampled_from([200, 200, 204, 301, 400, 403, 409, 429, 503]),
        st.sampled_from(["", "7", "9" * 7, "soon", "-1", "\xb2"]),
        _ANSWERS,
        st.lists(st.integers(0, 5_000), max_size=3),
    ),
    stage=open_loop,
)
def fuzz_agent_answer(found: tuple[int, str, bytes, list[int]], runner: asyncio.Runner) -> None:
    """What a node is told when it asks for its certificate."""
    runner.run(_renew(*found))


async def _renew(status: int, wait: str, body: bytes, cuts: list[int]) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in chop(body, cuts):
            yield piece

    async def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=[(b"retry-after", wait.encode())], content=pieces())

    connection = await _connect(httpx.MockTransport(respond))
    try:
        given = await connection.call("node.renew", RenewNode(csr=b"csr"))
        kept = _read_answer(given, _PKCS8, str(_NODE_ID))
    except TrothError as error:
        check_refusal(error, internal=True)
        _check_wait(getattr(error, "retry_after", None))
    else:
        assert kept.spiffe_id == str(_NODE_ID)
        answer(make_context, kept.roots, kept)
    finally:
        await connection.close()


def _check_wait(seconds: float | None) -> None:
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY


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
