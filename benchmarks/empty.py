"""The server's own listener with nothing behind it: a process that reads each request's body and
answers a small JSON document. What is measured beside it differs in what it does alone."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.installation import SERVER_CORES, pick_port, wait_for
from troth.core.clock import SystemClock
from troth.server.http.listeners import Listener, TcpBinding
from troth.server.settings import Limits
from troth.server.tls import ServerTls

BODY = b'{"decision":true}'
_HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(BODY)).encode()),
        (b"cache-control", b"no-store"),
    ],
}
_TAIL = {"type": "http.response.body", "body": BODY, "more_body": False}


@dataclass(frozen=True, slots=True)
class EmptyServer:
    """A running one: its process, URL, and a context of a client that it lets in."""

    process: subprocess.Popen[bytes]
    url: str
    context: ssl.SSLContext

    def measure_cpu(self) -> float:
        """Processor seconds that it has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def run_empty() -> Iterator[EmptyServer]:
    """An empty server on the server's core, with mutual TLS; stopped at the end."""
    port = pick_port()
    with tempfile.TemporaryDirectory(prefix="troth-bench-empty-") as name:
        folder = Path(name)
        _write_pair(folder)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmarks.empty", name, str(port)],
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            preexec_fn=lambda: os.sched_setaffinity(0, SERVER_CORES),
        )
        try:
            wait_for((folder / "ready").exists, "the empty server")
            context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
            yield EmptyServer(process, f"https://localhost:{port}", context)
        finally:
            process.terminate()
            process.wait(30)


def _write_pair(folder: Path) -> None:
    """A certificate that signs itself, for both sides."""
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    built = (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(named)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(built.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """The empty handler."""
    while (await receive()).get("more_body", False):
        pass
    await send(_HEAD)
    await send(_TAIL)


async def _serve(folder: Path, port: int) -> None:
    chain, key = (folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes()
    root = x509.load_pem_x509_certificate(chain).public_bytes(Encoding.DER)
    binding = TcpBinding("localhost", port, ServerTls(chain, key, [root]).mutual)
    listener = Listener(answer, name="empty", binding=binding, clock=SystemClock(), limits=Limits())
    await listener.start()
    (folder / "ready").touch()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
