"""What somebody in the agent's place can tell a workload: the Workload API's answers, as the SDK
and the command line take them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf import struct_pb2
from hpack import Encoder
from hypothesis import strategies as st

from tests.fakes.issuer import FakeIssuer, encode_spki
from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import JSON, mutated, mutated_der, mutated_text
from troth.cli.svid import view_update, write_svids
from troth.sdk.credential import X509Credential
from troth.sdk.tls import Contexts, Pair
from troth.sdk.workload import WorkloadApi
from troth.wire.protobuf import build_messages
from troth.wire.workload import MESSAGES

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4

ISSUER = FakeIssuer()
KEY = ec.generate_private_key(ec.SECP256R1())
_PKCS8 = KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
_LEAF = ISSUER.issue(ISSUER.plan(public_key=encode_spki(KEY)))
_ROOT, _CRL = ISSUER.x509.certificate, ISSUER.issue_crl()
_TYPES: dict[str, Any] = build_messages("fuzz/workload.proto", MESSAGES, (struct_pb2.DESCRIPTOR,))


def frame(kind: int, flags: int, stream_id: int, body: bytes) -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + body


# The agent


@dataclass
class Pretender:
    """Answers every call on its socket with the bytes that a test gives it."""

    path: Path
    answer: bytes = b""
    server: asyncio.Server = field(init=False)
    talks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self) -> None:
        self.server = await asyncio.start_unix_server(self._talk, str(self.path))

    async def close(self) -> None:
        self.server.close()
        while self.talks:
            await asyncio.wait(self.talks)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self.talks.add(talk)
        talk.add_done_callback(self.talks.discard)
        try:
            writer.write(frame(SETTINGS, 0, 0, b""))
            await reader.readexactly(len(PREFACE))
            while True:  # until the request is here: nobody answers a call that isn't made
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == DATA and head[4] & END_STREAM:
                    break
            writer.write(self.answer)
            writer.write_eof()
            while await reader.read(1 << 16):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@dataclass
class Stage:
    agent: Pretender
    api: WorkloadApi
    folder: Path


@contextmanager
def open_agent() -> Iterator[Stage]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        agent = Pretender(folder / "agent.sock")
        loop = asyncio.new_event_loop()
        loop.run_until_complete(agent.serve())
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield Stage(agent, WorkloadApi(f"unix://{agent.path}"), folder / "out")
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.run_until_complete(agent.close())
            loop.close()


@dataclass(frozen=True)
class Held:
    """What the agent gave, as whoever asks for tokens holds it."""

    spiffe_id: str
    pair: Pair


# Its answers


def _render(messages: list[bytes], status: str, words: str) -> bytes:
    """A well-formed answer: headers, messages, and the status at its end."""
    encoder = Encoder()
    head = encoder.encode([(":status", "200"), ("content-type", "application/grpc+proto")])
    tail = encoder.encode([("grpc-status", status), ("grpc-message", words)])
    prefixed = (b"\0" + len(message).to_bytes(4, "big") + message for message in messages)
    return (
        frame(HEADERS, END_HEADERS, 1, head)
        + b"".join(frame(DATA, 0, 1, message) for message in prefixed)
        + frame(HEADERS, END_HEADERS | END_STREAM, 1, tail)
    )


def _encode(name: str, **fields: Any) -> bytes:
    encoded: bytes = _TYPES[name](**fields).SerializeToString()
    return encoded


def _encode_x509(leaf: bytes, key: bytes, bundle: bytes, crl: bytes, name: str) -> bytes:
    svid = {
        "spiffe_id": name.encode(errors="replace").decode(),
        "x509_svid": leaf,
        "x509_svid_key": key,
        "bundle": bundle,
    }
    return _encode("X509SVIDResponse", svids=[svid], crl=[crl], federated_bundles={"a": bundle})


def _odd(*seeds: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(seeds) | mutated_der(*seeds)


_UPDATES = st.builds(
    _encode_x509,
    _odd(_LEAF),
    _odd(_PKCS8),
    _odd(_ROOT) | st.just(b""),
    _odd(_CRL),
    mutated_text("spiffe://example.org/payments"),
)
_UPDATE = _encode_x509(_LEAF, _PKCS8, _ROOT, _CRL, "spiffe://example.org/payments")
_TOKEN = {"spiffe_id": "spiffe://example.org/a", "svid": "a.b.c", "hint": "h"}
_TOKENS = _encode("JWTSVIDResponse", svids=[_TOKEN])


def _encode_claims(claims: Any) -> bytes:
    held = struct_pb2.Struct()
    try:
        held.update({"aud": ["ledger"], "extra": claims})
    except (ValueError, TypeError, OverflowError):  # protobuf can't say it, so nobody can send it
        held.Clear()
    return _encode("ValidateJWTSVIDResponse", spiffe_id="spiffe://example.org/a", claims=held)


_CLAIMS = (JSON | st.floats()).map(_encode_claims)
_DEEP = b"\x12\x7f\x0a\x7f" * 2_000
_MESSAGES = _UPDATES | _CLAIMS | mutated(_UPDATE, _TOKENS, _encode_claims({"n": [1, None]}), _DEEP)
_STATUSES = st.sampled_from(["0", "0", "0", "3", "7", "14", "99", "-1", "", "x", "9" * 5_000])
_ANSWERS = st.builds(
    _render, st.lists(_MESSAGES, max_size=2), _STATUSES, st.sampled_from(["", "No.", "%", "%ff%zz"])
)
_FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.integers(0, 3),
    st.binary(max_size=40) | st.just(b"\x88") | st.binary(min_size=4, max_size=6),
)


@fuzz(
    _ANSWERS
    | mutated(_render([_UPDATE], "0", ""), _render([_TOKENS], "0", ""), _render([], "7", "No."))
    | st.lists(_FRAMES, max_size=10).map(b"".join),
    examples=100,
    stage=open_agent,
)
def fuzz_workload_answer(data: bytes, stage: Stage) -> None:
    stage.agent.answer = data
    api = stage.api
    calls: tuple[Callable[[], Any], ...] = (
        lambda: api.fetch_jwt(("ledger",), ""),
        lambda: api.validate_jwt("ledger", "a.b.c"),
    )
    for call in calls:
        answer(call, internal=True)
    update = answer(api.fetch_x509, internal=True)
    if update is None:
        return
    answer(view_update, update, internal=True)
    answer(write_svids, stage.folder, update, internal=True)
    for svid in update.svids:
        assert all(der[:1] == b"\x30" for der in (*svid.chain, *svid.bundle))
        pair = Pair(svid.key, svid.chain, svid.bundle)
        answer(Contexts().install, pair, internal=True)
        answer(X509Credential(Held(svid.spiffe_id, pair)).show, "https://localhost", internal=True)
