from __future__ import annotations

import asyncio
import ssl
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tests.unit.server.http.stage import AGENT, Authority, Stage, in_loop, open_stage
from troth.core.errors import Limited, TrothError, Unavailable

REPORT = "/v1/nodes/report"


@in_loop
async def test_a_certificate_tells_who_calls(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.node_client(stage.authority.issue(AGENT), tmp_path)
        answer = await client.post(REPORT, json={})
        assert answer.status_code == 200, answer.text
        [call] = stage.operations.calls
        assert call.caller.principal == AGENT
        assert call.caller.source.rpartition(":")[0] in ("127.0.0.1", "[::1]")
        assert (await client.get("/bundle")).status_code == 200


@in_loop
async def test_the_public_listener_asks_for_no_certificate_and_knows_nobody(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        pair = stage.authority.issue(AGENT).write(tmp_path, "client")
        client = await stage._tls_client(stage.public.port, pair)
        answer = await client.post(REPORT, json={})
        assert answer.status_code == 401
        assert answer.json()["code"] == "unauthenticated"
        answer = await client.post(
            "/v1/nodes/attest", json={"method": "join_token", "evidence": "x", "csr": ""}
        )
        assert answer.status_code == 200
        assert stage.operations.calls[-1].caller.principal == "anonymous"
        assert stage.operations.calls[-1].caller.source


@in_loop
async def test_wrong_expired_and_missing_certificates_do_not_get_in(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        strangers = {
            "self-made root": Authority("test root").issue(AGENT),
            "expired": stage.authority.issue(
                AGENT, life=timedelta(seconds=-5), age=timedelta(hours=1)
            ),
            "not yet valid": stage.authority.issue(AGENT, age=-timedelta(minutes=5)),
            "a server's": stage.authority.issue(),
            "hides who signed it": stage.authority.issue(AGENT, signer=False),
        }
        for reason, credential in strangers.items():
            client = await stage.node_client(credential, tmp_path)
            with pytest.raises(httpx.TransportError):
                await client.post(REPORT, json={})
            assert not stage.operations.calls, reason
        client = await stage._tls_client(stage.mutual.port, None)
        with pytest.raises(httpx.TransportError):
            await client.post(REPORT, json={})
        client = await stage.node_client(stage.authority.issue("spiffe://other/x"), tmp_path)
        answer = await client.post(REPORT, json={})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("ClientCertificate ")
        assert not stage.operations.calls


@in_loop
async def test_a_certificate_that_expires_on_a_kept_alive_connection_is_refused(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.node_client(stage.authority.issue(AGENT), tmp_path)
        assert (await client.post(REPORT, json={})).status_code == 200
        [first] = stage.operations.calls
        stage.clock.advance(timedelta(minutes=59))
        assert (await client.post(REPORT, json={})).status_code == 200
        assert stage.operations.calls[-1].caller.source == first.caller.source  # same connection
        # It was made some real time after the clock was set.
        stage.clock.advance(timedelta(minutes=2))
        answer = await client.post(REPORT, json={})
        assert answer.status_code == 401
        assert "expired" in answer.json()["detail"]
        assert answer.headers["connection"] == "close"
        assert answer.headers["www-authenticate"].startswith("ClientCertificate ")
        assert len(stage.operations.calls) == 2


@in_loop
async def test_only_tls_1_3_is_spoken(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        context = stage.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        for port in (stage.public.port, stage.mutual.port):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("localhost", port, ssl=context)
        context = stage.context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("localhost", stage.public.port, ssl=context)
        tls = writer.get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.3"
        assert tls.selected_alpn_protocol() == "http/1.1"
        writer.close()


@in_loop
async def test_no_session_can_be_resumed(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        context = stage.context(stage.authority.issue(AGENT).write(tmp_path, "client"))
        reader, writer = await asyncio.open_connection("localhost", stage.mutual.port, ssl=context)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        session = writer.get_extra_info("ssl_object").session
        assert session is None or not session.has_ticket
        writer.close()


@in_loop
async def test_certificates_rotate_under_load_without_a_failed_request(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        pair = stage.authority.issue(AGENT).write(tmp_path, "client")
        done = asyncio.Event()
        served: set[bytes] = set()
        statuses: list[int] = []
        answered = asyncio.Semaphore(0)

        async def load(fresh: bool) -> None:
            context = stage.context(pair)
            while not done.is_set():
                reader, writer = await asyncio.open_connection(
                    "localhost", stage.mutual.port, ssl=context
                )
                served.add(writer.get_extra_info("ssl_object").getpeercert(True))
                for _ in range(1 if fresh else 20):
                    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(len(b'{"alive":true}'))
                    statuses.append(int(head.split(b" ", 2)[1]))
                    answered.release()
                writer.close()

        loads = [asyncio.create_task(load(fresh)) for fresh in (True, True, False)]
        for turn in range(8):
            for _ in range(10):
                await answered.acquire()
            new = stage.authority.issue(use_rsa=turn % 2 == 1)  # another type of key each time
            stage.tls.install(new.chain, new.key, [stage.authority.der])
        for _ in range(100):
            await answered.acquire()
        done.set()
        await asyncio.gather(*loads)
        assert set(statuses) == {200}
        assert len(served) >= 8


@in_loop
async def test_new_roots_let_others_in_and_keep_the_old_out(tmp_path: Path):
    other = Authority("other root")
    async with open_stage(tmp_path) as stage:
        mine, theirs = stage.authority.issue(AGENT), other.issue(AGENT)
        assert [await get_in(stage, who, tmp_path) for who in (mine, theirs)] == [True, False]
        own = stage.authority.issue()
        stage.tls.install(own.chain, own.key, [stage.authority.der, other.der])
        assert [await get_in(stage, who, tmp_path) for who in (mine, theirs)] == [True, True]
        stage.tls.install(own.chain, own.key, [other.der])
        assert [await get_in(stage, who, tmp_path) for who in (mine, theirs)] == [False, True]


async def get_in(stage: Stage, credential, folder: Path) -> bool:
    client = await stage.node_client(credential, folder)
    try:
        return (await client.post(REPORT, json={})).status_code == 200
    except httpx.TransportError:
        return False


@in_loop
async def test_who_is_sent_away_is_told_for_how_long(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.node_client(stage.authority.issue(AGENT), tmp_path)
        for error, status, seconds in (
            (Unavailable("Many ask at once.", 7.2), 503, "8"),
            (Limited("Too much.", 0.1), 429, "1"),
            (Unavailable("Away."), 503, "1"),
        ):

            async def refuse(call: object, error: TrothError = error) -> None:
                raise error

            stage.operations.answer = refuse
            answer = await client.post(REPORT, json={})
            assert (answer.status_code, answer.headers["retry-after"]) == (status, seconds)
