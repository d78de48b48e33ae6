"""The OpenAPI document and what a real server does, compared by Schemathesis."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Server, make_environ
from tests.fakes.authzen import submit_examples

pytestmark = [pytest.mark.e2e, pytest.mark.interop]

SECONDS = 30
SCHEMATHESIS = Path(sys.prefix) / "bin" / "schemathesis"
RULES = "positive_data_acceptance"
"""The one check that is left out: it wants all accepted that a schema permits, and what a CSR, a
manifest or a request with two fields of which it needs one must be is more than a schema says."""
STREAMS = r"\.(sync|tail|follow|watch)$"
FINAL = r"^authority\."
"""What takes the server's own keys away ends more than the test."""


def forward(listener: socket.socket, path: str) -> None:
    """Pass connections on to the admin socket, where the caller is an administrator whatever
    happens to identities."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=pass_on, args=(client, path), daemon=True).start()


def pass_on(client: socket.socket, path: str) -> None:
    with client, socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        back = threading.Thread(target=pump, args=(server, client), daemon=True)
        back.start()
        pump(client, server)
        back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def address(troth: Server) -> Iterator[str]:
    """The admin socket's address as a URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        path = str(troth.data / "admin.sock")
        thread = threading.Thread(target=forward, args=(listener, path), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="schemathesis isn't installed")
def test_the_document_says_what_the_server_does(troth: Server, address: str, folder: Path) -> None:
    troth.call("manifest.apply", submit_examples("authzen-certification"))
    done = subprocess.run(
        [
            str(SCHEMATHESIS),
            "run",
            f"{address}/v1/openapi.json",
            *("--exclude-operation-id-regex", f"{STREAMS}|{FINAL}"),
            *("--exclude-checks", RULES),
            *("--phases", "examples,coverage,fuzzing"),
            *("--max-examples", "10"),
            *("--max-time", str(SECONDS)),
            *("--request-timeout", "10"),
            *("--generation-database", "none"),
            *("--seed", "1", "--no-color", "--continue-on-failure"),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS * 3,
        cwd=folder,
        env=make_environ(),
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
