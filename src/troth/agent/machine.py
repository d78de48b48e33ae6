"""The certificate that this machine was made with, and its key: how it proves itself to a server.

Both files are read anew for each proof, since they may have been replaced meanwhile.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from troth.agent.credential import MAX_FILE_SIZE
from troth.core.errors import Invalid
from troth.core.x509 import UNREADABLE
from troth.identity.x509pop import (
    MAX_CHAIN,
    NODE,
    PossessionKey,
    find_trust_domain,
    sign_possession,
)
from troth.wire.x509pop import MAX_EVIDENCE, render_evidence

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Machine:
    """PEM files: the certificate with its intermediates, leaf first, and the unencrypted key."""

    certificate: Path
    key: Path

    def prove(self, csr: bytes, roots: tuple[bytes, ...], now: datetime) -> str:
        """The evidence that the holder of the key asks for `csr`; for the trust domain of `roots`.

        Raises `Invalid`, naming the file and what is wrong with it.
        """
        chain, key = self._read_chain(), self._read_key()
        form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        try:
            certified = chain[0].public_key().public_bytes(*form)
        except UNREADABLE as error:
            raise Invalid(
                f"The key of {self.certificate} is of a kind that nobody knows."
            ) from error
        if certified != key.public_key().public_bytes(*form):
            raise Invalid(f"{self.key} is not the key of the certificate in {self.certificate}.")
        signature = sign_possession(key, NODE, find_trust_domain(roots), csr, now)
        ders = [certificate.public_bytes(Encoding.DER) for certificate in chain]
        evidence = render_evidence(ders, now, signature)
        if len(evidence) > MAX_EVIDENCE:
            raise Invalid(f"The chain in {self.certificate} is too large to be sent.")
        return evidence

    def _read_chain(self) -> list[x509.Certificate]:
        try:
            found = x509.load_pem_x509_certificates(_read(self.certificate))
        except UNREADABLE as error:
            raise Invalid(f"{self.certificate} holds no PEM certificate.") from error
        if len(found) > MAX_CHAIN:
            raise Invalid(f"{self.certificate} holds more than {MAX_CHAIN} certificates.")
        return found

    def _read_key(self) -> PossessionKey:
        content = _read(self.key)
        if self.key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            log.warning("machine.key_open", path=str(self.key), mend=f"chmod 600 {self.key}")
        try:
            key = load_pem_private_key(content, None)
        except UNREADABLE as error:
            raise Invalid(f"{self.key} holds no unencrypted private key in PEM.") from error
        if not isinstance(
            key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
        ):
            raise Invalid(f"The key in {self.key} must be ECDSA, RSA or Ed25519.")
        return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise Invalid(f"{path} can't be read: {error.strerror}.") from error
    if len(content) > MAX_FILE_SIZE:
        raise Invalid(f"{path} is larger than {MAX_FILE_SIZE >> 20} MiB.")
    return content
