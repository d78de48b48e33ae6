"""What every anchor must do: have the note for good once it says so, or say that it hasn't."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes import postbox
from tests.fakes.postbox import Respond, open_postbox, say
from tests.fakes.witnesses import OtherLog
from troth.audit.note import parse_note, render_note
from troth.core.errors import Invalid, Unavailable
from troth.drivers.anchors import BUILT_IN, Anchor, Place, http, load_driver

Opened = tuple[Anchor, Callable[[], list[bytes]]]
"""An anchor, and what it has of notes."""


@asynccontextmanager
async def open_file(folder: Path) -> AsyncIterator[Opened]:
    path = folder / "anchored.txt"
    yield load_driver("file")(Place(str(path))), lambda: split(path)


@asynccontextmanager
async def open_http(folder: Path) -> AsyncIterator[Opened]:
    async with open_postbox(say(201, b"thanks")) as box:
        yield load_driver("http")(Place(f"http://localhost:{box.port}/in")), lambda: box.bodies


OPENERS: dict[str, Callable[[Path], AbstractAsyncContextManager[Opened]]] = {
    "file": open_file,
    "http": open_http,
}


def split(path: Path) -> list[bytes]:
    """The notes of a file: text and signatures, an empty line between and after them."""
    if not path.exists():
        return []
    pieces = path.read_bytes().split(b"\n\n")
    assert pieces.pop() == b""
    return [b"\n\n".join(pieces[at : at + 2]) + b"\n" for at in range(0, len(pieces), 2)]


@pytest.fixture
def notes() -> list[bytes]:
    log = OtherLog()
    log.grow(5)
    return [render_note(log.sign(size)) for size in (1, 3, 5)]


def test_every_driver_is_under_test() -> None:
    assert OPENERS.keys() == BUILT_IN.keys()


@pytest.mark.parametrize("driver", sorted(OPENERS))
def test_it_has_each_note_in_order(driver: str, tmp_path: Path, notes: list[bytes]) -> None:
    async def run() -> None:
        async with OPENERS[driver](tmp_path) as (anchor, held):
            for number, note in enumerate(notes, 1):
                await anchor.deliver(note)
                assert held() == notes[:number]
            await anchor.deliver(notes[-1])
            assert held() == [*notes, notes[-1]]

    asyncio.run(run())


@pytest.mark.parametrize("driver", sorted(OPENERS))
def test_what_it_has_can_be_verified(driver: str, tmp_path: Path, notes: list[bytes]) -> None:
    async def run() -> None:
        async with OPENERS[driver](tmp_path) as (anchor, held):
            for note in notes:
                await anchor.deliver(note)
            assert [parse_note(one).text for one in held()] == [parse_note(n).text for n in notes]

    asyncio.run(run())


@pytest.mark.parametrize("driver", sorted(OPENERS))
@pytest.mark.parametrize("target", ["", "here", "ftp://a.example/", "http://a.example/", "C:\\x"])
def test_targets_that_are_none_are_refused(driver: str, target: str) -> None:
    with pytest.raises(Invalid):
        load_driver(driver)(Place(target))


# Files


def test_a_file_goes_on_after_a_note_that_was_cut_off(tmp_path: Path, notes: list[bytes]) -> None:
    path = tmp_path / "anchored.txt"
    anchor = load_driver("file")(Place(str(path)))
    asyncio.run(anchor.deliver(notes[0]))
    whole = path.read_bytes()
    path.write_bytes(whole + notes[1][:50])
    asyncio.run(anchor.deliver(notes[2]))
    assert path.read_bytes().startswith(whole + notes[1][:50] + b"\n\n")
    assert path.read_bytes().endswith(b"\n\n" + notes[2] + b"\n")


def test_a_file_that_cant_be_written_is_unavailable(tmp_path: Path, notes: list[bytes]) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing/anchored.txt", ".", "link", "fifo"):
        with pytest.raises(Unavailable):
            asyncio.run(load_driver("file")(Place(str(tmp_path / name))).deliver(notes[0]))
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_hangs_holds_up_neither_others_nor_the_end(
    tmp_path: Path, notes: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, go_on = os.fsync, threading.Event()
    hanging, sound = (load_driver("file")(Place(str(tmp_path / name))) for name in ("a", "b"))

    def fsync(handle: int) -> None:
        if threading.current_thread().name == "anchor":
            assert go_on.wait(30)
        real(handle)

    async def run() -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await hanging.deliver(notes[0])
        for _ in range(3):
            with pytest.raises(Unavailable, match="hangs"):
                await hanging.deliver(notes[1])
        monkeypatch.setattr(os, "fsync", real)
        await sound.deliver(notes[0])

    asyncio.run(run())  # which would wait for threads of the loop's own
    assert split(tmp_path / "b") == [notes[0]]
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "anchor":
            thread.join(30)
    asyncio.run(hanging.deliver(notes[2]))
    assert split(tmp_path / "a") == [notes[0], notes[2]]


# Servers


@pytest.mark.parametrize(
    "respond",
    [
        say(500),
        say(404),
        say(302, location="https://a.example/"),
        postbox.flood(1 << 20),
        postbox.babble,
        postbox.drop,
        postbox.hang,
    ],
)
def test_a_server_that_doesnt_say_yes_hasnt_got_it(
    respond: Respond, notes: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SECONDS", 0.5)

    async def run() -> None:
        async with open_postbox(respond) as box:
            anchor = load_driver("http")(Place(f"http://localhost:{box.port}/in?token=hidden"))
            with pytest.raises(Unavailable) as caught:
                await anchor.deliver(notes[0])
            assert "hidden" not in caught.value.detail

    asyncio.run(run())
