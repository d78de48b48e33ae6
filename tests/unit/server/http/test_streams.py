from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.unit.server.http.stage import AGENT, Registry, Stage, in_loop, open_stage
from troth.core.errors import Denied, Invalid, Unavailable
from troth.server.http import streams
from troth.server.settings import Limits
from troth.wire.api import nodes

TAIL = "/v1/journal/tail"


def end_of(text: str) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(text.splitlines()[-1])
    assert last["message"] == "end"
    return last


@in_loop
async def test_each_value_is_sent_when_it_comes_as_one_line(tmp_path: Path):
    go = asyncio.Event()

    async def follow(call):
        yield nodes.Heartbeat(epoch=1)
        await go.wait()
        yield nodes.Heartbeat(epoch=2)
        raise Unavailable("Come back.")

    async with open_stage(tmp_path) as stage:
        stage.operations.follow = follow
        client = await stage.admin_client()
        async with client.stream("GET", TAIL) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/jsonl"
            assert answer.headers["cache-control"] == "no-store"
            lines = answer.aiter_lines()
            assert json.loads(await anext(lines)) == {"message": "heartbeat", "epoch": 1}
            go.set()  # so the first line arrived while the stream was open
            assert json.loads(await anext(lines)) == {"message": "heartbeat", "epoch": 2}
            assert json.loads(await anext(lines)) == {
                "message": "end",
                "code": "unavailable",
                "detail": "Come back.",
                "retryable": True,
            }
            assert [line async for line in lines] == []


@in_loop
async def test_an_error_before_the_first_value_is_a_problem_document(tmp_path: Path):
    async def follow(call):
        if call.request_id:
            raise Invalid("There is no such position.")
        yield

    async with open_stage(tmp_path) as stage:
        stage.operations.follow = follow
        client = await stage.admin_client()
        answer = await client.get(TAIL)
        assert answer.status_code == 400
        assert answer.json()["detail"] == "There is no such position."
        assert stage.operations.closed.is_set()


@in_loop
async def test_what_a_stream_ends_with_is_its_last_line(tmp_path: Path, capsys):
    async def fail(error, call):
        yield nodes.Heartbeat(epoch=1)
        if error is not None:
            raise error

    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()
        for error, code, retryable in [
            (Denied("You were evicted."), "permission_denied", False),
            (None, "unavailable", True),
            (RuntimeError("the password is hunter2"), "internal", False),
            (TimeoutError("its own"), "internal", False),
        ]:
            stage.operations.follow = partial(fail, error)
            answer = await client.get(TAIL)
            end = end_of(answer.text)
            assert (end["code"], end["retryable"]) == (code, retryable)
            assert "hunter2" not in answer.text
        assert "hunter2" in capsys.readouterr().out


