"""X.509 proof of possession: a machine shows its manufacturer's or operator's certificate, and
that it holds the key.

The proof is a signature by the certificate's key over the request for a new certificate, so who
replays it obtains nothing but a certificate for a key that they don't have. It names what it is
for, the trust domain and its time, and is taken once.

Only `cryptography` and the standard library are needed here: machines without an agent make their
proofs with this code too. Source of the idea: SPIRE's node attestor ``x509pop``, whose demands on
certificates are followed: names and extended key usages are whatever the manufacturer chose.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from troth.core.errors import Denied, Invalid
from troth.core.ids import SpiffeId, TrustDomain
from troth.core.x509 import UNREADABLE

MAX_CHAIN = 5
"""Certificates, leaf included."""
MAX_CERTIFICATE = 8 * 1024
"""Bytes of one certificate; most have one or two thousand."""
MAX_SIGNATURE = 2048
"""Bytes: of an RSA key of 16,384 bits."""
MIN_RSA_BITS = 2048
MAX_AUTHORITIES = 256
LEEWAY = timedelta(minutes=5)
"""How far the time of a proof may lie from the verifier's clock, either way."""

NODE = "node.attest"
DEVICE = "device.enroll"
"""What a proof is for: the operation that takes it."""

NAME_PREFIX = "x509pop-"
"""How the names of nodes begin that are called after their certificate; kept for them."""
NAME_DIGITS = 40
_NODE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?", re.ASCII)
_RESERVED = ("local",)
"""The server's own agent, which registrations without `nodes` are for."""

_LABEL = b"troth x509pop proof 1"
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)

PossessionKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
"""Keys that a machine may prove itself with."""


@dataclass(frozen=True, slots=True)
class Possession:
    """Who proved to hold the key of a certificate that an authority vouches for.

    `fingerprint` is the SHA-256 of the certificate's DER in lower-case hex, `authority` that of
    the anchor it leads to, `key` that of the certificate's public key (SubjectPublicKeyInfo, DER).
    Who it is goes by `key`: the issuer's ECDSA signature, and with it the fingerprint, can be
    rewritten by anybody, and a key may get another certificate. `common_name` is the subject's if
    it has exactly one; `issuer` is in the form of RFC 4514; `digest` (SHA-256, hex) names the
    proof, however its signatures are written, and must be taken once until `expires_at`.
    """

    fingerprint: str
    key: str
    common_name: str | None
    serial: str
    issuer: str
    not_after: datetime
    authority: str
    digest: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Vouchers:
    """The authorities that vouch for machines, and whether a machine is called after its
    certificate's common name instead of its key."""

    authorities: tuple[x509.Certificate, ...] = ()
    by_common_name: bool = False

    def name_machine(self, possession: Possession) -> str:
        """The node name that `possession` proves; `Denied` if its common name can't be one."""
        if not self.by_common_name:
            return f"{NAME_PREFIX}{possession.key[:NAME_DIGITS]}"
        name = possession.common_name or ""
        if not _NODE_NAME.fullmatch(name) or name.startswith(NAME_PREFIX) or name in _RESERVED:
            raise Denied(
                f"The certificate's common name {name[:80]!r} can't be a node's name: it must be "
                f"1 to 63 of a-z, 0-9, '.' and '-', and neither 'local' nor begin with "
                f"'{NAME_PREFIX}'."
            )
        return name


