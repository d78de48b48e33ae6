"""The drafter: signs drafts with a key that nobody trusts, so that they can be linted whole.

A lint wants a complete certificate, and the real key must not sign before the lint has passed.
So the same bytes are signed with a throwaway key first (the method of Let's Encrypt's Boulder,
docs/ISSUANCE-CYCLE.md). The throwaway key's scalar is 1: anybody can sign with it, hence a draft
that leaks proves nothing to anyone, and drafting needs no randomness of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from troth.core.errors import Internal
from troth.issuance.authorities import Authority

_KEPT_ISSUERS = 16
_KEPT_ENTRIES = 200_000
"""Some 700 bytes each."""

Entry = tuple[x509.RevokedCertificate, bytes]
"""An entry of a revocation list as the library builds it, and the DER that it must become."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """What a draft takes from its issuer's certificate; `uri` is its SPIFFE ID, if it has one."""

    name: x509.Name
    name_der: bytes
    key_identifier: bytes
    uri: str | None


def read_issuer(authority: Authority) -> Issuer:
    """Name and key identifier of an X.509 authority; `Internal` if its certificate is unusable."""
    try:
        certificate = x509.load_der_x509_certificate(authority.certificate)
        identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise Internal(f"The certificate of authority {authority.id} can't be used.") from error
    name = certificate.subject
    return Issuer(name, name.public_bytes(), identifier.value.digest, _find_uri(certificate))


def _find_uri(certificate: x509.Certificate) -> str | None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if uris else None


class Drafter:
    """Owns the throwaway key, and remembers the last few issuers and the entries of their lists.

    Make one and keep it: it is cheap, yet not free. Safe to use from several threads, since a
    lost entry of the memory is only read again.
    """

    def __init__(self) -> None:
        self._key = ec.derive_private_key(1, ec.SECP256R1())
        self._issuers: dict[bytes, Issuer] = {}
        self._entries: dict[Hashable, Entry] = {}

    def find_issuer(self, authority: Authority) -> Issuer:
        """`read_issuer`, remembered."""
        found = self._issuers.get(authority.certificate)
        if found is None:
            found = read_issuer(authority)
            if len(self._issuers) >= _KEPT_ISSUERS:
                self._issuers.clear()
            self._issuers[authority.certificate] = found
        return found

    def find_entry(self, key: Hashable, make: Callable[[], Entry]) -> Entry:
        """What `make` makes of `key`, remembered: a list is made anew for each revocation, and all
        but one of its entries are as they were."""
        found = self._entries.get(key)
        if found is None:
            found = make()
            if len(self._entries) >= _KEPT_ENTRIES:
                self._entries.clear()
            self._entries[key] = found
        return found

    def sign_certificate(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """The draft certificate."""
        return builder.sign(self._key, hashes.SHA256())

    def sign_crl(
        self, builder: x509.CertificateRevocationListBuilder
    ) -> x509.CertificateRevocationList:
        """The draft revocation list."""
        return builder.sign(self._key, hashes.SHA256())
