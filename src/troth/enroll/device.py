"""A device: proves who it is once, then lives on its certificate."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from troth.core.clock import Clock
from troth.core.errors import Denied, Invalid, Refused
from troth.core.x509 import UNREADABLE
from troth.enroll.folder import BUNDLE, KEY, SVID, Enrolment, Folder, render_key
from troth.enroll.server import (
    Credential,
    call_operation,
    derive_mutual_url,
    fetch_pinned_root,
    fetch_roots,
    make_context,
    render_pem,
)
from troth.identity.x509pop import DEVICE, find_trust_domain, sign_possession
from troth.wire.x509pop import render_evidence

MAX_CODE = 256
"""Characters of a file with an enrolment code."""

ENROLL, RENEW = "/v1/devices/enroll", "/v1/devices/renew"


class Proof(Protocol):
    """How a device proves itself when it has no certificate: a code, or its manufacturer's."""

    @property
    def method(self) -> str:
        """What the server calls it."""
        ...

    def make(self, csr: bytes, roots: bytes) -> str:
        """The evidence for a request (DER); `roots` are those of the server (PEM)."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the server is and how it is known; "" and None mean "not given"."""

    server: str = ""
    mtls_url: str = ""
    ca_file: Path | None = None
    ca_sha256: str = ""
    keep_key: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """Enrols and renews in one folder. `tell` gets a sentence about each thing done."""

    folder: Folder
    settings: Settings
    proof: Proof | None
    clock: Clock
    tell: Callable[[str], None] = field(default=lambda _: None)

    def enroll(self) -> Enrolment:
        """Get the first certificate, or another first one; the proof decides who we are."""
        if self.proof is None:
            raise Refused(
                "There is nothing to enrol with: get a code by `troth device invite NAME` and give "
                "it with --code-file, or the manufacturer's certificate with --x509pop."
            )
        known = self.folder.load()
        server = self.settings.server or (known.server if known else "")
        if not server:
            raise Invalid("Where is the server? Give its URL with --server.")
        roots = self._find_roots(server, known)
        key = self.folder.prepare_key()
        csr, public_key = make_csr(key)
        body = {
            "method": self.proof.method,
            "evidence": self.proof.make(csr, roots),
            "csr": b64encode(csr).decode(),
        }
        credential = call_operation(server, make_context(roots), ENROLL, body, public_key)
        mutual = self.settings.mtls_url
        if not mutual and known is not None and known.server == server:
            mutual = known.mtls_url
        made = self._store(credential, key, server, mutual or derive_mutual_url(server))
        self.tell(f"enrolled as {made.spiffe_id} until {made.not_after}")
        return made

    def renew(self) -> Enrolment:
        """Get the next certificate with the present one; `Refused` if that has ended."""
        present = self.require_enrolment()
        if self.clock.now() >= present.end:
            raise Refused(
                f"The certificate ended at {present.not_after}, so it proves nothing any more: "
                "enrol anew with a new code, or with --x509pop."
            )
        key = self.folder.prepare_key(reuse=self.settings.keep_key)
        csr, public_key = make_csr(key)
        pair = (self.folder.current / SVID, self.folder.current / KEY)
        context = make_context(self._known_roots(), pair)
        mutual = self.settings.mtls_url or present.mtls_url
        body = {"csr": b64encode(csr).decode()}
        credential = call_operation(mutual, context, RENEW, body, public_key)
        if credential.spiffe_id != present.spiffe_id:
            raise Denied(f"The server answered with the certificate of {credential.spiffe_id}.")
        made = self._store(credential, key, self.settings.server or present.server, mutual)
        self.tell(f"renewed {made.spiffe_id} until {made.not_after}")
        return made

    def refresh(self) -> bool:
        """Take in the roots that the server publishes now; whether they were others before."""
        present = self.require_enrolment()
        server = self.settings.server or present.server
        roots = render_pem(fetch_roots(server, make_context(self._known_roots())))
        if roots == self.folder.read(BUNDLE):
            return False
        files = {name: self.folder.read(name) for name in (SVID, KEY)}
        self.folder.save({**files, BUNDLE: roots}, present)
        self.tell("the roots of the trust domain have changed")
        return True

    def require_enrolment(self) -> Enrolment:
        """What is in the folder; `Refused` if there is nothing yet."""
        found = self.folder.load()
        if found is None:
            raise Refused(f"Nothing is enrolled in {self.folder.path}; enrol first.")
        return found

    def _find_roots(self, server: str, known: Enrolment | None) -> bytes:
        """PEM of the roots that the server must lead to; a named file or fingerprint comes first.

        The file may be old: what the same server told since, over connections that it proved
        itself on, counts beside it.
        """
        if self.settings.ca_file is not None:
            told = known is not None and known.server == server
            return read_roots(self.settings.ca_file) + (self.folder.read(BUNDLE) if told else b"")
        if self.settings.ca_sha256:
            return render_pem([fetch_pinned_root(server, self.settings.ca_sha256)])
        try:
            return self.folder.read(BUNDLE)
        except FileNotFoundError:
            raise Invalid(
                "Which server is the right one? Bring its ca.pem here and give it with --ca, or "
                "its fingerprint with --ca-sha256."
            ) from None

    def _known_roots(self) -> bytes:
        """The roots that came with the certificate, and those of a file that is given."""
        roots = self.folder.read(BUNDLE)
        if self.settings.ca_file is not None:
            roots += read_roots(self.settings.ca_file)
        return roots

    def _store(
        self, credential: Credential, key: ec.EllipticCurvePrivateKey, server: str, mutual: str
    ) -> Enrolment:
        made = Enrolment(
            server=server,
            mtls_url=mutual,
            identity=credential.identity,
            instance_id=credential.instance_id,
            spiffe_id=credential.spiffe_id,
            not_before=credential.not_before.isoformat(),
            not_after=credential.not_after.isoformat(),
            renew_after=credential.renew_after.isoformat(),
        )
        files = {
            SVID: render_pem(credential.chain),
            KEY: render_key(key),
            BUNDLE: render_pem(credential.roots),
        }
        self.folder.save(files, made)
        self.folder.drop_next_key()
        return made