def load_authorities(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The anchors in a PEM bundle; raises `Invalid` that says what is wrong with it."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except UNREADABLE as error:
        raise Invalid("it holds no PEM certificates that can be read.") from error
    if len(found) > MAX_AUTHORITIES:
        raise Invalid(f"it holds more than {MAX_AUTHORITIES} certificates.")
    for certificate in found:
        subject = certificate.subject.rfc4514_string()[:200]
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
            is_authority = constraints.value.ca
        except x509.ExtensionNotFound:
            is_authority = False
        except UNREADABLE as error:
            raise Invalid(f"the extensions of {subject!r} can't be read.") from error
        if not is_authority:
            raise Invalid(f"{subject!r} is no authority: its basicConstraints don't say CA:TRUE.")
    return tuple(found)


def find_trust_domain(roots: Iterable[bytes]) -> TrustDomain:
    """The trust domain whose roots (DER) these are, from the SPIFFE ID that each carries.

    Raises `Invalid` if they name none, or more than one.
    """
    named: set[TrustDomain] = set()
    for der in roots:
        try:
            root = x509.load_der_x509_certificate(der)
            names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
            named |= {SpiffeId.parse(uri).trust_domain for uri in uris}
        except (*UNREADABLE, x509.ExtensionNotFound):
            continue
    if len(named) != 1:
        raise Invalid(
            "The CA file's roots don't name one trust domain; give the server's ca.pem with --ca."
        )
    return named.pop()


def compose_message(purpose: str, trust_domain: TrustDomain, csr: bytes, at: datetime) -> bytes:
    """What is signed: a label, then purpose, trust domain, SHA-256 of the CSR (DER) and time, each
    behind its length. Nothing else that such a key signs looks like this."""
    fields = (
        purpose.encode(),
        trust_domain.name.encode(),
        hashlib.sha256(csr).digest(),
        str(count_milliseconds(at)).encode(),
    )
    return _LABEL + b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def count_milliseconds(at: datetime) -> int:
    """`at` as whole milliseconds since 1970 (UTC), as proofs carry it."""
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def sign_possession(
    key: PossessionKey, purpose: str, trust_domain: TrustDomain, csr: bytes, at: datetime
) -> bytes:
    """The client's side: the proof's signature, by the key of the certificate that is shown."""
    message = compose_message(purpose, trust_domain, csr, at)
    match key:
        case ec.EllipticCurvePrivateKey():
            return key.sign(message, ec.ECDSA(hashes.SHA256()))
        case rsa.RSAPrivateKey():
            return key.sign(message, _PSS, hashes.SHA256())
        case _:
            return key.sign(message)


def verify_possession(
    *,
    authorities: Sequence[x509.Certificate],
    chain: Sequence[bytes],
    signature: bytes,
    at: datetime,
    purpose: str,
    trust_domain: TrustDomain,
    csr: bytes,
    now: datetime,
) -> Possession:
    """Who holds the key of `chain[0]` (DER, leaf first), if all of it is as it must be.

    Raises `Denied` with the reason. That the proof is new is for the caller to see to.
    """
    if not authorities:
        raise Denied("No authority is configured here for x509pop; join with a token.")
    if abs(at - now) > LEEWAY:
        raise Denied(
            f"The proof was made at {at:%Y-%m-%dT%H:%M:%SZ}, more than {LEEWAY.seconds // 60} "
            f"minutes from the server's time, which is {now:%Y-%m-%dT%H:%M:%SZ}: set the clock, "
            "or take the time from the answer's Date header."
        )
    leaf, *others = _load_chain(chain)
    path = _verify_path(leaf, others, authorities, now)
    message = compose_message(purpose, trust_domain, csr, at)
    _verify_signature(leaf, signature, message)
    key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key_hash = hashlib.sha256(key)
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Possession(
        fingerprint=hashlib.sha256(chain[0]).hexdigest(),
        key=key_hash.hexdigest(),
        common_name=str(names[0].value) if len(names) == 1 else None,
        serial=f"{leaf.serial_number:x}",
        issuer=leaf.issuer.rfc4514_string(),
        not_after=leaf.not_valid_after_utc,
        authority=hashlib.sha256(path[-1].public_bytes(Encoding.DER)).hexdigest(),
        # Not of a signature, nor of what carries one: ECDSA's can be rewritten into valid others.
        digest=hashlib.sha256(key_hash.digest() + message).hexdigest(),
        expires_at=at + 2 * LEEWAY,
    )


def _load_chain(chain: Sequence[bytes]) -> list[x509.Certificate]:
    if not chain:
        raise Denied("There is no certificate in the proof; send the chain, leaf first.")
    if len(chain) > MAX_CHAIN or any(len(der) > MAX_CERTIFICATE for der in chain):
        raise Denied(
            f"The proof's chain is too large: at most {MAX_CHAIN} certificates of "
            f"{MAX_CERTIFICATE // 1024} KiB each."
        )
    try:
        return [x509.load_der_x509_certificate(der) for der in chain]
    except UNREADABLE as error:
        raise Denied("A certificate of the proof can't be read; send X.509 in DER.") from error


def _verify_path(
    leaf: x509.Certificate,
    others: list[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    now: datetime,
) -> list[x509.Certificate]:
    """The path from `leaf` to an anchor (RFC 5280, section 6), anchor last."""
    living = [a for a in authorities if a.not_valid_before_utc <= now <= a.not_valid_after_utc]
    if not living:
        raise Denied("Every configured x509pop authority has expired; the server needs new ones.")
    for_authorities = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _demand_signer)
    )
    for_leaves = (
        ExtensionPolicy.permit_all()
        .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _demand_leaf)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _demand_digital_signature)
    )
    try:
        verifier = (
            PolicyBuilder()
            .store(Store(living))
            .time(now)
            .max_chain_depth(MAX_CHAIN)
            .extension_policies(ca_policy=for_authorities, ee_policy=for_leaves)
            .build_client_verifier()
        )
        return verifier.verify(leaf, others).chain
    except VerificationError as error:
        reason = str(error).removeprefix("validation failed: ").split(" (encountered", 1)[0]
        raise Denied(
            f"The certificate doesn't lead to an authority that is configured here: {reason[:200]}."
        ) from error
    except UNREADABLE as error:
        raise Denied("A certificate of the proof can't be read; send X.509 in DER.") from error


def _demand_signer(
    policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an authority's key usage lacks keyCertSign")


def _demand_leaf(
    policy: Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints | None
) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("the certificate is an authority's, not a machine's")


def _demand_digital_signature(
    policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.digital_signature:
        raise ValueError("the certificate's key usage lacks digitalSignature")


def _verify_signature(leaf: x509.Certificate, signature: bytes, message: bytes) -> None:
    try:
        key = leaf.public_key()
    except UNREADABLE as error:
        raise Denied("The certificate's key can't be read.") from error
    if len(signature) > MAX_SIGNATURE:
        raise Denied(f"The proof's signature is longer than {MAX_SIGNATURE} bytes.")
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            sound = _holds(lambda: key.verify(signature, message, ec.ECDSA(hashes.SHA256())))
        case rsa.RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            # Keys in older hardware know nothing of PSS (RFC 8017, section 8).
            sound = _holds(lambda: key.verify(signature, message, _PSS, hashes.SHA256())) or _holds(
                lambda: key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            )
        case ed25519.Ed25519PublicKey():
            sound = _holds(lambda: key.verify(signature, message))
        case _:
            raise Denied(
                "The certificate's key is of a kind that proves nothing here: it must be ECDSA on "
                f"P-256, P-384 or P-521, RSA of {MIN_RSA_BITS} bits or more, or Ed25519."
            )
    if not sound:
        raise Denied(
            "The proof is not signed by the certificate's key, or was made for another request, "
            "purpose or trust domain."
        )


def _holds(verify: Callable[[], None]) -> bool:
    try:
        verify()
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True
