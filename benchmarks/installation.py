"""A troth server as the benchmarks start it: a real process with its own directory and doors.

The server gets core 0 for itself and whoever asks it works on the others, as far as there are any.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)

from troth.wire.api.client import ApiClient
from troth.wire.api.identities import IdentityView, RegisterIdentity
from troth.wire.api.nodes import AttestNode, CreateJoinToken

PATIENCE = 60.0
SELECTOR = "unix:uid:1001"
SERVER_CORES = {0}


@dataclass(slots=True)
class Installation:
    """A running server: its process, directory, ports, and how it was started."""

    process: subprocess.Popen[bytes]
    folder: Path
    ports: tuple[int, int]
    command: Sequence[str]
    cores: set[int]

    @property
    def mutual(self) -> str:
        """The address that wants a client's certificate."""
        return f"https://localhost:{self.ports[1]}"

    @property
    def public(self) -> str:
        """The address for anybody."""
        return f"https://localhost:{self.ports[0]}"

    def restart(self, meanwhile: Callable[[Path], object] | None = None) -> float:
        """Stop the server and start it on what it left, and on what `meanwhile` made of its
        directory; seconds until it is ready again."""
        self.stop()
        if meanwhile is not None:
            meanwhile(self.folder)
        for name in ("ca.pem", "admin.sock"):
            (self.folder / name).unlink(missing_ok=True)
        began = time.perf_counter()
        self.process = _start(self.command, self.folder, self.cores)
        _wait_ready(self.process, f"https://localhost:{self.ports[0]}", self.folder, agent=False)
        return time.perf_counter() - began

    def stop(self) -> None:
        """End the server, in order."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)

    def open_admin(self) -> ApiClient:
        """The API over the admin socket; close it."""
        return ApiClient.over_socket(str(self.folder / "admin.sock"))

    def register(self, name: str, **fields: Any) -> IdentityView:
        """An active service for uid 1001 on the node `bench`."""
        values: dict[str, Any] = {"selectors": [SELECTOR], "nodes": ["bench"]} | fields
        with self.open_admin() as admin:
            view: IdentityView = admin.call(
                "identity.register",
                RegisterIdentity(
                    name=name,
                    kind="service",
                    owner="bench@example.org",
                    purpose="Measures",
                    activate=True,
                    **values,
                ),
            )
        return view

    def join(self, node: str = "bench") -> httpx.Client:
        """Attest a node by a join token; a client that shows its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        with self.open_admin() as admin:
            token = admin.call("token.join", CreateJoinToken(node=node)).token
            credential = admin.call(
                "node.attest", AttestNode(method="join_token", evidence=token, csr=make_csr(key))
            )
        pem = self.folder / f"{node}.pem"
        chain = b"".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
            for der in credential.chain
        )
        pem.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + chain
        )
        pem.chmod(0o600)
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        context.load_cert_chain(pem)
        return httpx.Client(
            base_url=self.mutual,
            verify=context,
            trust_env=False,
            timeout=PATIENCE,
            headers={"content-type": "application/json", "accept-encoding": "identity"},
        )

    def measure_cpu(self) -> float:
        """Processor seconds that the server has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def run_server(
    *, agent: bool = False, pinned: bool = True, database: str = "", keys: Path | None = None
) -> Iterator[Installation]:
    """A server, ready; stopped at the end. It is on a fresh SQLite database, or on `database` with
    a copy of the directory `keys` of another server there."""
    with tempfile.TemporaryDirectory(prefix="troth-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        public, mutual = pick_port(), pick_port()
        settings = folder / "troth.toml"
        settings.write_text(
            f'[listen]\nmutual = "localhost:{mutual}"\n'
            "[limits]\nnode_credentials_per_second = 1000000\n"  # one node stands for many
        )
        settings.chmod(0o600)
        if keys is not None:
            shutil.copytree(keys, folder / "keys")
        command = [
            *(sys.executable, "-P", "-m", "troth", "--json", "up", "--data", name),
            *("--listen", f"localhost:{public}", "--agent" if agent else "--no-agent"),
            *(("--database", database) if database else ()),
        ]
        cores = SERVER_CORES if pinned else os.sched_getaffinity(0)
        process = _start(command, folder, cores)
        server = Installation(process, folder, (public, mutual), command, cores)
        try:
            _wait_ready(process, f"https://localhost:{public}", folder, agent)
            yield server
        finally:
            server.stop()


def weigh(pid: int) -> int:
    """Resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no resident memory")


def leave_server_cores() -> None:
    """Move this process off the server's core, if there is another."""
    others = os.sched_getaffinity(0) - SERVER_CORES
    if others:
        os.sched_setaffinity(0, others)


def make_csr(key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """A DER CSR without names for a fresh or given P-256 key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def run_together(count: int, work: Callable[[int], None]) -> float:
    """Run `work` in `count` threads; seconds until all are done. An error of one is raised."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised below, where it is seen
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - began


def wait_for(look: Callable[[], Any], what: str) -> Any:
    """The first true thing that `look` gives."""
    deadline = time.perf_counter() + PATIENCE
    while not (found := look()):
        if time.perf_counter() > deadline:
            raise RuntimeError(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.01)
    return found


def pick_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load_key(public_key: bytes) -> ec.EllipticCurvePublicKey:
    """The elliptic curve key of a DER SubjectPublicKeyInfo."""
    key = load_der_public_key(public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def _start(command: Sequence[str], folder: Path, cores: set[int]) -> subprocess.Popen[bytes]:
    environment = {key: text for key, text in os.environ.items() if "TROTH" not in key}
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )


def _wait_ready(process: subprocess.Popen[bytes], url: str, folder: Path, agent: bool) -> None:
    def is_up() -> bool:
        if process.poll() is not None:
            raise RuntimeError((folder / "server.log").read_text()[-2000:])
        return (folder / "ca.pem").exists() and (folder / "admin.sock").exists()

    wait_for(is_up, "the server's files")
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    with httpx.Client(verify=context, trust_env=False) as client:

        def is_ready() -> bool:
            try:
                return client.get(f"{url}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_for(is_ready, "the server's readiness")
    if agent:
        wait_for((folder / "agent.sock").exists, "the agent's socket")
