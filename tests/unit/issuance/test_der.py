"""DER elements, and the check of the signed envelope."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.issuer import encode_spki, make_private_key
from troth.core.errors import Internal
from troth.issuance import der


@given(st.binary(max_size=70_000), st.binary(max_size=4))
def test_what_is_encoded_reads_back(content: bytes, after: bytes) -> None:
    element = der.read_element(der.encode_element(0x30, content) + after)
    assert element.tag == 0x30
    assert element.content == content
    assert element.encoding == der.encode_element(0x30, content)


@given(st.binary(max_size=40))
def test_reading_garbage_raises_value_error_or_stays_within_the_data(data: bytes) -> None:
    try:
        element = der.read_element(data)
    except ValueError:
        return
    assert data.startswith(element.encoding)


NO_DER = {
    "empty": b"",
    "no length": b"\x30",
    "short": b"\x30\x02\x00",
    "indefinite": b"\x30\x80\x00\x00",
    "not minimal": b"\x30\x81\x05hello",
    "leading zero": b"\x30\x82\x00\x80" + bytes(128),
    "long tag": b"\x1f\x01\x00",
    "length of five bytes": b"\x30\x85\x00\x00\x00\x00\x01\x00",
    "length cut": b"\x30\x82\x01",
}


@pytest.mark.parametrize("data", NO_DER.values(), ids=NO_DER)
def test_what_is_no_der_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        der.read_element(data)


def test_the_key_identifier_is_the_first_160_bits_of_sha256_over_the_point() -> None:
    public_key = encode_spki(make_private_key())
    point = public_key[-65:]
    assert point[0] == 4
    assert der.identify_key(public_key) == hashlib.sha256(point).digest()[:20]


def _signed() -> tuple[bytes, bytes, bytes, bytes]:
    key = make_private_key(11)
    tbs = der.encode_element(0x30, b"\x02\x01\x01")
    signature = key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return der.assemble_signed(tbs, signature), tbs, signature, encode_spki(key)


def test_a_sound_envelope_passes() -> None:
    whole, tbs, _, public_key = _signed()
    der.check_signed(whole, tbs, public_key)


def test_each_way_to_be_unsound_is_caught() -> None:
    whole, tbs, signature, public_key = _signed()
    other = der.encode_element(0x30, b"\x02\x01\x02")
    flipped = bytearray(signature)
    flipped[-1] ^= 1
    bits = der.encode_element(0x03, b"\x00" + signature)
    sha384 = bytes.fromhex("300a06082a8648ce3d040303")
    cases = {
        "another tbs": der.assemble_signed(other, signature),
        "signature": der.assemble_signed(tbs, bytes(flipped)),
        "trailing": whole + b"\x00",
        "truncated": whole[:-1],
        "empty": b"",
        "algorithm": der.encode_element(0x30, tbs + sha384 + bits),
        "fourth part": der.encode_element(0x30, tbs + der.ECDSA_WITH_SHA256 + bits + b"\x05\x00"),
        "no signature": der.encode_element(0x30, tbs + der.ECDSA_WITH_SHA256),
        "unused bits": der.encode_element(
            0x30, tbs + der.ECDSA_WITH_SHA256 + der.encode_element(0x03, b"\x01" + signature)
        ),
    }
    for name, bad in cases.items():
        try:
            der.check_signed(bad, tbs, public_key)
        except Internal:
            continue
        pytest.fail(f"not caught: {name}")


def test_another_key_does_not_verify() -> None:
    whole, tbs, _, _ = _signed()
    with pytest.raises(Internal, match="doesn't verify"):
        der.check_signed(whole, tbs, encode_spki(make_private_key(12)))


@pytest.mark.parametrize("public_key", [b"", b"garbage", "p384"])
def test_an_unusable_recorded_key_is_named(public_key: bytes | str) -> None:
    whole, tbs, _, _ = _signed()
    if isinstance(public_key, str):
        public_key = encode_spki(ec.derive_private_key(5, ec.SECP384R1()))
    with pytest.raises(Internal, match="public key"):
        der.check_signed(whole, tbs, public_key)
