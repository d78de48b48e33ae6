"""The root certificate of a trust domain: self-signed, and itself an SVID (X509-SVID, 3.2)."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import NameOID

from troth.core.errors import Internal
from troth.core.ids import TrustDomain
from troth.issuance.der import identify_key, is_p256
from troth.issuance.drafter import Drafter
from troth.issuance.lint import lint_root
from troth.issuance.profiles import trim_seconds

_MAX_COMMON_NAME = 64
"""ub-common-name of RFC 5280, appendix A.1. A longer trust domain is whole in the URI name."""


def draft_ca_certificate(
    trust_domain: TrustDomain,
    public_key: bytes,
    not_before: datetime,
    not_after: datetime,
    serial: int,
    drafter: Drafter | None = None,
) -> bytes:
    """The linted DER TBSCertificate of a root; assemble and check it as a leaf.

    The subject carries the serial too, so that each root of a trust domain has a name of its own
    (RFC 5280, 4.1.2.6) and verifiers that look up issuers and lists by name find the right one.
    No path is longer than root and leaf (pathLenConstraint 0). Times are cut to whole seconds.
    """
    not_before, not_after = trim_seconds(not_before), trim_seconds(not_after)
    name = _name(trust_domain, serial)
    uri = str(trust_domain.id)
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=_load_key(public_key),
        serial_number=serial,
        not_valid_before=not_before.replace(tzinfo=None),
        not_valid_after=not_after.replace(tzinfo=None),
    )
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (make_key_usage(key_cert_sign=True, crl_sign=True), True),
        (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), False),
        (x509.SubjectKeyIdentifier(identify_key(public_key)), False),
    ]
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    draft = (drafter or Drafter()).sign_certificate(builder)
    lint_root(
        draft.public_bytes(Encoding.DER),
        uri=uri,
        public_key=public_key,
        serial=serial,
        not_before=not_before,
        not_after=not_after,
    )
    return draft.tbs_certificate_bytes


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


def _name(trust_domain: TrustDomain, serial: int) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "troth"),
            x509.NameAttribute(NameOID.COMMON_NAME, trust_domain.name[:_MAX_COMMON_NAME]),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:x}"),
        ]
    )


def _load_key(public_key: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(public_key) if is_p256(public_key) else None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Internal("The keystore gave a public key that can't be read.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Internal("The keystore gave a public key that is not P-256.")
    return key
