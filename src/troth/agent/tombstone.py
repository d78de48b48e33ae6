"""What Envoy gets instead of a certificate or a bundle that was taken away.

Envoy keeps its last secret when a stream ends or a list comes back empty. A new secret that can't
work is taken at once: handshakes fail within milliseconds, and release is as fast.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_UNTIL = datetime(2000, 1, 2, tzinfo=UTC)


class Tombstone:
    """A certificate that expired in 2000, with its key, and an authority whose key nobody has.

    Make one for a process: it costs two key pairs. `certificate` and `anchor` are DER,
    `private_key` is PKCS#8 DER and opens nothing.
    """

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = _sign_expired(key, "identity withdrawn")
        self.private_key = key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        # Another key, dropped here: holders of the first must not be able to sign under it.
        self.anchor = _sign_expired(ec.generate_private_key(ec.SECP256R1()), "trust withdrawn")


def _sign_expired(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.DER)
