"""An OpenID issuer's web server with real TLS, which can misbehave."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DISCOVERY = "/.well-known/openid-configuration"
KEYS = "/keys"


def make_certificate(folder: Path, name: str = "localhost") -> tuple[ssl.SSLContext, str]:
    """A server's TLS with a self-signed certificate for `name`, and that certificate in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / f"{name}.pem"
    path.write_bytes(private + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, pem.decode()


@dataclass
class JwksServer:
    """Answers each path with what stands in `answers`: status, headers, body. None says nothing."""

    url: str
    ca: str
    answers: dict[str, tuple[int, dict[str, str], bytes] | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)

    def publish(self, *jwks: dict[str, Any], **headers: str) -> None:
        """Discovery and a key set as they should be."""
        document = {"issuer": self.url, "jwks_uri": self.url + KEYS}
        self.answers[DISCOVERY] = (200, {}, json.dumps(document).encode())
        self.answers[KEYS] = (200, headers, json.dumps({"keys": jwks}).encode())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            path = head[0].split(" ")[1]
            self.asked.append(path)
            self.hosts += [line[6:] for line in head if line.lower().startswith("host: ")]
            answer = self.answers.get(path, (404, {}, b"nothing here"))
            if answer is None:
                await reader.read()  # until the client has had enough
                return
            status, headers, body = answer
            lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join((*lines, "Connection: close", "", "")).encode() + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went
        finally:
            writer.close()


@asynccontextmanager
async def serve_keys(folder: Path, name: str = "localhost") -> AsyncIterator[JwksServer]:
    """A server on a free port of this machine whose certificate is for `name`."""
    context, ca = make_certificate(folder, name)
    found = JwksServer("", ca)
    server = await asyncio.start_server(found.serve, "localhost", 0, ssl=context)
    found.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()
