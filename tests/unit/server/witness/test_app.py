"""The witness's HTTP: each refusal has the specification's status; nothing else gets through."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.witnesses import OtherLog, make_desk
from troth.audit.note import parse_signatures, parse_vkey
from troth.audit.witness import (
    LARGEST_SUBMISSION,
    PATH,
    SIZE_TYPE,
    Cosigned,
    Declined,
    Reason,
    Submission,
    parse_answer,
    render_submission,
)
from troth.core.errors import Unavailable
from troth.server.witness import app as module
from troth.server.witness.app import TEXT, WitnessApp
from troth.server.witness.desk import WitnessDesk


@pytest.fixture
def log() -> OtherLog:
    found = OtherLog()
    found.grow(200)
    return found


@pytest.fixture
def desk(tmp_path: Path, log: OtherLog) -> WitnessDesk:
    return make_desk(tmp_path, log.key)


Answer = tuple[int, str, bytes]


def ask(
    desk: WitnessDesk, body: bytes = b"", *, method: str = "POST", path: str = PATH, **more: Any
) -> Answer:
    pieces: list[dict[str, Any]] = more.get(
        "messages", [{"type": "http.request", "body": body, "more_body": False}]
    )
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if pieces:
            return pieces.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path}
    asyncio.run(WitnessApp(desk)(scope, receive, send))
    start, end = sent
    headers = dict(start["headers"])
    assert headers[b"content-length"] == str(len(end["body"])).encode()
    return start["status"], headers[b"content-type"].decode(), end["body"]


def test_it_cosigns(desk: WitnessDesk, log: OtherLog) -> None:
    status, media_type, body = ask(desk, log.submit(0, 100))
    assert (status, media_type) == (200, TEXT)
    assert {one.name for one in parse_signatures(body)} == {"witness.example/w1"}
    assert isinstance(parse_answer(status, media_type, body), Cosigned)


def test_each_refusal_has_its_status(desk: WitnessDesk, log: OtherLog) -> None:
    fork, other = OtherLog(history="false"), OtherLog("log.example/two")
    fork.grow(200)
    other.grow(2)
    ask(desk, log.submit(0, 100))
    stolen = Submission(0, (), other.sign())
    for body, status, reason in (
        (b"junk", 400, Reason.MALFORMED),
        (log.submit(100, 50), 400, Reason.MALFORMED),
        (render_submission(stolen), 404, Reason.UNKNOWN_LOG),
        (log.submit(100, 150).replace(b"\n150\n", b"\n151\n"), 403, Reason.UNSIGNED),
        (fork.submit(100, 100), 409, Reason.FORKED),
        (fork.submit(100, 150), 422, Reason.INCONSISTENT),
    ):
        found = ask(desk, body)
        assert found[0] == status
        assert found[1] == TEXT
        assert parse_answer(*found) == Declined(reason)
    found = ask(desk, log.submit(50, 150))
    assert found == (409, SIZE_TYPE, b"100\n")
    assert parse_answer(*found) == Declined(Reason.STALE, 100)


def test_what_it_holds_can_be_looked_at(desk: WitnessDesk, log: OtherLog) -> None:
    status, _, body = ask(desk, method="GET", path="/vkey")
    assert status == 200
    keys = [parse_vkey(line) for line in body.decode().splitlines()]
    assert keys == list(desk.signer.public)
    path = f"/{sha256(log.origin.encode()).hexdigest()}/checkpoint"
    assert ask(desk, method="GET", path=path)[0] == 404
    ask(desk, log.submit(0, 100))
    status, _, body = ask(desk, method="GET", path=path)
    assert status == 200
    assert body.decode().startswith(log.sign(100).text)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", PATH, 405),
        ("PUT", PATH, 405),
        ("POST", "/", 405),
        ("GET", "/", 404),
        ("GET", "/keys/kek", 404),
        ("GET", "/../keys/kek", 404),
        ("GET", f"/{'A' * 64}/checkpoint", 404),
        ("GET", f"/{'0' * 64}/checkpoint\n", 404),
        ("GET", "/name", 404),
    ],
)
def test_there_is_nothing_else(desk: WitnessDesk, method: str, path: str, status: int) -> None:
    assert ask(desk, method=method, path=path)[0] == status


def test_a_body_without_end_is_cut_off(desk: WitnessDesk) -> None:
    size = 64 << 10
    piece = {"type": "http.request", "body": bytes(size), "more_body": True}
    count = LARGEST_SUBMISSION // size + 1
    assert ask(desk, messages=[dict(piece) for _ in range(count)])[0] == 413


def test_a_body_that_doesnt_come_is_given_up(
    desk: WitnessDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BODY_SECONDS", 0.01)
    piece = {"type": "http.request", "body": b"old", "more_body": True}
    assert ask(desk, messages=[piece])[0] == 408
    assert ask(desk, messages=[{"type": "http.disconnect"}])[0] == 400


@pytest.mark.parametrize(
    ("error", "status"),
    [(Unavailable("The disk at /secret is full."), 503), (ValueError("x"), 500)],
)
def test_what_goes_wrong_inside_stays_inside(
    desk: WitnessDesk, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(body: bytes) -> None:
        raise error

    monkeypatch.setattr(desk, "submit", fail)
    found = ask(desk, b"x")
    assert found[0] == status
    assert b"secret" not in found[2]
