"""What reading a certificate or a key of others may raise."""

from __future__ import annotations

from typing import Any

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


def list_words(name: x509.Name) -> tuple[Any, ...]:
    """The attributes of a name, one like the other where case and spaces are all that differs
    (RFC 5280, section 7.1, as OpenSSL has it)."""
    return tuple(
        tuple(sorted((one.oid.dotted_string, _fold(one.value)) for one in part))
        for part in name.rdns
    )


def _fold(value: str | bytes) -> str:
    return " ".join(value.split()).casefold() if isinstance(value, str) else value.hex()
