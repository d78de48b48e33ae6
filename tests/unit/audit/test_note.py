"""Signed notes: other people's, those of aics-tlog both ways, and what must be refused."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

import aics_tlog
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from troth.audit.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    LARGEST_NOTE,
    MOST_SIGNATURES,
    Note,
    Signature,
    VerifierKey,
    decode_base64,
    make_verifier_key,
    parse_note,
    parse_signatures,
    parse_vkey,
    raw_public,
    render_note,
    render_signature,
    verify_note,
)
from troth.core.errors import Invalid

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6"
    "KE6RyyBwJnAM=\n"
).encode()
"""Of the package documentation of golang.org/x/mod/sumdb/note."""
SALVATORE = (
    "Ognuno sta solo sul cuor della terra\n"
    "trafitto da un raggio di sole:\n"
    "\n"
    "ed è subito sera.\n"
    "\n"
    "— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU"
    "0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
).encode()
"""The example of signed-note."""

NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"), exclude_characters="+"),
    min_size=1,
    max_size=60,
)
SIGNATURES = st.builds(
    Signature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80)
)
LINES = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40)


@pytest.fixture
def private() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def key_of(private: ed25519.Ed25519PrivateKey, name: str = "example.org/log") -> VerifierKey:
    return make_verifier_key(name, ED25519, private.public_key().public_bytes_raw())


def sign(private: ed25519.Ed25519PrivateKey, text: str, name: str = "example.org/log") -> Signature:
    key = key_of(private, name)
    return Signature(name, key.key_id, private.sign(text.encode()))


def test_a_note_of_sumdb_verifies() -> None:
    key = parse_vkey(PETER)
    note = parse_note(PETERS)
    assert note.text.endswith("your problem is.\n")
    assert verify_note(note, [key]) == (key,)
    assert render_note(note) == PETERS
    assert key.render() == PETER
    assert key.kind == ED25519


def test_the_text_of_a_note_may_have_empty_lines() -> None:
    note = parse_note(SALVATORE)
    assert note.text.endswith("sole:\n\ned è subito sera.\n")
    (signature,) = note.signatures
    assert signature.name == "quasimodo.example/salvatore"
    assert len(signature.value) == 64
    assert render_note(note) == SALVATORE


def test_an_altered_note_doesnt_verify() -> None:
    key = parse_vkey(PETER)
    with pytest.raises(Invalid, match="doesn't verify"):
        verify_note(parse_note(PETERS.replace(b"crypto", b"krypto")), [key])


def test_notes_go_to_aics_tlog_and_come_from_it(private: ed25519.Ed25519PrivateKey) -> None:
    text = "a text\n\nwith an empty line\n"
    ours = render_note(Note(text, (sign(private, text),)))
    theirs = aics_tlog.vkey_from_ed25519("example.org/log", private.public_key())
    assert aics_tlog.format_vkey(theirs) == key_of(private).render()
    assert aics_tlog.verify_note(aics_tlog.parse_note(ours), [theirs])
    line = aics_tlog.sign_note(text, private, "example.org/log")
    note = parse_note(aics_tlog.Note(text=text, signatures=(line,)).to_bytes())
    assert verify_note(note, [key_of(private)]) == (key_of(private),)


def test_signatures_of_unknown_keys_are_passed_over(private: ed25519.Ed25519PrivateKey) -> None:
    text = "text\n"
    good = sign(private, text)
    others = (
        Signature(good.name, b"\0\0\0\0", b"junk"),
        Signature("example.org/other", good.key_id, b"junk"),
    )
    key = key_of(private)
    assert verify_note(Note(text, (*others, good)), [key]) == (key,)
    with pytest.raises(Invalid, match="None of the keys"):
        verify_note(Note(text, others), [key])
    with pytest.raises(Invalid, match="None of the keys"):
        verify_note(Note(text, (good,)), [])


def test_one_bad_signature_of_a_known_key_refuses_the_note(
    private: ed25519.Ed25519PrivateKey,
) -> None:
    good = sign(private, "text\n")
    for value in (bytes(64), good.value[:-1], good.value + b"\0"):
        bad = Signature(good.name, good.key_id, value)
        for order in ((good, bad), (bad, good)):
            with pytest.raises(Invalid):
                verify_note(Note("text\n", order), [key_of(private)])


def test_who_signed_twice_counts_once_and_in_the_order_of_the_keys(
    private: ed25519.Ed25519PrivateKey,
) -> None:
    other = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    first, second = key_of(private), key_of(other, "example.org/other")
    signatures = (
        sign(other, "text\n", "example.org/other"),
        sign(private, "text\n"),
        sign(private, "text\n"),
    )
    note = Note("text\n", signatures)
    assert verify_note(note, [first, second]) == (first, second)
    assert verify_note(note, [second, first, first]) == (second, first)


def test_two_keys_that_cant_be_told_apart_are_refused() -> None:
    class Twin(VerifierKey):
        key_id = b"same"

    keys = (Twin("example.org/log", 1, bytes(32)), Twin("example.org/log", 1, bytes([1] * 32)))
    note = Note("text\n", (Signature("example.org/log", b"same", bytes(64)),))
    with pytest.raises(Invalid, match="same key id"):
        verify_note(note, keys)


@given(st.lists(LINES, min_size=1, max_size=6), st.lists(SIGNATURES, min_size=1, max_size=4))
def test_what_is_rendered_is_parsed_again(lines: list[str], signatures: list[Signature]) -> None:
    note = Note("".join(f"{line}\n" for line in lines), tuple(signatures))
    assert parse_note(render_note(note)) == note
    rendered = "".join(map(render_signature, signatures)).encode()
    assert parse_signatures(rendered) == note.signatures


LINE = "— example.org/log " + b64encode(bytes(68)).decode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        f"text\n{LINE}\n".encode(),
        f"text\n\n{LINE}".encode(),
        f"text\n\n{LINE}\n\n".encode(),
        f"text\n\n{LINE}\nrest".encode(),
        f"text\r\n\n{LINE}\n".encode(),
        f"te\0xt\n\n{LINE}\n".encode(),
        f"te\txt\n\n{LINE}\n".encode(),
        f"text\n\n{LINE}\n".encode("utf-16"),
        f"text\n\n{LINE}\n".encode() + b"\xff",
        f"text\n\n-{LINE[1:]}\n".encode(),
        f"text\n\n {LINE}\n".encode(),
        f"text\n\n{LINE} \n".encode(),
        f"text\n\n— example.org /log {LINE.split()[2]}\n".encode(),
        f"text\n\n— example.org+log {LINE.split()[2]}\n".encode(),
        f"text\n\n— example.org\u2003log {LINE.split()[2]}\n".encode(),
        f"text\n\n—  {LINE.split()[2]}\n".encode(),
        f"text\n\n— {'n' * 256} {LINE.split()[2]}\n".encode(),
        f"text\n\n{LINE.rstrip('=')}\n".encode(),
        f"text\n\n{LINE[:-2]}B=\n".encode(),
        "text\n\n— example.org/log AAAAAA==\n".encode(),
        ("text\n\n" + f"{LINE}\n" * (MOST_SIGNATURES + 1)).encode(),
        b"text\n" * (LARGEST_NOTE // 5 + 1) + f"\n{LINE}\n".encode(),
    ],
)
def test_what_is_no_note_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        parse_note(data)


def test_as_many_signatures_as_may_be_are_read() -> None:
    note = parse_note(("text\n\n" + f"{LINE}\n" * MOST_SIGNATURES).encode())
    assert len(note.signatures) == MOST_SIGNATURES


@pytest.mark.parametrize(
    "note",
    [
        Note("text", (Signature("a", bytes(4), b"s"),)),
        Note("text\n", ()),
        Note("te\rxt\n", (Signature("a", bytes(4), b"s"),)),
        Note("text\n", (Signature("a b", bytes(4), b"s"),)),
        Note("text\n", (Signature("a", bytes(4), b"s"),) * (MOST_SIGNATURES + 1)),
    ],
)
def test_what_could_not_be_read_again_isnt_rendered(note: Note) -> None:
    with pytest.raises(Invalid):
        render_note(note)


@pytest.mark.parametrize("data", [b"", b"\n", LINE.encode(), f"\n{LINE}\n".encode()])
def test_what_are_no_signatures_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        parse_signatures(data)


@pytest.mark.parametrize(
    "text",
    [
        # The example of signed-note; transparency-dev/formats, with a plus sign in the base64; a
        # public witness.
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6",
        "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    ],
)
def test_verifier_keys_of_others_are_read(text: str) -> None:
    assert parse_vkey(text).render() == text
    assert parse_vkey(text) == make_verifier_key(
        text.partition("+")[0], parse_vkey(text).kind, parse_vkey(text).public
    )


def render_vkey(name: str, material: bytes) -> str:
    key_id = sha256(name.encode() + b"\n" + material).digest()[:4].hex()
    return f"{name}+{key_id}+{b64encode(material).decode()}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "++",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        PETER.replace("c74f20a3", "c74f20a4"),
        PETER.replace("c74f20a3", "C74F20A3"),
        PETER.replace("c74f20a3", "c74f20a"),
        PETER.replace("Peter", "Pieter"),
        PETER[:-1],
        PETER[:-1] + "X",
        PETER + "\n",
        " " + PETER,
        PETER + "A" * 5000,
        render_vkey("a b", b"\x01" + bytes(32)),
        render_vkey("", b"\x01" + bytes(32)),
        render_vkey("a\n", b"\x01" + bytes(32)),
        render_vkey("a", b""),
        render_vkey("a", b"\x01"),
        render_vkey("a", b"\x01" + bytes(31)),
        render_vkey("a", b"\x02" + bytes(32)),
        render_vkey("a", b"\x05" + bytes(32)),
        render_vkey("a", b"\x06" + bytes(32)),
        render_vkey("a", b"\xff" + bytes(32)),
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_vkey(text)


def test_a_key_that_was_copied_wrongly_says_so() -> None:
    with pytest.raises(Invalid, match="Copy the whole of it"):
        parse_vkey(PETER.replace("Peter", "Pieter"))


def test_raw_keys_come_out_of_what_a_keystore_gives(private: ed25519.Ed25519PrivateKey) -> None:
    post = mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32))
    for key, size in ((private.public_key(), 32), (post.public_key(), 1312)):
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert raw_public(spki) == key.public_bytes_raw()
        assert len(raw_public(spki)) == size
    other = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    with pytest.raises(Invalid, match="another"):
        raw_public(other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(Invalid, match="no public key"):
        raw_public(b"junk")


def test_kinds_of_one_key_have_different_ids() -> None:
    kinds = (ED25519, COSIGNATURE_ED25519)
    ids = {make_verifier_key("a", kind, bytes(32)).key_id for kind in kinds}
    ids.add(make_verifier_key("a", COSIGNATURE_MLDSA44, bytes(1312)).key_id)
    assert len(ids) == 3


@pytest.mark.parametrize("text", ["A", "AA", "AA=", "AB==", "AA==\n", " AA==", "AA==AA==", "Ä==="])
def test_base64_has_one_form(text: str) -> None:
    with pytest.raises(Invalid):
        decode_base64(text)
