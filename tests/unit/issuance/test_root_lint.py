"""The lint of root certificates, fault by fault."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.fakes.issuer import FakeIssuer, make_private_key
from troth.core.errors import Internal
from troth.issuance.ca import make_key_usage
from troth.issuance.lint import lint_root

ISSUER = FakeIssuer()
ROOT = x509.load_der_x509_certificate(ISSUER.x509.certificate)
SOUND = {type(e.value): (e.value, e.critical) for e in ROOT.extensions}
URI = x509.UniformResourceIdentifier


def _build(extensions: Iterable | None = None, **fields: Any) -> bytes:
    values: dict[str, Any] = {
        "issuer_name": ROOT.subject,
        "subject_name": ROOT.subject,
        "public_key": ROOT.public_key(),
        "serial_number": ROOT.serial_number,
        "not_valid_before": ROOT.not_valid_before_utc.replace(tzinfo=None),
        "not_valid_after": ROOT.not_valid_after_utc.replace(tzinfo=None),
    }
    builder = x509.CertificateBuilder(**(values | fields))
    for value, critical in SOUND.values() if extensions is None else extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(make_private_key(1), SHA256()).public_bytes(Encoding.DER)


def _lint(der: bytes) -> None:
    lint_root(
        der,
        uri="spiffe://example.org",
        public_key=ISSUER.x509.public_key,
        serial=ROOT.serial_number,
        not_before=ROOT.not_valid_before_utc,
        not_after=ROOT.not_valid_after_utc,
    )


def _change(value: x509.ExtensionType, critical: bool = True) -> list:
    return list((SOUND | {type(value): (value, critical)}).values())


def test_a_sound_root_passes() -> None:
    _lint(_build())


_OTHER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another")])
_SAN = x509.SubjectAlternativeName
_BOTH = {"key_cert_sign": True, "crl_sign": True}


@pytest.mark.parametrize(
    ("der", "sentence"),
    [
        (_build(list(SOUND.values())[:-1]), "missing: 2.5.29.14"),
        (_build([*SOUND.values(), (x509.OCSPNoCheck(), False)]), "too many: 1.3.6"),
        (_build(_change(x509.BasicConstraints(False, None))), "not CA true"),
        (_build(_change(x509.BasicConstraints(True, None))), "not CA true with the right path"),
        (_build(_change(x509.BasicConstraints(True, 0), critical=False)), "not critical"),
        (_build(_change(make_key_usage(key_cert_sign=True))), "keyUsage is"),
        (_build(_change(make_key_usage(digital_signature=True, **_BOTH))), "keyUsage is"),
        (_build(_change(make_key_usage(**_BOTH), critical=False)), "keyUsage is not critical"),
        (_build(_change(_SAN([URI("spiffe://example.org/a")]), False)), "SPIFFE ID alone"),
        (_build(_change(_SAN([URI("spiffe://b.example")]), False)), "SPIFFE ID alone"),
        (_build(_change(x509.SubjectKeyIdentifier(bytes(20)), False)), "subjectKeyIdentifier"),
        (_build(issuer_name=_OTHER), "issuer's name"),
        (_build(subject_name=x509.Name([]), issuer_name=x509.Name([])), "needs a subject"),
        (_build(serial_number=5), "the serial"),
        (_build(public_key=make_private_key().public_key()), "the public key"),
        (b"garbage", "can't be parsed"),
    ],
)
def test_each_fault_is_caught(der: bytes, sentence: str) -> None:
    with pytest.raises(Internal, match=sentence):
        _lint(der)
