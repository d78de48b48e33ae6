"""curl and openssl, unmodified, against our listeners."""

from __future__ import annotations

import asyncio
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.server.http.stage import AGENT, Authority, Stage, in_loop, open_stage

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed"),
    pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed"),
]

REPORT = "/v1/nodes/report"
# curl's codes for a connection that ends: in TLS 1.3 a client learns of a refusal when it reads.
REFUSED = (35, 52, 55, 56)


async def run(*command: str, send: bytes = b"") -> tuple[int, str]:
    """Exit code and everything that was written."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate(send)
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace")


async def curl(stage: Stage, folder: Path, *arguments: str) -> tuple[int, str]:
    (folder / "ca.pem").write_bytes(stage.authority.pem)
    return await run(
        "curl", "-sS", "-q", "--noproxy", "*", "--cacert", str(folder / "ca.pem"), *arguments
    )


def with_certificate(credential, folder: Path) -> tuple[str, ...]:
    chain, key = credential.write(folder, "client")
    return ("--cert", chain, "--key", key)


@in_loop
async def test_curl_calls_with_a_certificate(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        code, out = await curl(
            stage,
            tmp_path,
            *with_certificate(stage.authority.issue(AGENT), tmp_path),
            "--json",
            '{"seen": [{"instance_id": "ins_1"}]}',
            f"https://localhost:{stage.mutual.port}{REPORT}",
        )
        assert (code, out) == (0, '{"seen":[{"instance_id":"ins_1"}],"refused":[]}')
        assert stage.operations.calls[-1].caller.principal == AGENT


@in_loop
async def test_curl_does_not_get_in_without_a_good_certificate(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        past, hour = timedelta(seconds=-5), timedelta(hours=1)
        for arguments in (
            (),
            with_certificate(Authority().issue(AGENT), tmp_path),
            with_certificate(stage.authority.issue(AGENT, life=past, age=hour), tmp_path),
        ):
            url = f"https://localhost:{stage.mutual.port}{REPORT}"
            code, _ = await curl(stage, tmp_path, *arguments, "--json", "{}", url)
            assert code in REFUSED
        assert not stage.operations.calls


@in_loop
async def test_curl_on_the_public_listener_and_on_the_socket(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        url = f"https://127.0.0.1:{stage.public.port}"
        assert await curl(stage, tmp_path, f"{url}/healthz") == (0, '{"alive":true}')
        code, out = await curl(
            stage, tmp_path, "-o", "/dev/null", "-w", "%{http_code}", f"{url}/v1/status"
        )
        assert (code, out) == (0, "401")
        code, out = await curl(
            stage, tmp_path, "--unix-socket", str(stage.socket), "http://x/v1/identities/pay"
        )
        assert (code, out) == (0, '{"name":"pay"}')


@in_loop
async def test_curl_reads_a_problem_while_it_still_sends(tmp_path: Path):
    (tmp_path / "large").write_bytes(b"x" * 5_000_000)
    async with open_stage(tmp_path) as stage:
        for extra in ((), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect:")):
            code, out = await curl(
                stage,
                tmp_path,
                *extra,
                "--unix-socket",
                str(stage.socket),
                "--data-binary",
                f"@{tmp_path / 'large'}",
                "-H",
                "content-type: application/json",
                "http://x/v1/join-tokens",
            )
            assert code == 0, out
            assert '"status":413' in out


@in_loop
async def test_curl_can_not_speak_older_tls(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        for port in (stage.public.port, stage.mutual.port):
            url = f"https://localhost:{port}/healthz"
            code, _ = await curl(stage, tmp_path, "--tls-max", "1.2", url)
            assert code == 35


@in_loop
async def test_openssl_sees_tls_1_3_and_no_session_ticket(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        chain, key = stage.authority.issue(AGENT).write(tmp_path, "client")
        (tmp_path / "ca.pem").write_bytes(stage.authority.pem)
        for port in (stage.public.port, stage.mutual.port):
            _, out = await run(
                *("openssl", "s_client", "-connect", f"localhost:{port}", "-ign_eof", "-msg"),
                *("-CAfile", str(tmp_path / "ca.pem"), "-cert", chain, "-key", key),
                *("-verify_return_error", "-alpn", "h2,http/1.1"),
                send=b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            )
            assert '{"alive":true}' in out
            assert "TLSv1.3" in out
            assert "Verify return code: 0 (ok)" in out
            assert "ALPN protocol: http/1.1" in out
            assert "NewSessionTicket" not in out
            assert "Resumption PSK" not in out
            code, out = await run("openssl", "s_client", "-connect", f"localhost:{port}", "-tls1_2")
            assert code != 0
            assert "no peer certificate available" in out


@in_loop
async def test_openssl_sees_the_new_certificate_after_a_rotation(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        shown = []
        for use_rsa in (False, True):
            new = stage.authority.issue(use_rsa=use_rsa)
            stage.tls.install(new.chain, new.key, [stage.authority.der])
            _, out = await run("openssl", "s_client", "-connect", f"localhost:{stage.public.port}")
            shown.append(new.chain.decode().strip() in out)
        assert shown == [True, True]
