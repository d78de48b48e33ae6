"""Every way a certificate signing request can be wrong, and the sentence that says so."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.issuer import encode_spki, make_private_key
from troth.core.errors import Invalid, TooLarge, TrothError
from troth.issuance.csr import MAX_CSR_SIZE, parse_csr
from troth.issuance.der import (
    P256_PREFIX,
    assemble_signed,
    encode_element,
    read_element,
    read_elements,
)

Builder = x509.CertificateSigningRequestBuilder


def _builder(common_name: str | None = None) -> Builder:
    names = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    return Builder().subject_name(x509.Name(names))


def _sign(builder: Builder, key=None, digest=None) -> bytes:
    key = key or make_private_key()
    if digest is None and not isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        digest = hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)


SOUND = _sign(_builder())


def test_a_plain_request_gives_its_public_key() -> None:
    assert parse_csr(SOUND) == encode_spki(make_private_key())


def test_the_subject_and_other_attributes_are_ignored() -> None:
    builder = _builder("root").add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"hunter2")
    assert parse_csr(_sign(builder)) == encode_spki(make_private_key())


@pytest.mark.parametrize("digest", [hashes.SHA384(), hashes.SHA512()])
def test_longer_hashes_are_fine(digest: hashes.HashAlgorithm) -> None:
    assert parse_csr(_sign(_builder(), digest=digest))


def _flip_last(der: bytes) -> bytes:
    return der[:-1] + bytes([der[-1] ^ 1])


def _swap_key(der: bytes) -> bytes:
    """The request of one key signed by another."""
    info = read_element(der).content
    _own, *rest = read_elements(info)
    theirs = next(read_elements(read_element(_sign(_builder(), make_private_key(8))).content))
    return encode_element(0x30, theirs.encoding + b"".join(part.encoding for part in rest))


@pytest.mark.parametrize(
    ("der", "sentence"),
    [
        (b"", "empty"),
        (b"not der at all", "truncated or not DER"),
        (SOUND[:-1], "truncated"),
        (SOUND[: len(SOUND) // 2], "truncated"),
        (SOUND + b"\x00", "after its end"),
        (SOUND + SOUND, "after its end"),
        (b"\x30\x03\x02\x01\x00", "can't be parsed"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\n", "PEM"),
        (_flip_last(SOUND), "signature is wrong"),
        (_swap_key(SOUND), "signature is wrong"),
    ],
    ids=range(10),  # the bytes differ from process to process
)
def test_what_is_no_sound_request_is_refused(der: bytes, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        parse_csr(der)


def test_a_request_above_16_kib_is_refused_unread() -> None:
    with pytest.raises(TooLarge, match="16 KiB"):
        parse_csr(b"\x30" * (MAX_CSR_SIZE + 1))


def test_the_point_must_lie_on_the_curve() -> None:
    public_key = encode_spki(make_private_key())
    broken = SOUND.replace(public_key[-32:], bytes(32))
    with pytest.raises(Invalid, match="public key can't be read"):
        parse_csr(broken)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), "weak RSA key of 1024 bits"),
        (lambda: rsa.generate_private_key(65537, 2048), "an RSA key of 2048 bits"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "curve secp384r1"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), "curve secp256k1"),
        (ed25519.Ed25519PrivateKey.generate, "Ed25519"),
        (ed448.Ed448PrivateKey.generate, "Ed448"),
        (lambda: dsa.generate_private_key(2048), "DSA"),
    ],
    ids=["weak RSA", "RSA", "P-384", "secp256k1", "Ed25519", "Ed448", "DSA"],
)
def test_only_p256_keys_are_certified(make: Callable, sentence: str) -> None:
    with pytest.raises(Invalid, match=f"{sentence}.*use an ECDSA P-256 key"):
        parse_csr(_sign(_builder(), make()))


_SAN = x509.SubjectAlternativeName
_NAMES = {
    "URI": x509.UniformResourceIdentifier("spiffe://example.org/admin"),
    "DNS": x509.DNSName("bank.example"),
    "IP": x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
    "mail": x509.RFC822Name("root@example.org"),
}


@pytest.mark.parametrize("kind", _NAMES)
def test_asking_for_a_name_is_refused(kind: str) -> None:
    builder = _builder().add_extension(_SAN([_NAMES[kind]]), critical=False)
    with pytest.raises(Invalid, match="The server sets the names; leave subjectAltName out"):
        parse_csr(_sign(builder))


@pytest.mark.parametrize(
    ("extension", "sentence"),
    [
        (x509.BasicConstraints(ca=True, path_length=None), "CA:true"),
        (x509.BasicConstraints(ca=False, path_length=None), "basicConstraints"),
        (x509.ExtendedKeyUsage([x509.OID_CODE_SIGNING]), "extendedKeyUsage"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), r"1\.2\.3\.4"),
        (x509.TLSFeature([x509.TLSFeatureType.status_request]), "TLSFeature"),
    ],
    ids=["CA:true", "CA:false", "usage", "unknown", "must staple"],
)
def test_asking_for_any_extension_is_refused(extension: x509.ExtensionType, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        parse_csr(_sign(_builder().add_extension(extension, critical=True)))


def test_a_second_extension_behind_the_first_is_seen() -> None:
    names = _SAN([_NAMES["URI"]])
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    builder = _builder().add_extension(constraints, True).add_extension(names, False)
    with pytest.raises(Invalid, match="CA:true"):
        parse_csr(_sign(builder))


def _request_with(*attributes: bytes, public_key: bytes | None = None) -> bytes:
    """A request put together by hand, as its library would refuse to."""
    version, subject, key, _ = read_elements(
        next(read_elements(read_element(SOUND).content)).content
    )
    fields = version.encoding + subject.encoding + (public_key or key.encoding)
    info = encode_element(0x30, fields + encode_element(0xA0, b"".join(attributes)))
    return assemble_signed(info, make_private_key().sign(info, ec.ECDSA(hashes.SHA256())))


def test_a_compressed_point_is_refused_so_that_a_key_has_one_form() -> None:
    key = make_private_key().public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    bits = encode_element(0x03, b"\x00" + point)
    request = _request_with(public_key=encode_element(0x30, P256_PREFIX[2:23] + bits))
    with pytest.raises(Invalid, match="point uncompressed"):
        parse_csr(request)
    assert parse_csr(_request_with()) == encode_spki(make_private_key())


def _attribute(oid: str, *values: bytes) -> bytes:
    return encode_element(0x30, bytes.fromhex(oid) + encode_element(0x31, b"".join(values)))


_REQUEST = "06092a864886f70d01090e"
_MICROSOFT_REQUEST = "060a2b06010401823702010e"
_SOME_NAME = encode_element(
    0x30,
    encode_element(
        0x30,
        bytes.fromhex("0603551d11")
        + encode_element(0x04, encode_element(0x30, encode_element(0x82, b"bank.example"))),
    ),
)
_NO_EXTENSION = encode_element(0x30, b"")


@pytest.mark.parametrize(
    "attributes",
    [
        [_attribute(_REQUEST, _SOME_NAME)],
        [_attribute(_MICROSOFT_REQUEST, _SOME_NAME)],
        [_attribute(_REQUEST, _NO_EXTENSION), _attribute(_REQUEST, _SOME_NAME)],
        [_attribute(_REQUEST, _NO_EXTENSION, _SOME_NAME)],
    ],
    ids=["plain", "Microsoft's", "second attribute", "second value"],
)
def test_a_request_for_names_is_found_wherever_it_hides(attributes: list[bytes]) -> None:
    with pytest.raises(Invalid, match=r"subjectAltName|extension request"):
        parse_csr(_request_with(*attributes))


def test_a_malformed_extension_request_is_refused() -> None:
    builder = _builder().add_attribute(
        x509.ObjectIdentifier("1.2.840.113549.1.9.14"), b"not an extension list"
    )
    with pytest.raises(Invalid, match="extension request can't be parsed"):
        parse_csr(_sign(builder))


@given(st.binary(max_size=300))
def test_random_bytes_get_a_clean_answer(data: bytes) -> None:
    with pytest.raises(TrothError):
        parse_csr(data)


@given(st.integers(0, len(SOUND) - 1), st.integers(1, 255))
def test_a_changed_byte_never_yields_another_key(position: int, change: int) -> None:
    data = bytearray(SOUND)
    data[position] ^= change
    with pytest.raises(Invalid):
        parse_csr(bytes(data))


@pytest.mark.parametrize("resign", [False, True])
def test_a_name_that_the_library_cannot_read_is_refused(resign: bool) -> None:
    """An x400Address in the subjectAltName (RFC 5280, section 4.2.1.6)."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("a" * 22)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=False)
        .sign(make_private_key(), hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    changed = request.replace(b"\x86\x16" + b"a" * 22, b"\xa3\x16\x04\x14" + b"a" * 20)
    assert changed != request
    if resign:
        body = next(read_elements(read_element(changed).content)).encoding
        signature = make_private_key().sign(body, ec.ECDSA(hashes.SHA256()))
        changed = assemble_signed(body, signature)
    with pytest.raises(Invalid, match="extension request can't be parsed"):
        parse_csr(changed)
