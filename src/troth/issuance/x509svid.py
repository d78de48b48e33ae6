"""X.509-SVIDs: plan → draft and lint → sign (elsewhere) → assemble → check.

The order is Boulder's (letsencrypt/boulder, docs/ISSUANCE-CYCLE.md): the exact bytes that will be
signed exist, linted, before a key touches them, and can be recorded first.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from troth.core.errors import Internal, Invalid
from troth.issuance.der import assemble_signed, check_signed, load_verifier
from troth.issuance.drafter import Drafter
from troth.issuance.lint import lint_certificate
from troth.issuance.x509plan import (
    CertificatePlan,
    check_dns_name,
    name_subject,
    plan_certificate,
)
from troth.issuance.x509tbs import PLACEHOLDER, encode_tbs

__all__ = [
    "CertificatePlan",
    "Drafter",
    "assemble_certificate",
    "check_certificate",
    "check_dns_name",
    "draft_certificate",
    "lint_certificate",
    "load_verifier",
    "name_subject",
    "plan_certificate",
]


def draft_certificate(plan: CertificatePlan, drafter: Drafter | None = None) -> bytes:
    """The DER TBSCertificate of `plan`, linted on a copy with a placeholder for the signature.

    Pass one `Drafter` for speed. Raises `Invalid` for a public key that is no point of the curve
    and `Internal` when the lint finds fault.
    """
    drafter = drafter if drafter is not None else Drafter()
    issuer = drafter.find_issuer(plan.issuer)
    _check_point(plan.public_key)
    tbs = encode_tbs(plan, issuer)
    lint_certificate(assemble_signed(tbs, PLACEHOLDER), plan, issuer)
    return tbs


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


def _check_point(public_key: bytes) -> None:
    try:
        key = load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid("The public key is not a point of the curve P-256.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Internal("The planned public key is not an elliptic curve key.")
