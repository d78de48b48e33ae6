"""What we write is, byte for byte, what the library's builder writes for the same plan."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.issuer import FakeIssuer, make_private_key
from troth.core.errors import Internal, Invalid
from troth.core.ids import SpiffeId
from troth.issuance.ca import make_key_usage
from troth.issuance.der import assemble_signed, identify_key
from troth.issuance.drafter import Drafter, read_issuer
from troth.issuance.lint import lint_certificate
from troth.issuance.x509plan import name_subject, plan_certificate
from troth.issuance.x509svid import CertificatePlan, draft_certificate
from troth.issuance.x509tbs import PLACEHOLDER, encode_tbs

ISSUER = FakeIssuer()
FACTS = read_issuer(ISSUER.plan().issuer)
URI = x509.UniformResourceIdentifier


def build(plan: CertificatePlan) -> bytes:
    """The TBSCertificate that the library's builder makes of a plan."""
    key: Any = load_der_public_key(plan.public_key)
    common = [plan.common_name] if plan.common_name else []
    builder = x509.CertificateBuilder(
        issuer_name=FACTS.name,
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one) for one in common]),
        public_key=key,
        serial_number=plan.serial,
        not_valid_before=plan.not_before.replace(tzinfo=None),
        not_valid_after=plan.not_after.replace(tzinfo=None),
    )
    names: list[x509.GeneralName] = [URI(str(plan.spiffe_id))]
    names += [x509.DNSName(name) for name in plan.dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(text)) for text in plan.ip_addresses]
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (make_key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage(both), False),
        (x509.SubjectAlternativeName(names), True),
        (x509.SubjectKeyIdentifier(identify_key(plan.public_key)), False),
        (x509.AuthorityKeyIdentifier(FACTS.key_identifier, None, None), False),
    ]
    if plan.crl_url is not None:
        point = x509.DistributionPoint([URI(plan.crl_url)], None, None, None)
        extensions.append((x509.CRLDistributionPoints([point]), False))
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(make_private_key(1), hashes.SHA256()).tbs_certificate_bytes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dns_names": ["api.example.org", "a"], "ip_addresses": ["10.0.0.1", "2001:db8::1"]},
        {"dns_names": [f"n{number}.example.org" for number in range(32)]},
        {"crl_url": "http://crl.example.org/aut_1.crl"},
        {"crl_url": "https://crl.example.org/" + "x" * 1500},
    ],
)
def test_names_and_addresses_of_every_length(changes: dict[str, Any]) -> None:
    plan = ISSUER.plan(**changes)
    assert encode_tbs(plan, FACTS) == build(plan)


@given(
    serial=st.integers(min_value=1, max_value=(1 << 159) - 1),
    start=st.integers(min_value=0, max_value=90 * 365 * 86_400),  # until 2059
    path=st.text("abcXYZ019._-", min_size=3, max_size=300).filter(lambda t: t.strip(".")),
)
def test_serials_times_and_paths(serial: int, start: int, path: str) -> None:
    begin = datetime.fromtimestamp(start, UTC)
    plan = ISSUER.plan("/" + path)
    plan = replace(plan, serial=serial, not_before=begin, not_after=begin + timedelta(hours=1))
    assert encode_tbs(plan, FACTS) == build(plan)


def test_the_placeholder_is_nobodys_signature() -> None:
    plan = ISSUER.plan()
    draft = x509.load_der_x509_certificate(assemble_signed(encode_tbs(plan, FACTS), PLACEHOLDER))
    algorithm = ec.ECDSA(hashes.SHA256())
    for der in (plan.public_key, plan.issuer.public_key):
        key = load_der_public_key(der)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        with pytest.raises(InvalidSignature):
            key.verify(draft.signature, draft.tbs_certificate_bytes, algorithm)


@pytest.mark.parametrize("name", ["billing", "shop/till-1", "a.b_c", "x" * 64])
def test_a_common_name_is_the_subjects_one_attribute(name: str) -> None:
    plan = replace(ISSUER.plan(), common_name=name)
    assert encode_tbs(plan, FACTS) == build(plan)
    draft = assemble_signed(draft_certificate(plan, Drafter()), PLACEHOLDER)
    lint_certificate(draft, plan)
    for other in ("", "another"):
        with pytest.raises(Internal, match="subject is not the planned one"):
            lint_certificate(draft, replace(plan, common_name=other))


def test_what_cannot_be_a_common_name() -> None:
    plan = ISSUER.plan()
    for name in ("x" * 65, "a,CN=b", "a\0", "ä", "a b"):
        with pytest.raises(Invalid, match="common name"):
            plan_certificate(
                spiffe_id=plan.spiffe_id,
                public_key=plan.public_key,
                ttl=timedelta(minutes=5),
                issuer=plan.issuer,
                serial_bytes=bytes(range(20)),
                now=plan.not_before + timedelta(seconds=10),
                common_name=name,
            )
    assert name_subject(SpiffeId.parse("spiffe://example.org/shop/till")) == "shop/till"
    assert name_subject(SpiffeId.parse(f"spiffe://example.org/{'x' * 65}")) == ""
