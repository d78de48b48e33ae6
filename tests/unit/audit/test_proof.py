"""Proofs of a log as files: read strictly, written as they are read, shown step by step."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import aics_tlog
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.logs import make_signer, show_log
from troth.audit.merkle import HASH_SIZE
from troth.audit.note import (
    COSIGNATURE_ED25519,
    Note,
    Signature,
    VerifierKey,
    make_verifier_key,
    parse_note,
    render_note,
)
from troth.audit.proof import (
    LARGEST_EXTRA,
    LARGEST_PROOF,
    LogProof,
    Trust,
    parse_log_proof,
    render_log_proof,
    verify_checkpoint,
    verify_log_proof,
)
from troth.audit.proving import prove_entry
from troth.audit.witness import WitnessPolicy
from troth.core.errors import Invalid

LINES = "c2sp.org/tlog-proof@v1\nextra aGVsbG8=\nindex 7\n{hash}\n{hash}\n\n{note}"
HASH = b64encode(bytes(range(32))).decode()


def make_proof(position: int = 300, size: int = 1000) -> tuple[LogProof, bytes]:
    log = show_log(size)
    bundle = prove_entry(log.read, log.checkpoint, position)
    return bundle.proof, bundle.entry


def trust(*keys: VerifierKey, policy: WitnessPolicy | None = None) -> Trust:
    return Trust(keys or make_signer().keys, policy)


def cosign(note: bytes, name: str) -> tuple[bytes, VerifierKey]:
    """The note with another cosignature, and the key that made it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"-")[:32])
    key = make_verifier_key(name, COSIGNATURE_ED25519, private.public_key().public_bytes_raw())
    found = parse_note(note)
    signed = private.sign(b"cosignature/v1\ntime 1800000000\n" + found.text.encode())
    value = (1_800_000_000).to_bytes(8, "big") + signed
    lines = (*found.signatures, Signature(name, key.key_id, value))
    return render_note(Note(found.text, lines)), key


def test_a_proof_is_written_as_the_specification_has_it():
    note = show_log(1000).checkpoint
    text = LINES.format(hash=HASH, note=note.decode()).encode()
    found = parse_log_proof(text)
    assert found == LogProof(7, (bytes(range(32)),) * 2, note, b"hello")
    assert render_log_proof(found) == text
    bare = replace(found, path=(), extra=None)
    short = render_log_proof(bare)
    assert short.startswith(b"c2sp.org/tlog-proof@v1\nindex 7\n\nexample.org/log\n")
    assert parse_log_proof(short) == bare


@given(st.integers(1, 1000))
def test_a_proof_shows_that_the_entry_is_there(position):
    proof, entry = make_proof(position)
    found = verify_log_proof(parse_log_proof(render_log_proof(proof)), entry, trust())
    assert (found.checkpoint.size, found.witnesses) == (1000, ())
    with pytest.raises(Invalid, match="another root"):
        verify_log_proof(proof, entry + b" ", trust())
    with pytest.raises(Invalid):
        verify_log_proof(replace(proof, index=proof.index ^ 1), entry, trust())


