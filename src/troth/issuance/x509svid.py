"""X.509-SVIDs: plan → draft and lint → sign (elsewhere) → assemble → check.

The order is Boulder's (letsencrypt/boulder, docs/ISSUANCE-CYCLE.md): the exact bytes that will be
signed exist, linted, before a key touches them, and can be recorded first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from troth.core.errors import Internal, Invalid
from troth.issuance.der import assemble_signed, check_signed, identify_key, load_verifier
from troth.issuance.drafter import Drafter, Issuer
from troth.issuance.lint import lint_certificate, make_distribution_points
from troth.issuance.x509plan import CertificatePlan, check_dns_name, plan_certificate

__all__ = [
    "CertificatePlan",
    "Drafter",
    "assemble_certificate",
    "check_certificate",
    "check_dns_name",
    "draft_certificate",
    "lint_certificate",
    "load_verifier",
    "plan_certificate",
]


def draft_certificate(plan: CertificatePlan, drafter: Drafter | None = None) -> bytes:
    """The DER TBSCertificate of `plan`, linted on a copy that a throwaway key signed.

    Pass one `Drafter` for speed. Raises `Invalid` for a public key that is no point of the curve
    and `Internal` when the lint finds fault.
    """
    drafter = drafter if drafter is not None else Drafter()
    issuer = drafter.find_issuer(plan.issuer)
    draft = drafter.sign_certificate(_build(plan, issuer))
    lint_certificate(draft.public_bytes(Encoding.DER), plan, issuer)
    return draft.tbs_certificate_bytes


def assemble_certificate(tbs: bytes, signature: bytes) -> bytes:
    """The DER certificate of `tbs` and the keystore's DER Ecdsa-Sig-Value."""
    return assemble_signed(tbs, signature)


def check_certificate(
    der: bytes, tbs: bytes, issuer_public_key: bytes | ec.EllipticCurvePublicKey
) -> None:
    """Raise `Internal` unless `der` holds exactly the recorded `tbs` and its signature verifies.

    `issuer_public_key` is DER SubjectPublicKeyInfo, or what `load_verifier` made of it. `tbs`
    passed the lint when it was drafted.
    """
    check_signed(der, tbs, issuer_public_key)


def _build(plan: CertificatePlan, issuer: Issuer) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer.name,
        subject_name=x509.Name([]),
        public_key=_load_key(plan.public_key),
        serial_number=plan.serial,
        not_valid_before=plan.not_before.replace(tzinfo=None),
        not_valid_after=plan.not_after.replace(tzinfo=None),
        # In one piece: the builder's own method copies itself for each extension.
        extensions=[
            x509.Extension(value.oid, critical, value)
            for value, critical in _list_extensions(plan, issuer)
        ],
    )


def _list_extensions(
    plan: CertificatePlan, issuer: Issuer
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    yield x509.BasicConstraints(ca=False, path_length=None), True
    yield make_key_usage(digital_signature=True), True
    both = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    yield x509.ExtendedKeyUsage(both), False
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(plan.spiffe_id))]
    names += [x509.DNSName(name) for name in plan.dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(text)) for text in plan.ip_addresses]
    yield x509.SubjectAlternativeName(names), True
    yield x509.SubjectKeyIdentifier(identify_key(plan.public_key)), False
    yield x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None), False
    if plan.crl_url is not None:
        yield make_distribution_points(plan.crl_url), False


def make_key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    """A keyUsage with the given bits and no other (RFC 5280, 4.2.1.3)."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(public_key: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid("The public key is not a point of the curve P-256.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Internal("The planned public key is not an elliptic curve key.")
    return key
