"""The agent's answers, where they aren't what the Workload API says."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.fuzz.workload import (
    _CRL,
    _LEAF,
    _PKCS8,
    _ROOT,
    _TOKENS,
    _UPDATE,
    Stage,
    _encode_claims,
    _encode_x509,
    _render,
    frame,
    open_agent,
)
from troth.cli.svid import view_update, write_svids
from troth.core.errors import Internal, Unavailable

ALTSVC, UNKNOWN = frame(10, 0, 0, b"\0\0"), frame(11, 0, 0, b"")


_WHOLE = _render([], "0", "")
_HEAD = _WHOLE[: 9 + int.from_bytes(_WHOLE[:3], "big")]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with open_agent() as opened:
        yield opened


def test_frames_of_unknown_types_are_passed_over(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.agent.answer = UNKNOWN + ALTSVC + _render([_TOKENS], "0", "") + UNKNOWN
    [token] = stage.api.fetch_jwt(("ledger",), "")
    assert token.token == "a.b.c"
    stage.agent.answer = UNKNOWN + _render([_UPDATE], "0", "")
    assert len(stage.api.fetch_x509().svids) == 1
    assert caplog.records == []


def test_what_is_not_http2_leaves_no_traceback(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.agent.answer = frame(1, 4, 1, b"\xff" * 9) + frame(0, 0, 7, b"x")
    with pytest.raises(Unavailable, match="broke the connection off"):
        stage.api.fetch_x509()
    assert caplog.records == []


def test_an_answer_without_a_message_is_empty(stage: Stage) -> None:
    stage.agent.answer = _render([], "0", "")
    with pytest.raises(Internal, match="empty"):
        stage.api.fetch_jwt(("ledger",), "")


@pytest.mark.parametrize(
    "data",
    [
        frame(1, 4, 1, b""),
        _HEAD + frame(0, 1, 1, b"\0\0\0\0\x09abc"),
        _HEAD + frame(0, 1, 1, b"\1" + bytes(4)),
    ],
    ids=["no status", "cut short", "compressed"],
)
def test_what_is_not_grpc_is_said_so(stage: Stage, data: bytes) -> None:
    stage.agent.answer = data
    for call in (stage.api.fetch_x509, lambda: stage.api.fetch_jwt(("ledger",), "")):
        with pytest.raises(Internal, match="isn't gRPC"):
            call()


def test_what_is_no_message_of_the_workload_api_is_said_so(stage: Stage) -> None:
    stage.agent.answer = _render([b"\x0a\x7f"], "0", "")
    for call in (stage.api.fetch_x509, lambda: stage.api.fetch_jwt(("ledger",), "")):
        with pytest.raises(Internal, match="can't be read"):
            call()
    number, nan = struct.pack("<d", 1.5), struct.pack("<d", float("nan"))
    stage.agent.answer = _render([_encode_claims(1.5).replace(number, nan)], "0", "")
    with pytest.raises(Internal, match="claims that no token can"):
        stage.api.validate_jwt("ledger", "a.b.c")


@pytest.mark.parametrize(
    "message",
    [
        _encode_x509(_LEAF, b"no key", _ROOT, _CRL, "a"),
        _encode_x509(_LEAF, _PKCS8, _ROOT, b"no list", "a"),
        _encode_x509(_LEAF, _PKCS8, b"\x30\x00", _CRL, "a"),
    ],
    ids=["key", "list", "root"],
)
def test_what_can_t_be_read_is_not_written_in_part(stage: Stage, message: bytes) -> None:
    stage.agent.answer = _render([message], "0", "")
    update = stage.api.fetch_x509()
    with pytest.raises(Internal, match="can't be read"):
        write_svids(stage.folder, update)
    assert not stage.folder.exists()
    if update.svids[0].bundle == (b"\x30\x00",):
        with pytest.raises(Internal, match="can't be read"):
            view_update(update)