def test_other_peoples_verifier_agrees_about_path_and_checkpoint():
    proof, entry = make_proof()
    note = aics_tlog.parse_note(proof.checkpoint.decode())
    key = aics_tlog.parse_vkey(make_signer().keys[0].render())
    assert aics_tlog.verify_checkpoint(note, key).ok
    checkpoint = aics_tlog.parse_checkpoint(note.text)
    leaf, path = aics_tlog.leaf_hash(entry), list(proof.path)
    assert aics_tlog.verify_inclusion(leaf, proof.index, checkpoint.size, path, checkpoint.root)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tlog-proof@v1", "tlog-proof@v2"),
        ("index 7", "index 07"),
        ("index 7", "index -7"),
        ("index 7", "index 7 "),
        ("index 7", "index 9223372036854775808"),
        ("index 7", "Index 7"),
        ("extra aGVsbG8=", "extra aGVsbG8"),
        ("extra aGVsbG8=", "extra "),
        ("extra aGVsbG8=", "extra aGVsbG8=\nextra aGVsbG8="),
        ("index 7", "indexes 7"),
        (f"{HASH}\n{HASH}", HASH[:-4]),
        (f"{HASH}\n{HASH}", "\n".join([HASH] * 65)),
        (f"{HASH}\n{HASH}", f"{HASH} {HASH}"),
        (f"{HASH}\n\n", f"{HASH}\n"),
        ("\n\nexample", "\n\n\nexample"),
        ("aGVsbG8=", "äGVsbG8="),
        ("\u2014 example.org/log", "- example.org/log"),
    ],
)
def test_what_is_no_proof_is_refused(old, new):
    text = LINES.format(hash=HASH, note=show_log(1000).checkpoint.decode())
    assert old in text
    with pytest.raises(Invalid):
        parse_log_proof(text.replace(old, new).encode())


def test_proofs_are_bounded():
    with pytest.raises(Invalid, match="more than"):
        parse_log_proof(b"c2sp.org/tlog-proof@v1\n" + bytes(LARGEST_PROOF))
    proof, _ = make_proof()
    for broken in (
        replace(proof, extra=bytes(LARGEST_EXTRA + 1)),
        replace(proof, extra=b""),
        replace(proof, index=-1),
        replace(proof, path=(bytes(HASH_SIZE - 1),)),
        replace(proof, checkpoint=b"no note"),
    ):
        with pytest.raises(Invalid):
            render_log_proof(broken)


def test_every_key_that_is_asked_for_must_have_signed():
    proof, entry = make_proof()
    for keys in (make_signer().keys, make_signer().keys[:1], make_signer().keys[1:]):
        verify_log_proof(proof, entry, trust(*keys))
    note = parse_note(proof.checkpoint)
    plain = replace(proof, checkpoint=render_note(Note(note.text, note.signatures[:1])))
    verify_log_proof(plain, entry, trust(make_signer().keys[0]))
    with pytest.raises(Invalid, match="every key"):
        verify_log_proof(plain, entry, trust())
    with pytest.raises(Invalid, match="None of the keys"):
        verify_log_proof(proof, entry, trust(*make_signer("other.org").keys))
    with pytest.raises(Invalid, match="different logs"):
        trust(make_signer().keys[0], make_signer("other.org").keys[0])
    with pytest.raises(Invalid, match="give its verifier key"):
        Trust(())


def test_as_many_witnesses_as_the_policy_says_must_have_cosigned():
    proof, entry = make_proof()
    note, first = cosign(proof.checkpoint, "w1.example")
    note, second = cosign(note, "w2.example")
    _, absent = cosign(note, "w3.example")
    seen = replace(proof, checkpoint=note)
    policy = WitnessPolicy((first, second, absent), 2)
    found = verify_log_proof(seen, entry, trust(policy=policy))
    assert found.witnesses == ("w1.example", "w2.example")
    with pytest.raises(Invalid, match="2 of the witnesses cosigned the checkpoint, and 3 must"):
        verify_log_proof(seen, entry, trust(policy=replace(policy, quorum=3)))
    with pytest.raises(Invalid, match="0 of the witnesses"):
        verify_log_proof(proof, entry, trust(policy=replace(policy, quorum=1)))
    free = trust(policy=replace(policy, quorum=0))
    assert verify_checkpoint(proof.checkpoint, free).witnesses == ()


def test_any_changed_byte_of_a_proof_is_seen():
    proof, entry = make_proof()
    data = render_log_proof(replace(proof, extra=entry))
    start = data.index(b"index")
    for at in range(start, len(data), 7):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises(Invalid):
            verify_log_proof(parse_log_proof(bytes(broken)), entry, trust())
