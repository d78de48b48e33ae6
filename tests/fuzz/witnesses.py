"""Notes, checkpoints and what witnesses are asked and answer: from logs and witnesses of others."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import strategies as st

from tests.fakes.witnesses import OtherLog, make_desk, make_signer
from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import mutated, mutated_text
from troth.audit.checkpoint import open_checkpoint, parse_checkpoint, render_checkpoint
from troth.audit.cosignature import read_timestamp
from troth.audit.merkle import verify_consistency
from troth.audit.note import (
    Note,
    parse_note,
    parse_signatures,
    parse_vkey,
    raw_public,
    render_note,
    render_signature,
    verify_note,
)
from troth.audit.witness import (
    SIZE_TYPE,
    Cosigned,
    Declined,
    Submission,
    parse_answer,
    parse_submission,
    render_size,
    render_submission,
    select_cosignatures,
)
from troth.server.witness.app import WitnessApp
from troth.server.witness.desk import WitnessDesk

LEDGER: dict[str, str] = {
    "note": """
        audit.cosignature._load
        audit.cosignature.read_timestamp
        audit.note._decode
        audit.note._parse_line
        audit.note._parse_lines
        audit.note.decode_base64
        audit.note.parse_note
        audit.note.parse_signatures
    """,
    "vkey": """
        audit.note.parse_vkey
    """,
    "raw-public": """
        audit.note.raw_public
    """,
    "checkpoint": """
        audit.checkpoint.parse_checkpoint
        audit.checkpoint.parse_size
    """,
    "witness-submission": """
        audit.witness._parse_hash
        audit.witness.parse_submission
    """,
    "witness-answer": """
        audit.witness.parse_answer
    """,
}
"""The part of `tests.fuzz.ledger` that belongs here."""

LOG = OtherLog()
LOG.grow(20)
FORK = OtherLog(history="false")
FORK.grow(20)
SIGNER = make_signer()
SIGNED = LOG.sign()
COSIGNED = SIGNER.cosign(parse_checkpoint(SIGNED.text), SIGNED.text, 1_700_000_000)
NOTE = render_note(Note(SIGNED.text, (*SIGNED.signatures, *COSIGNED)))
EXTENDED = render_note(LOG.sign(7, "one more", "\u2028line"))
KNOWN = (LOG.key, *SIGNER.public)
LINES = "".join(map(render_signature, COSIGNED)).encode()
SPKI = tuple(
    key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for key in (
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key(),
        mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32)).public_key(),
    )
)


@fuzz(mutated(NOTE, EXTENDED))
def fuzz_note(data: bytes) -> None:
    note = answer(parse_note, data)
    if note is not None:
        assert render_note(note) == data
        assert answer(parse_signatures, data.rpartition(b"\n\n")[2]) == note.signatures
        for signature in note.signatures:
            answer(read_timestamp, signature)
        signers = answer(verify_note, note, KNOWN)
        if signers is not None:
            assert set(signers) <= set(KNOWN)
            assert note.text in (SIGNED.text, LOG.sign(7, "one more", "\u2028line").text)


@fuzz(mutated_text(LOG.key.render(), *(key.render() for key in SIGNER.public)))
def fuzz_vkey(text: str) -> None:
    key = answer(parse_vkey, text)
    if key is not None:
        assert key.render() == text


@fuzz(mutated(*SPKI))
def fuzz_raw_public(spki: bytes) -> None:
    found = answer(raw_public, spki)
    assert found is None or len(found) in (32, 1312)


@fuzz(mutated_text(SIGNED.text, LOG.sign(7, "one more").text))
def fuzz_checkpoint(text: str) -> None:
    found = answer(parse_checkpoint, text)
    if found is not None:
        assert render_checkpoint(found) == text
    answer(open_checkpoint, NOTE.replace(b"one", text.encode(errors="replace")), KNOWN)


@contextmanager
def open_desk() -> Iterator[WitnessDesk]:
    with tempfile.TemporaryDirectory() as folder:
        desk = make_desk(Path(folder), LOG.key)
        assert isinstance(desk.submit(LOG.submit(0, 12)), tuple)
        yield desk


SUBMISSIONS = (
    LOG.submit(12, 20),
    LOG.submit(12, 12),
    LOG.submit(0, 20),
    FORK.submit(12, 20),
    FORK.submit(12, 12),
    render_submission(Submission(12, LOG.prove(12, 20), parse_note(NOTE))),
)


@fuzz(mutated(*SUBMISSIONS), stage=open_desk)
def fuzz_witness_submission(body: bytes, desk: WitnessDesk) -> None:
    """Whatever is submitted, the witness only ever goes forward, and on one history."""
    submission = answer(parse_submission, body)
    if submission is not None:
        assert render_submission(submission) == body
    before = desk.records.find(LOG.origin)
    status, media_type, said = asyncio.run(_post(desk, body))
    after = desk.records.find(LOG.origin)
    assert before is not None
    assert after is not None
    assert status in (200, 400, 403, 404, 409, 413, 422)
    assert answer(parse_answer, status, media_type, said) is not None or status == 413
    assert (status == 200) or after == before
    old, new = before.checkpoint, after.checkpoint
    verify_consistency(old.size, old.root, new.size, new.root, LOG.prove(old.size, new.size))
    assert new.root == LOG.tree.root(new.size)


async def _post(desk: WitnessDesk, body: bytes) -> tuple[int, str, bytes]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/add-checkpoint"}
    await WitnessApp(desk)(scope, receive, send)
    head, end = sent
    return head["status"], dict(head["headers"])[b"content-type"].decode(), end["body"]


@fuzz(
    st.tuples(
        st.sampled_from((200, 400, 403, 404, 409, 422)) | st.integers(100, 599),
        st.sampled_from((SIZE_TYPE, "text/plain", "")) | st.text(max_size=20),
        mutated(LINES, render_size(12), b"0\n"),
    )
)
def fuzz_witness_answer(said: tuple[int, str, bytes]) -> None:
    found = answer(parse_answer, *said)
    if isinstance(found, Cosigned):
        picked = answer(select_cosignatures, SIGNED.text, found.signatures, SIGNER.public)
        assert picked is None or set(picked) <= set(COSIGNED)
    elif isinstance(found, Declined):
        assert 0 <= found.size < 1 << 63
