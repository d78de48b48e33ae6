"""The server as a device sees it: a few calls over TLS 1.3, with the standard library alone."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import re
import socket
import ssl
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from troth.core.errors import Denied, Internal, Invalid, TrothError, Unavailable, error_of
from troth.core.x509 import UNREADABLE

MAX_ANSWER = 1 << 20
MAX_FRAMING = 1 << 20
"""Bytes of headers, and of what stands between the parts of an answer."""

SECONDS = 30.0
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}", re.ASCII)
_SERVER_ID = re.compile(r"spiffe://[a-z0-9._-]+/troth/server", re.ASCII)


class Unreachable(Unavailable):
    """Nobody answered: the connection failed, or who answered isn't the server."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What the server answered, checked: for our key, for one SPIFFE ID, by one of the roots.

    `chain` and `roots` are DER, the leaf first.
    """

    identity: str
    instance_id: str
    spiffe_id: str
    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime
    renew_after: datetime


def check_url(url: str) -> tuple[str, int]:
    """Host and port of ``https://host[:port]``; `Invalid` says what is wrong."""
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        raise Invalid(f"{url[:200]!r} is no URL.") from None
    plain = not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme != "https" or not plain or not _HOST.fullmatch(parts.hostname or ""):
        raise Invalid(f"{url[:200]!r} must be https://host or https://host:port, nothing after.")
    return str(parts.hostname), port


def derive_mutual_url(url: str) -> str:
    """The mutual-TLS listener: one port above the public one, unless somebody says otherwise."""
    host, port = check_url(url)
    return f"https://[{host}]:{port + 1}" if ":" in host else f"https://{host}:{port + 1}"


