"""The lint catches every violation: for each, a certificate that has it and nothing else wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.fakes.issuer import FakeIssuer, make_private_key
from troth.core.errors import Internal
from troth.core.ids import SpiffeId, TrustDomain
from troth.issuance.der import (
    ECDSA_WITH_SHA256,
    encode_element,
    read_element,
    read_elements,
)
from troth.issuance.drafter import read_issuer
from troth.issuance.x509svid import CertificatePlan, draft_certificate, lint_certificate

ISSUER = FakeIssuer()
PLAN = ISSUER.plan(dns_names=["api.example.org"], ip_addresses=["10.0.0.1"])
DRAFT = x509.load_der_x509_certificate(ISSUER.issue(PLAN))

Extensions = dict[type[x509.ExtensionType], tuple[x509.ExtensionType, bool]]


def _extensions(certificate: x509.Certificate = DRAFT) -> Extensions:
    return {type(e.value): (e.value, e.critical) for e in certificate.extensions}


def _build(
    extensions: Iterable[tuple[x509.ExtensionType, bool]] | None = None,
    digest: hashes.SHA256 | hashes.SHA384 | None = None,
    **fields,
) -> bytes:
    """The sound draft made again, with other extensions or fields."""
    values = {
        "issuer_name": DRAFT.issuer,
        "subject_name": DRAFT.subject,
        "public_key": DRAFT.public_key(),
        "serial_number": DRAFT.serial_number,
        "not_valid_before": DRAFT.not_valid_before_utc.replace(tzinfo=None),
        "not_valid_after": DRAFT.not_valid_after_utc.replace(tzinfo=None),
    }
    builder = x509.CertificateBuilder(**(values | fields))
    for value, critical in _extensions().values() if extensions is None else extensions:
        builder = builder.add_extension(value, critical)
    signed = builder.sign(make_private_key(1), digest or hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


def _change(kind: type, value: x509.ExtensionType | None = None, critical: bool | None = None):
    """The sound extensions with one changed (or, with neither argument, left out)."""
    extensions = _extensions()
    if value is None and critical is None:
        del extensions[kind]
    else:
        old, was = extensions[kind]
        extensions[kind] = (value or old, was if critical is None else critical)
    return list(extensions.values())


def _usage(**bits: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement"
        " key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: bits.get(name, False) for name in names.split()})


def _names(*extra: x509.GeneralName, dns="api.example.org", ip=True, uri=str(PLAN.spiffe_id)):
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri else []
    names += [x509.DNSName(dns)] if dns else []
    names += [n for n in _san() if isinstance(n, x509.IPAddress)] if ip else []
    return x509.SubjectAlternativeName([*names, *extra])


def _san() -> x509.SubjectAlternativeName:
    value = _extensions()[x509.SubjectAlternativeName][0]
    assert isinstance(value, x509.SubjectAlternativeName)
    return value


def test_the_sound_draft_passes_and_so_does_its_rebuilt_copy() -> None:
    lint_certificate(DRAFT.public_bytes(Encoding.DER), PLAN)
    lint_certificate(_build(), PLAN)


_SAN, _KU, _BC = x509.SubjectAlternativeName, x509.KeyUsage, x509.BasicConstraints
_EKU, _SKI, _AKI = (
    x509.ExtendedKeyUsage,
    x509.SubjectKeyIdentifier,
    x509.AuthorityKeyIdentifier,
)
_OTHER_URI = x509.UniformResourceIdentifier("spiffe://example.org/admin")
_ISSUER_KEY = read_issuer(PLAN.issuer).key_identifier

EXTENSION_FAULTS: dict[str, tuple[Callable[[], Iterable], str]] = {
    "no constraints": (lambda: _change(_BC), r"missing: 2\.5\.29\.19"),
    "no key usage": (lambda: _change(_KU), r"missing: 2\.5\.29\.15"),
    "no extended usage": (lambda: _change(_EKU), r"missing: 2\.5\.29\.37"),
    "no names": (lambda: _change(_SAN), r"missing: 2\.5\.29\.17"),
    "no subject key id": (lambda: _change(_SKI), r"missing: 2\.5\.29\.14"),
    "no authority key id": (lambda: _change(_AKI), r"missing: 2\.5\.29\.35"),
    "one too many": (
        lambda: [*_extensions().values(), (x509.OCSPNoCheck(), False)],
        "too many: 1.3.6.1.5.5.7.48.1.5",
    ),
    "unplanned crl address": (
        lambda: [
            *_extensions().values(),
            (
                x509.CRLDistributionPoints(
                    [x509.DistributionPoint([_OTHER_URI], None, None, None)]
                ),
                False,
            ),
        ],
        r"too many: 2\.5\.29\.31",
    ),
    "CA true": (lambda: _change(_BC, _BC(ca=True, path_length=None)), "not CA false"),
    "constraints not critical": (lambda: _change(_BC, critical=False), "basicConstraints is not c"),
    "usage not critical": (lambda: _change(_KU, critical=False), "keyUsage is not critical"),
    "no digitalSignature": (
        lambda: _change(_KU, _usage(key_encipherment=True)),
        "keyUsage is .'key_encipherment'.",
    ),
    "keyCertSign": (
        lambda: _change(_KU, _usage(digital_signature=True, key_cert_sign=True)),
        "key_cert_sign",
    ),
    "cRLSign": (lambda: _change(_KU, _usage(digital_signature=True, crl_sign=True)), "crl_sign"),
    "keyAgreement": (
        lambda: _change(_KU, _usage(digital_signature=True, key_agreement=True)),
        "key_agreement",
    ),
    "server only": (
        lambda: _change(_EKU, _EKU([ExtendedKeyUsageOID.SERVER_AUTH])),
        "not serverAuth and clientAuth",
    ),
    "a third usage": (
        lambda: _change(
            _EKU,
            _EKU([*_extensions()[_EKU][0], ExtendedKeyUsageOID.CODE_SIGNING]),  # type: ignore[misc]
        ),
        "not serverAuth and clientAuth",
    ),
    "names not critical": (lambda: _change(_SAN, critical=False), "subjectAltName is not critical"),
    "two URIs": (lambda: _change(_SAN, _names(_OTHER_URI)), "exactly one URI"),
    "another URI": (lambda: _change(_SAN, _names(uri="spiffe://example.org/b")), "exactly one URI"),
    "no URI": (lambda: _change(_SAN, _names(uri="")), "exactly one URI"),
    "more DNS": (lambda: _change(_SAN, _names(x509.DNSName("b.example"))), "DNS names"),
    "less DNS": (lambda: _change(_SAN, _names(dns="")), "DNS names"),
    "less addresses": (lambda: _change(_SAN, _names(ip=False)), "IP addresses"),
    "a mail name": (
        lambda: _change(_SAN, _names(x509.RFC822Name("a@example.org"))),
        "names of another type",
    ),
    "a directory name": (
        lambda: _change(_SAN, _names(x509.DirectoryName(x509.Name([])))),
        "names of another type",
    ),
    "subject key id of another key": (lambda: _change(_SKI, _SKI(bytes(20))), "subjectKeyIdent"),
    "authority key id of another key": (
        lambda: _change(_AKI, _AKI(bytes(20), None, None)),
        "authorityKeyIdentifier",
    ),
    "authority key id with more": (
        lambda: _change(
            _AKI,
            _AKI(_ISSUER_KEY, [x509.DirectoryName(DRAFT.issuer)], 5),
        ),
        "authorityKeyIdentifier",
    ),
}


@pytest.mark.parametrize("fault", EXTENSION_FAULTS)
def test_a_wrong_extension_is_caught(fault: str) -> None:
    make, sentence = EXTENSION_FAULTS[fault]
    with pytest.raises(Internal, match=sentence):
        lint_certificate(_build(make()), PLAN)


_CN = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "payments")])

FIELD_FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "subject": (lambda: _build(subject_name=_CN), "the subject is not"),
    "issuer": (lambda: _build(issuer_name=_CN), "the issuer's name"),
    "serial": (lambda: _build(serial_number=PLAN.serial ^ 1), "the serial is not the planned"),
    "key": (lambda: _build(public_key=make_private_key(9).public_key()), "the public key"),
    "start": (
        lambda: _build(not_valid_before=datetime(2026, 1, 1, 11, 59, 49)),  # noqa: DTZ001
        "the validity is not the planned",
    ),
    "end": (
        lambda: _build(not_valid_after=datetime(2027, 1, 1)),  # noqa: DTZ001
        "the validity is not the planned",
    ),
    "algorithm": (lambda: _build(digest=hashes.SHA384()), "inside is not ecdsa-with-SHA256"),
}


@pytest.mark.parametrize("fault", FIELD_FAULTS)
def test_a_wrong_field_is_caught(fault: str) -> None:
    make, sentence = FIELD_FAULTS[fault]
    with pytest.raises(Internal, match=sentence):
        lint_certificate(make(), PLAN)


def _rewrite(change: Callable[[list[bytes]], list[bytes]], outside: bytes | None = None) -> bytes:
    """The sound draft with the encodings of its fields changed by hand."""
    tbs, algorithm, bits = read_elements(read_element(_build()).content)
    fields = change([element.encoding for element in read_elements(tbs.content)])
    parts = encode_element(0x30, b"".join(fields)), outside or algorithm.encoding, bits.encoding
    return encode_element(0x30, b"".join(parts))


def _put(index: int, code: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda fields: [*fields[:index], code, *fields[index + 1 :]]


_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
_WITH_NULL = bytes.fromhex("300c06082a8648ce3d0403020500")
_LATE = encode_element(
    0x30, b"\x18\x0f20260101115950Z" + read_element(b"\x17\x0d260101130000Z").encoding
)

ENCODING_FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "algorithm outside": (lambda: _rewrite(lambda f: f, _SHA384), "algorithm outside|parsed"),
    "algorithm inside": (lambda: _rewrite(_put(2, _SHA384)), "algorithm inside|parsed"),
    "null parameters": (
        lambda: _rewrite(_put(2, _WITH_NULL), _WITH_NULL),
        "algorithm outside|parsed",
    ),
    "GeneralizedTime before 2050": (lambda: _rewrite(_put(4, _LATE)), "validity|parsed"),
    "unique id": (
        lambda: _rewrite(lambda f: [*f[:7], bytes.fromhex("81020001"), f[7]]),
        "beside the extensions|parsed",
    ),
    "no extensions": (lambda: _rewrite(lambda f: f[:7]), "missing"),
    "version 1": (lambda: _rewrite(lambda f: f[1:7]), "version|parsed"),
    "padded serial": (
        lambda: _rewrite(lambda f: [f[0], encode_element(2, b"\x00" + f[1][2:]), *f[2:]]),
        "the serial|parsed",
    ),
    "garbage": (lambda: b"garbage", "can't be parsed"),
    "truncated": (lambda: _build()[:-1], "can't be parsed"),
    "trailing": (lambda: _build() + b"\x00", "can't be parsed"),
}


@pytest.mark.parametrize("fault", ENCODING_FAULTS)
def test_a_wrong_encoding_is_caught(fault: str) -> None:
    make, sentence = ENCODING_FAULTS[fault]
    with pytest.raises(Internal, match=sentence):
        lint_certificate(make(), PLAN)


def test_rewriting_without_a_change_passes() -> None:
    """So the cases above fail for their own reason."""
    lint_certificate(_rewrite(lambda fields: fields), PLAN)
    assert ECDSA_WITH_SHA256 in _build()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spiffe_id": SpiffeId(TrustDomain("example.org"), "")}, "needs a path"),
        ({"spiffe_id": SpiffeId(TrustDomain("b.example"), "/a")}, "another trust domain"),
        ({"not_after": PLAN.issuer.not_after + timedelta(seconds=1)}, "beyond the issuer's"),
        ({"not_before": PLAN.issuer.not_before - timedelta(hours=1)}, "beyond the issuer's"),
        ({"not_after": PLAN.not_before}, "notAfter is not after notBefore"),
        ({"serial": 1 << 159}, "within 20 octets"),
    ],
)
def test_a_plan_that_breaks_a_rule_is_caught_however_it_came_about(changes, sentence: str) -> None:
    plan: CertificatePlan = replace(PLAN, **changes)
    with pytest.raises(Internal, match=sentence):
        draft_certificate(plan)


def test_every_fault_is_listed_and_not_the_first_alone() -> None:
    der = _build(_change(_KU, critical=False), subject_name=_CN)
    with pytest.raises(Internal, match=r"subject is not.*keyUsage is not critical"):
        lint_certificate(der, PLAN)


def test_a_planned_crl_address_must_be_there() -> None:
    plan = replace(PLAN, crl_url="http://example.org/crl")
    with pytest.raises(Internal, match=r"missing: 2\.5\.29\.31"):
        lint_certificate(_build(), plan)
    point = x509.DistributionPoint([_OTHER_URI], None, None, None)
    extensions = [*_extensions().values(), (x509.CRLDistributionPoints([point]), False)]
    with pytest.raises(Internal, match="not the planned URL alone"):
        lint_certificate(_build(extensions), plan)


def test_a_plan_in_utc_is_read_back_to_the_second() -> None:
    assert DRAFT.not_valid_before_utc == datetime(2026, 1, 1, 11, 59, 50, tzinfo=UTC)