def read_roots(path: Path) -> bytes:
    """The PEM file with the server's roots; `Invalid` if it holds none."""
    pem = path.read_bytes()
    try:
        x509.load_pem_x509_certificates(pem)
    except UNREADABLE as error:
        raise Invalid(
            f"{path} holds no PEM certificates that can be read; bring the server's ca.pem anew."
        ) from error
    return pem if pem.endswith(b"\n") else pem + b"\n"


def make_csr(key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    """A request without names (DER), and the public key in it (DER): the server sets the names."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    return csr, key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class CodeFile:
    """An enrolment code in a file, or on standard input where it was read already.

    The file is read at each use, so a new code in it counts.
    """

    path: Path | None = None
    code: str = ""
    method: str = "code"

    def make(self, csr: bytes, roots: bytes) -> str:
        """The code."""
        text = self.code
        if self.path is not None:
            with self.path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(MAX_CODE + 1)
        if not text.strip() or len(text) > MAX_CODE:
            raise Invalid("There is no enrolment code in it: `troth device invite NAME` makes one.")
        return text.strip()


@dataclass(frozen=True, slots=True)
class Manufactured:
    """The manufacturer's certificate (PEM, leaf first) and its key, which stay where they are."""

    certificate: Path
    key: Path
    clock: Clock
    method: str = "x509pop"

    def make(self, csr: bytes, roots: bytes) -> str:
        """A proof for this request, this server and this moment."""
        try:
            known = x509.load_pem_x509_certificates(roots)
        except UNREADABLE as error:
            raise Invalid("The server's roots can't be read; bring its ca.pem anew.") from error
        domain = find_trust_domain([root.public_bytes(Encoding.DER) for root in known])
        try:
            chain = x509.load_pem_x509_certificates(self.certificate.read_bytes())
            certified = chain[0].public_key()
            key = load_pem_private_key(self.key.read_bytes(), None)
        except UNREADABLE as error:
            raise Invalid(
                f"{self.certificate} or {self.key} can't be read; both must be PEM, the key "
                "without a password."
            ) from error
        if not isinstance(
            key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
        ):
            raise Invalid(
                f"{self.key} is of a kind that proves nothing; use ECDSA, RSA or Ed25519."
            )
        if certified != key.public_key():
            raise Invalid(
                f"{self.key} is not the key of the first certificate in {self.certificate}; the "
                "device's own comes first, its authorities after it."
            )
        at = self.clock.now()
        signature = sign_possession(key, DEVICE, domain, csr, at)
        return render_evidence([one.public_bytes(Encoding.DER) for one in chain], at, signature)