def make_context(roots_pem: bytes, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """TLS 1.3 to a server of these roots alone, with our certificate and key if `pair` is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=roots_pem.decode("ascii"))
        if pair is not None:
            # Nobody sits at a device to be asked for a password.
            context.load_cert_chain(*pair, password=lambda: b"")
    except (OSError, UnicodeDecodeError) as error:  # an SSLError is an OSError, as are others
        raise Invalid("The CA file or our own certificate can't be used; is it PEM?") from error
    return context


def call_server(
    url: str, context: ssl.SSLContext, method: str, path: str, body: Any = None
) -> tuple[int, bytes]:
    """One request; status and body. `Unreachable` if there is no answer."""
    host, port = check_url(url)
    connection = HTTPSConnection(host, port, timeout=SECONDS, context=context)
    connection.response_class = _Response
    content = None if body is None else json.dumps(body).encode()
    headers = {"Connection": "close", "Accept-Encoding": "identity"}
    if content is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.connect()
        if context.verify_mode is ssl.CERT_REQUIRED:
            _check_server(url, connection.sock.getpeercert(binary_form=True))
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        answer = response.read(MAX_ANSWER + 1)
    except Unreachable:
        raise
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(
            f"{url} is not the server that we trust: {error.verify_message}. If its roots have "
            "changed, bring its new ca.pem here."
        ) from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreachable(f"{url} doesn't answer: {reason}.") from error
    finally:
        connection.close()
    if len(answer) > MAX_ANSWER:
        raise Internal(f"{url} answered with more than {MAX_ANSWER >> 20} MiB.")
    if response.length:  # a read of so many bytes at most doesn't complain of fewer
        raise Unreachable(f"{url} broke off in the middle of its answer.")
    return response.status, answer


class _Response(HTTPResponse):
    """Gives up on an answer without end, which `read` would take in: a chunk of a negative length,
    or one interim response after the other (RFC 9110, section 15.2)."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Bounded(self.fp))


class _Bounded(io.RawIOBase):
    def __init__(self, inner: io.BufferedReader) -> None:
        self._inner = inner
        self._left = MAX_ANSWER + MAX_FRAMING

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._inner.readinto1(buffer)
        self._left -= size
        if self._left < 0:
            raise HTTPException("it doesn't end")
        return size

    def close(self) -> None:
        self._inner.close()
        super().close()


def _check_server(url: str, certificate: bytes | None) -> None:
    """`Unreachable` unless the certificate, which TLS verified, is the server's own.

    The roots also vouch for workloads, and one of them may have the right host name.
    """
    try:
        leaf = x509.load_der_x509_certificate(certificate or b"")
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (*UNREADABLE, x509.ExtensionNotFound):
        uris = []
    if len(uris) != 1 or not _SERVER_ID.fullmatch(uris[0]):
        raise Unreachable(f"{url} is not a troth server: its certificate names {uris or 'nobody'}.")


def call_operation(
    url: str, context: ssl.SSLContext, path: str, body: Any, public_key: bytes
) -> Credential:
    """Ask for a certificate for `public_key` (DER); raises the refusal in the answer."""
    status, answer = call_server(url, context, "POST", path, body)
    if status != 200:
        raise read_problem(url, status, answer)
    return read_credential(answer, public_key)


def read_problem(url: str, status: int, answer: bytes) -> TrothError:
    """The error that a refusing answer carries (RFC 9457)."""
    try:
        problem = json.loads(answer)
        code, detail = str(problem["code"]), str(problem["detail"]).strip()
        if not detail:
            raise ValueError("nothing said")
    except (ValueError, TypeError, KeyError, RecursionError):
        return Unavailable(f"{url} answered {status} without saying why; is it a troth server?")
    return error_of(code, detail[:2000])


def read_credential(answer: bytes, public_key: bytes) -> Credential:
    """The credential in an answer; `Internal` unless it is what we asked for."""
    problem = "The server's answer isn't the certificate that was asked for"
    try:
        value = json.loads(answer)
        chain = tuple(b64decode(der, validate=True) for der in value["chain"])
        roots = tuple(b64decode(der, validate=True) for der in value["x509_authorities"])
        leaf = x509.load_der_x509_certificate(chain[0])
        known = [x509.load_der_x509_certificate(der) for der in roots]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (spiffe_id,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        credential = Credential(
            identity=str(value["identity"]),
            instance_id=str(value["instance_id"]),
            spiffe_id=str(value["spiffe_id"]),
            chain=chain,
            roots=roots,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            renew_after=datetime.fromisoformat(value["renew_after"]),
        )
        certified = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        sound = certified == public_key and spiffe_id == credential.spiffe_id
        late = credential.renew_after > credential.not_after
    except (*UNREADABLE, KeyError, IndexError, RecursionError, x509.ExtensionNotFound) as error:
        raise Internal(f"{problem}: it can't be read.") from error
    if not sound or late:
        raise Internal(f"{problem}: it is for another key or name.")
    if not any(_is_issued_by(leaf, root) for root in known):
        raise Internal(f"{problem}: none of the roots with it signed it.")
    return credential


def _is_issued_by(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(root)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def render_pem(certificates: Sequence[bytes]) -> bytes:
    """DER certificates as PEM, in their order (RFC 7468)."""
    lines = []
    for der in certificates:
        text = b64encode(der).decode()
        body = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
        lines.append(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    return "".join(lines).encode()


def fetch_roots(url: str, context: ssl.SSLContext) -> tuple[bytes, ...]:
    """The X.509 authorities (DER) in the SPIFFE bundle that the server publishes."""
    status, answer = call_server(url, context, "GET", "/bundle")
    if status != 200:
        raise Unreachable(f"{url}/bundle answered {status}; is it a troth server?")
    return read_bundle(url, answer)


def read_bundle(url: str, answer: bytes) -> tuple[bytes, ...]:
    """The X.509 authorities (DER) in a bundle document; `Internal` if there is none."""
    try:
        keys = json.loads(answer)["keys"]
        roots = tuple(
            b64decode(key["x5c"][0], validate=True) for key in keys if key["use"] == "x509-svid"
        )
        for der in roots:
            x509.load_der_x509_certificate(der)
    except (*UNREADABLE, BadBase64, KeyError, IndexError, RecursionError) as error:
        raise Internal(f"{url}/bundle can't be read.") from error
    if not roots:
        raise Internal(f"{url}/bundle has no X.509 authority.")
    return roots


def fetch_pinned_root(url: str, fingerprint: str) -> bytes:
    """The server's root (DER) with this SHA-256 fingerprint (hex, colons allowed).

    The connection that brings it proves nothing and carries nothing secret: the fingerprint proves
    the root, and everything after that is asked over a connection that the root vouches for.
    """
    wanted = fingerprint.replace(":", "").strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", wanted, re.ASCII):
        raise Invalid("A SHA-256 fingerprint has 64 hexadecimal digits.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for der in fetch_roots(url, context):
        if hmac.compare_digest(hashlib.sha256(der).hexdigest(), wanted):
            return der
    raise Denied(
        f"{url} has no root with that fingerprint: compare it with `openssl x509 -in ca.pem "
        "-fingerprint -sha256 -noout` on the server's machine."
    )
