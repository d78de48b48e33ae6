"""What reading a certificate of others may raise."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for certificates and lists that it can't read, some of which OpenSSL
lets pass. A missing extension isn't among it: what that means is for the reader to say."""
