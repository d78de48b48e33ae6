"""What reading a certificate or a key of others may raise."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InternalError,  # a raw key of a wrong size, among others
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for certificates, lists and keys that it can't read, some of which
OpenSSL lets pass. A missing extension isn't among it: what that means is for the reader to say."""
