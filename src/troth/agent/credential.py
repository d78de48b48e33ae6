"""The node's own credential: its key, certificate chain and the roots it trusts, kept on disk.

All three are one file that is replaced as a whole, so a crash never leaves a key beside another
key's certificate.
"""

from __future__ import annotations

import os
import ssl
import stat
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from troth.core.errors import Internal, Invalid, Refused
from troth.core.x509 import UNREADABLE
from troth.drivers.durability import sync_directory
from troth.issuance.der import read_signer

FILE_NAME = "node.json"
MAX_FILE_SIZE = 1 << 20
MAX_ROOTS = 64


@dataclass(frozen=True, slots=True)
class Credential:
    """What a node proves itself with.

    `key` is unencrypted PKCS#8 DER, `chain` DER with the leaf first, `roots` DER certificates.
    """

    node_id: str
    spiffe_id: str
    key: bytes = field(repr=False)
    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime

    @property
    def signer(self) -> str:
        """The key identifier (hex) of the authority that signed the certificate."""
        return read_signer(x509.load_der_x509_certificate(self.chain[0]))

    def adopt_roots(self, roots: tuple[bytes, ...]) -> Credential:
        """The same credential, trusting `roots`."""
        return replace(self, roots=roots)


class _Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node_id: str
    spiffe_id: str
    key: bytes
    chain: list[bytes]
    roots: list[bytes]


def generate_key() -> bytes:
    """A fresh P-256 private key, unencrypted PKCS#8 DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def make_csr(key: bytes) -> bytes:
    """A PKCS #10 request (DER) without names: the server knows what to certify."""
    private = load_der_private_key(key, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise Internal("The agent's key is not an elliptic-curve key.")
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.DER)


def read_leaf(chain: tuple[bytes, ...], key: bytes, spiffe_id: str) -> x509.Certificate:
    """The leaf of `chain`, after checking that it certifies `key` for `spiffe_id`.

    Raises `Internal` with what the server got wrong.
    """
    if not chain:
        raise Internal("The server answered without a certificate.")
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in chain]
        leaf = certificates[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        certified = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (*UNREADABLE, x509.ExtensionNotFound) as error:
        raise Internal("The server answered with a certificate that can't be read.") from error
    own = load_der_private_key(key, None).public_key()
    if certified != own.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise Internal("The server certified another key than the one it was asked to.")
    if uris != [spiffe_id]:
        raise Internal(f"The server's certificate is not for {spiffe_id}.")
    return leaf


def compose_credential(
    *,
    node_id: str,
    spiffe_id: str,
    key: bytes,
    chain: tuple[bytes, ...],
    roots: tuple[bytes, ...],
) -> Credential:
    """A checked credential from what the server sent or the disk kept; raises `Internal`."""
    leaf = read_leaf(chain, key, spiffe_id)
    check_roots(roots)
    return Credential(
        node_id=node_id,
        spiffe_id=spiffe_id,
        key=key,
        chain=chain,
        roots=roots,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


def check_roots(roots: tuple[bytes, ...]) -> None:
    """Raise `Internal` unless `roots` are between one and `MAX_ROOTS` certificates that TLS takes.

    OpenSSL refuses some that cryptography reads.
    """
    if not 0 < len(roots) <= MAX_ROOTS:
        raise Internal(f"A trust bundle needs between 1 and {MAX_ROOTS} roots.")
    try:
        for der in roots:
            x509.load_der_x509_certificate(der)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=b"".join(roots))
    except (*UNREADABLE, ssl.SSLError) as error:
        raise Internal("A root of the trust bundle can't be read.") from error


def read_roots(path: Path) -> tuple[bytes, ...]:
    """The roots (DER) in a PEM file; raises `Invalid` that says what is wrong with it."""
    try:
        if path.stat().st_size > MAX_FILE_SIZE:
            raise Invalid(f"The CA file {path} is larger than {MAX_FILE_SIZE >> 20} MiB.")
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise Invalid(
            f"The CA file {path} can't be read ({error.strerror}); "
            "give the server's ca.pem with --ca."
        ) from error
    except UNREADABLE as error:
        raise Invalid(
            f"The CA file {path} holds no PEM certificate; give the server's ca.pem with --ca."
        ) from error
    if len(found) > MAX_ROOTS:
        raise Invalid(f"The CA file {path} holds more than {MAX_ROOTS} certificates.")
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)


class CredentialFile:
    """Keeps the credential in the agent's data directory (0700), in a file (0600)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / FILE_NAME

    def load(self) -> Credential | None:
        """The stored credential, or None; raises `Refused` if the file is not to be trusted."""
        content = read_private(self._path, MAX_FILE_SIZE)
        if content is None:
            return None
        try:
            stored = msgspec.json.decode(content, type=_Stored)
            return compose_credential(
                node_id=stored.node_id,
                spiffe_id=stored.spiffe_id,
                key=stored.key,
                chain=tuple(stored.chain),
                roots=tuple(stored.roots),
            )
        except (msgspec.MsgspecError, Internal, *UNREADABLE) as error:
            raise Refused(
                f"{self._path} is damaged; remove it and join again with a new join token."
            ) from error

    def save(self, credential: Credential) -> None:
        """Replace the file as a whole, durably."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = msgspec.json.encode(
            _Stored(
                node_id=credential.node_id,
                spiffe_id=credential.spiffe_id,
                key=credential.key,
                chain=list(credential.chain),
                roots=list(credential.roots),
            )
        )
        write_private(self._path, content)


def read_private(path: Path, limit: int) -> bytes | None:
    """The first `limit` + 1 bytes of a file of ours, or None if there is none.

    Raises `Refused` if others than our user may have read or written it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"{path} can't be opened: {error.strerror}.") from error
    with os.fdopen(descriptor, "rb") as file:
        _check_private(path, os.fstat(descriptor))
        return file.read(limit + 1)


def write_private(path: Path, content: bytes) -> None:
    """Replace the file as a whole, durably, for our user alone (0600)."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_directory(path.parent)


def _check_private(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Refused(
            f"{path} holds a private key and must belong to the agent's user with mode 0600; "
            "remove it and join again if others may have read it."
        )
