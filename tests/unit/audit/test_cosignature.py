"""Cosignatures: the messages of the specification, aics-tlog both ways, and ML-DSA."""

from __future__ import annotations

import struct

import aics_tlog
import pytest
from aics_tlog.cosign import cosignature_message
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

from troth.audit.checkpoint import Checkpoint, parse_checkpoint, render_checkpoint
from troth.audit.cosignature import (
    LATEST_TIME,
    pack_cosignature,
    read_timestamp,
    render_cosigned,
    unpack_cosignature,
    verify_signature,
)
from troth.audit.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    Note,
    Signature,
    make_verifier_key,
    parse_signatures,
    render_note,
    verify_note,
)
from troth.core.errors import Invalid

SOFA = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
W1 = (
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2"
    "oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)
"""The example of tlog-cosignature."""
TREE = parse_checkpoint(SOFA)
SEED = bytes(range(32))
CLASSIC = ed25519.Ed25519PrivateKey.from_private_bytes(SEED)
POST = mldsa.MLDSA44PrivateKey.from_seed_bytes(SEED)
CLASSIC_KEY = make_verifier_key(
    "witness.example.com/w1", COSIGNATURE_ED25519, CLASSIC.public_key().public_bytes_raw()
)
POST_KEY = make_verifier_key(
    "witness.example.com/w1", COSIGNATURE_MLDSA44, POST.public_key().public_bytes_raw()
)


def cosign(timestamp: int = 1_679_315_147) -> tuple[Signature, Signature]:
    classic = CLASSIC.sign(render_cosigned(CLASSIC_KEY, TREE, SOFA, timestamp))
    post = POST.sign(render_cosigned(POST_KEY, TREE, SOFA, timestamp))
    return (
        Signature(CLASSIC_KEY.name, CLASSIC_KEY.key_id, pack_cosignature(timestamp, classic)),
        Signature(POST_KEY.name, POST_KEY.key_id, pack_cosignature(timestamp, post)),
    )


def test_the_time_of_the_specifications_example() -> None:
    (signature,) = parse_signatures(W1.encode())
    assert read_timestamp(signature) == 1_679_315_147


def test_the_ed25519_message_is_that_of_the_specification() -> None:
    message = render_cosigned(CLASSIC_KEY, TREE, SOFA, 1_679_315_147)
    assert message == f"cosignature/v1\ntime 1679315147\n{SOFA}".encode()
    assert message == cosignature_message(1_679_315_147, TREE.origin, TREE.size, TREE.root)


def test_the_mldsa_message_is_that_of_the_specification() -> None:
    message = render_cosigned(POST_KEY, TREE, SOFA, 1_679_315_147)
    assert message == b"".join(
        (
            b"subtree/v1\n\x00",
            b"\x16witness.example.com/w1",
            struct.pack(">Q", 1_679_315_147),
            b"\x1bexample.com/behind-the-sofa",
            struct.pack(">QQ", 0, 20_852_163),
            TREE.root,
        )
    )


def test_cosignatures_of_both_kinds_verify_and_make_a_note() -> None:
    note = Note(SOFA, cosign())
    assert verify_note(note, [CLASSIC_KEY, POST_KEY]) == (CLASSIC_KEY, POST_KEY)
    assert len(render_note(note)) < 4096
    for signature, key in zip(note.signatures, (CLASSIC_KEY, POST_KEY), strict=True):
        assert read_timestamp(signature) == 1_679_315_147
        later = pack_cosignature(1_679_315_148, unpack_cosignature(signature.value)[1])
        for text, value in (
            (SOFA, later),
            (SOFA.replace("20852163", "20852164"), signature.value),
            (SOFA.replace("sofa", "door"), signature.value),
            (SOFA.replace("CsUY", "CsUZ"), signature.value),
            ("no checkpoint\n", signature.value),
            (SOFA, signature.value[:-1]),
            (SOFA, signature.value[:8]),
            (SOFA, b""),
        ):
            with pytest.raises(Invalid):
                verify_signature(key, text, value)


def test_a_cosignature_of_one_name_isnt_anothers() -> None:
    other = make_verifier_key("witness.example.com/w2", COSIGNATURE_MLDSA44, POST_KEY.public)
    with pytest.raises(Invalid, match="doesn't verify"):
        verify_signature(other, SOFA, cosign()[1].value)


def test_cosignatures_go_to_aics_tlog_and_come_from_it() -> None:
    classic, _ = cosign()
    assert aics_tlog.format_vkey(
        aics_tlog.cosignature_vkey(CLASSIC_KEY.name, CLASSIC_KEY.public)
    ) == (CLASSIC_KEY.render())
    assert aics_tlog.verify_cosignature(
        classic.value, CLASSIC_KEY.name, CLASSIC_KEY.public, TREE.origin, TREE.size, TREE.root
    )
    tree = Checkpoint("a.example/log", 3, SEED, ("one", "two"))
    value, line = aics_tlog.sign_cosignature(
        CLASSIC, CLASSIC_KEY.name, 7, tree.origin, tree.size, tree.root, tree.extensions
    )
    assert line.key_id == CLASSIC_KEY.key_id
    verify_signature(CLASSIC_KEY, render_checkpoint(tree), value)


def test_mldsa_signs_no_checkpoint_with_lines_that_it_would_leave_out() -> None:
    tree = Checkpoint(TREE.origin, TREE.size, TREE.root, ("more",))
    with pytest.raises(Invalid, match="extension lines"):
        render_cosigned(POST_KEY, tree, render_checkpoint(tree), 7)
    assert render_cosigned(CLASSIC_KEY, tree, render_checkpoint(tree), 7).endswith(b"\nmore\n")


@pytest.mark.parametrize("timestamp", [-1, LATEST_TIME + 1])
def test_times_that_are_none(timestamp: int) -> None:
    for key in (CLASSIC_KEY, POST_KEY):
        with pytest.raises(Invalid, match="time"):
            render_cosigned(key, TREE, SOFA, timestamp)


def test_a_time_beyond_all_is_refused_in_a_signature() -> None:
    value = struct.pack(">Q", LATEST_TIME + 1) + bytes(64)
    with pytest.raises(Invalid, match="time"):
        verify_signature(CLASSIC_KEY, SOFA, value)
    assert unpack_cosignature(struct.pack(">Q", LATEST_TIME) + b"s") == (LATEST_TIME, b"s")


def test_what_has_no_room_in_a_message_is_refused() -> None:
    tree = Checkpoint("o" * 256, 1, bytes(32))
    with pytest.raises(Invalid, match="255 bytes"):
        render_cosigned(POST_KEY, tree, render_checkpoint(tree), 7)
    plain = make_verifier_key("example.org/log", ED25519, CLASSIC_KEY.public)
    with pytest.raises(Invalid, match="doesn't cosign"):
        render_cosigned(plain, TREE, SOFA, 7)
    with pytest.raises(Invalid):
        verify_signature(plain, SOFA, cosign()[0].value)