@in_loop
async def test_a_client_that_goes_ends_its_subscription_at_once(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()
        async with client.stream("GET", TAIL) as answer:
            await anext(answer.aiter_lines())
            assert not stage.operations.closed.is_set()
        await asyncio.wait_for(stage.operations.closed.wait(), 2)


@in_loop
async def test_a_client_that_goes_before_the_first_value_too(tmp_path: Path):
    opened = asyncio.Event()

    async def follow(call):
        opened.set()
        await asyncio.Event().wait()
        yield

    async with open_stage(tmp_path) as stage:
        stage.operations.follow = follow
        _, writer = await stage.raw()
        writer.write(f"GET {TAIL} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await opened.wait()
        writer.close()
        await asyncio.wait_for(stage.operations.closed.wait(), 2)


@in_loop
async def test_an_answer_begins_even_when_there_is_nothing_to_say_yet(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(streams, "START_SECONDS", 0.05)
    go = asyncio.Event()

    async def follow(call):
        await go.wait()
        yield nodes.Heartbeat(epoch=1)
        raise Denied("You were evicted.")

    async with open_stage(tmp_path) as stage:
        stage.operations.follow = follow
        client = await stage.admin_client()
        async with client.stream("GET", TAIL) as answer:
            assert answer.status_code == 200
            go.set()
            lines = [json.loads(line) async for line in answer.aiter_lines()]
            assert [line["message"] for line in lines] == ["heartbeat", "end"]


@in_loop
async def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path):
    async def follow(call):
        while True:
            yield nodes.Heartbeat(epoch=10**17)

    async with open_stage(tmp_path, limits=Limits(write_seconds=1, stop_seconds=1)) as stage:
        stage.operations.follow = follow
        _, writer = await stage.raw()
        writer.write(f"GET {TAIL} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await asyncio.wait_for(stage.operations.closed.wait(), 10)


@in_loop
async def test_a_stopping_listener_ends_its_streams_with_a_reason(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        client = await stage.admin_client()
        async with client.stream("GET", TAIL) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            stopping = asyncio.create_task(stage.admin.stop())
            end = end_of(await anext(lines))
            assert (end["code"], end["retryable"]) == ("unavailable", True)
            assert "stopping" in str(end["detail"])
            await stopping
        assert stage.operations.closed.is_set()


@in_loop
async def test_a_stream_ends_with_the_certificate_of_its_connection(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        credential = stage.authority.issue(AGENT)
        client = await stage.node_client(credential, tmp_path)
        # TLS takes the real time, the server this clock: half a second before the end.
        stage.clock.advance(timedelta(minutes=59, seconds=58.5))
        answer = await read_stream(client, stage)
        end = end_of(answer)
        assert (end["code"], end["retryable"]) == ("unavailable", True)
        assert "certificate" in str(end["detail"])


def revoke(registry: Registry) -> None:
    registry.revoked = True


def forget(registry: Registry) -> None:
    registry.uids = set()


def demote(registry: Registry) -> None:
    registry.roles = frozenset({"node"})


@in_loop
async def test_who_is_cut_off_gets_no_value_more(tmp_path: Path):
    for cut, path, code in [
        (revoke, "/v1/nodes/sync", "unauthenticated"),
        (forget, TAIL, "permission_denied"),
        (demote, TAIL, "permission_denied"),
    ]:
        go, registry = asyncio.Event(), Registry()
        async with open_stage(tmp_path, registry=registry) as stage:
            stage.operations.follow = partial(beat_twice, go)
            client = await stage.admin_client()
            if path != TAIL:
                client = await stage.node_client(stage.authority.issue(AGENT), tmp_path)
            async with client.stream("GET", path) as answer:
                lines = answer.aiter_lines()
                assert json.loads(await anext(lines)) == {"message": "heartbeat", "epoch": 1}
                cut(registry)
                go.set()
                [end] = [json.loads(line) async for line in lines]
                assert (end["message"], end["code"], end["retryable"]) == ("end", code, False)
                assert end["detail"]
            await asyncio.wait_for(stage.operations.closed.wait(), 2)


async def beat_twice(go: asyncio.Event, call):
    yield nodes.Heartbeat(epoch=1)
    await go.wait()
    yield nodes.Heartbeat(epoch=2)
    raise Unavailable("The end that only who may read on gets to see.")


class Forgetful(Registry):
    """A registry that at some time can't tell any more."""

    away = False

    def by_uid(self, uid, source):
        if self.away:
            raise Unavailable("The view is too old.")
        return super().by_uid(uid, source)


@in_loop
async def test_a_check_that_can_not_be_made_ends_the_stream_too(tmp_path: Path):
    go, registry = asyncio.Event(), Forgetful()
    async with open_stage(tmp_path, registry=registry) as stage:
        stage.operations.follow = partial(beat_twice, go)
        client = await stage.admin_client()
        async with client.stream("GET", TAIL) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            registry.away = True
            go.set()
            [end] = [json.loads(line) async for line in lines]
            assert (end["detail"], end["retryable"]) == ("The view is too old.", True)


async def read_stream(client: httpx.AsyncClient, stage: Stage) -> str:
    answer = await client.get("/v1/nodes/sync")
    assert answer.status_code == 200, answer.text
    return answer.text


@in_loop
async def test_the_values_of_a_stream_read_nothing_about_its_caller(tmp_path: Path):
    async def follow(call):
        for number in range(50):
            yield nodes.Heartbeat(epoch=number)

    registry = Registry()
    async with open_stage(tmp_path, registry=registry) as stage:
        stage.operations.follow = follow
        client = await stage.node_client(stage.authority.issue(AGENT), tmp_path)
        answer = await client.get("/v1/nodes/sync")
        assert len(answer.text.splitlines()) == 51
        assert registry.reads == 1


@in_loop
async def test_what_memory_does_not_know_of_a_caller_is_read(tmp_path: Path):
    registry = Registry()

    async def follow(call):
        yield nodes.Heartbeat(epoch=1)
        registry.forget()
        yield nodes.Heartbeat(epoch=2)
        yield nodes.Heartbeat(epoch=3)

    async with open_stage(tmp_path, registry=registry) as stage:
        stage.operations.follow = follow
        client = await stage.node_client(stage.authority.issue(AGENT), tmp_path)
        answer = await client.get("/v1/nodes/sync")
        assert len(answer.text.splitlines()) == 4
        assert registry.reads == 2
