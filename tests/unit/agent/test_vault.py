"""What an agent still has after its own restart, and who gets it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.fakes.server import CREDENTIAL, FakeNode, make_entry, make_process, read_serial
from tests.fakes.source import in_loop, until
from troth.agent.connection import Unreachable
from troth.agent.sealing import (
    KEY_NAME,
    MAGIC,
    SEALED_NAME,
    VERSION,
    SealedFile,
    Unsealable,
    seal,
    unseal,
)
from troth.agent.vault import UNCLAIMED, Vault, parse_state
from troth.core.entropy import SeededEntropy
from troth.core.errors import Denied, Internal, Limited, TrothError, Unavailable

WEB = "spiffe://example.org/web"


@asynccontextmanager
async def run(
    folder: Path, before: FakeNode | None = None, boot: str = "boot-1"
) -> AsyncIterator[FakeNode]:
    """An agent on that data directory; with `before`, the next one on the same machine."""
    node = FakeNode(before=before)
    node.keep(folder, boot)
    node.start(node.sync.run())
    node.start(node.workloads.run())
    try:
        yield node
    finally:
        for watcher in node.watchers:
            await watcher.close()
        for task in node.tasks:
            task.cancel()
        await asyncio.gather(*node.tasks, return_exceptions=True)
        await node.batches.close()


async def save(node: FakeNode, folder: Path) -> bytes:
    """Wait until the file holds what the cache holds now."""
    assert node.vault is not None
    held = [h for w in node.cache for h in w.holdings.values() if h.svid is not None]
    while len(node.vault._saved) != len(held) or not (folder / SEALED_NAME).exists():
        await node.time.advance(0.1)
        await asyncio.to_thread(os.sched_yield)
    return (folder / SEALED_NAME).read_bytes()


async def serve(folder: Path, *numbers: int) -> tuple[FakeNode, list[int]]:
    """A first agent that gave the identity web to these processes, and has ended since."""
    async with run(folder) as node:
        node.server.put(make_entry("web"))
        await until(lambda: node.sync.snapshot is not None, "the first snapshot")
        watchers = [node.watch(make_process(number)) for number in numbers]
        await node.settle()
        serials = [read_serial(w.last.svids[0].chain[0]) for w in watchers]
        await save(node, folder)
    return node, serials


@in_loop
async def test_without_a_server_each_process_gets_back_what_it_had(tmp_path: Path) -> None:
    first, serials = await serve(tmp_path, 1, 2)
    first.server.failure = Unreachable("away")
    async with run(tmp_path, first) as node:
        await until(lambda: node.sync.snapshot is not None, "the kept snapshot")
        watchers = [node.watch(make_process(number)) for number in (1, 2)]
        await node.settle()
        assert [read_serial(w.last.svids[0].chain[0]) for w in watchers] == serials
        assert watchers[0].last.bundles[0].crls
        assert node.server.count()["certificate.issue"] == first.server.count()["certificate.issue"]
        keys = {w.last.svids[0].private_key for w in watchers}
        assert len(keys) == 2


@pytest.mark.parametrize(
    "answer", [Unavailable("paced", 3.0), Limited("later"), Internal("broken")]
)
@in_loop
async def test_a_server_that_answers_brings_nothing_back(
    answer: TrothError, tmp_path: Path
) -> None:
    first = (await serve(tmp_path, 1))[0]
    first.server.failure = answer
    async with run(tmp_path, first) as node:
        await node.time.advance(10)
        assert node.sync.snapshot is None
        node.server.failure = Unreachable("away")
        await node.time.advance(10)
        assert node.sync.is_restored


@in_loop
async def test_a_new_process_gets_nothing_and_neither_does_another_program(tmp_path: Path) -> None:
    first, _ = await serve(tmp_path, 1)
    first.server.failure = Unreachable("away")
    async with run(tmp_path, first) as node:
        await until(lambda: node.sync.snapshot is not None, "the kept snapshot")
        stranger = node.watch(make_process(2))
        other_program = node.watch(make_process(1, "unix:uid:1001", "unix:path:/bin/other"))
        await node.settle()
        for watcher in (stranger, other_program):
            assert not watcher.views
            assert isinstance(watcher.error, Unavailable)
        mine = node.watch(make_process(1))
        await node.settle()
        assert mine.last.svids[0].spiffe_id == WEB


@in_loop
async def test_what_is_restored_renews_and_expires_as_ever(tmp_path: Path) -> None:
    first, serials = await serve(tmp_path, 1)
    first.server.failure = Unreachable("away")
    async with run(tmp_path, first) as node:
        await until(lambda: node.sync.snapshot is not None, "the kept snapshot")
        watcher = node.watch()
        await node.time.advance(3500)
        assert read_serial(watcher.last.svids[0].chain[0]) == serials[0]
        node.server.failure = None
        await node.time.advance(61)
        assert read_serial(watcher.last.svids[0].chain[0]) != serials[0]
    node.server.failure = Unreachable("away")
    await node.time.advance(3601)
    async with run(tmp_path, node) as late:
        await until(lambda: late.sync.snapshot is not None, "the kept snapshot")
        watcher = late.watch()
        await late.settle()
        assert not watcher.views


@in_loop
async def test_with_a_server_its_word_decides(tmp_path: Path) -> None:
    first, serials = await serve(tmp_path, 1)
    async with run(tmp_path, first) as node:
        await until(lambda: node.sync.snapshot is not None, "the server's word")
        assert not node.sync.is_restored
        watcher = node.watch()
        await node.settle()
        assert read_serial(watcher.last.svids[0].chain[0]) == serials[0]
    first.server.quarantine("web")
    async with run(tmp_path, node) as node:
        await until(lambda: node.sync.snapshot is not None, "the server's word")
        watcher = node.watch()
        await node.settle()
        assert not any(view.svids for view in watcher.views)


@in_loop
async def test_a_quarantine_leaves_the_disk_at_once(tmp_path: Path) -> None:
    async with run(tmp_path) as node:
        node.server.put(make_entry("web"), make_entry("other", "unix:uid:2000"))
        await until(lambda: node.sync.snapshot is not None, "the first snapshot")
        node.watch(make_process(1))
        node.watch(make_process(2, "unix:uid:2000"))
        await node.settle()
        before = await save(node, tmp_path)
        node.server.quarantine("web")
        await node.time.settle()
        assert not (tmp_path / SEALED_NAME).exists()
        assert await save(node, tmp_path) != before
    node.server.failure = Unreachable("away")
    async with run(tmp_path, node) as late:
        await until(lambda: late.sync.snapshot is not None, "the kept snapshot")
        cut, kept = late.watch(make_process(1)), late.watch(make_process(2, "unix:uid:2000"))
        await late.settle()
        assert not any(view.svids for view in cut.views)
        assert kept.last.svids


@in_loop
async def test_an_eviction_erases_file_and_key(tmp_path: Path) -> None:
    first, _ = await serve(tmp_path, 1)
    first.server.failure = Denied("Node local was evicted; join anew.")
    (tmp_path / "cache.new").write_bytes(b"left by a crash")
    async with run(tmp_path, first) as node:
        await until(lambda: not (tmp_path / SEALED_NAME).exists(), "the file's end")
        assert not (tmp_path / "cache.new").exists()
        assert not (tmp_path / KEY_NAME).exists()
        assert node.sync.snapshot is None
        await node.time.advance(30)
        assert not (tmp_path / SEALED_NAME).exists()


@in_loop
async def test_nobody_comes_back_for_what_another_boot_had(tmp_path: Path) -> None:
    first, _ = await serve(tmp_path, 1)
    first.server.failure = Unreachable("away")
    async with run(tmp_path, first, boot="boot-2") as node:
        await until(lambda: node.sync.snapshot is not None, "the kept snapshot")
        watcher = node.watch()
        await node.settle()
        assert not watcher.views


@in_loop
async def test_what_nobody_claims_is_forgotten_soon_after_the_server_is_back(
    tmp_path: Path,
) -> None:
    first, _ = await serve(tmp_path, 1, 2)
    async with run(tmp_path, first) as node:
        await until(lambda: node.sync.snapshot is not None, "the server's word")
        assert node.vault is not None
        node.watch(make_process(1))
        await node.settle()
        assert len(node.vault._unclaimed) == 1
        await node.time.advance(1)
        await node.time.advance(UNCLAIMED.total_seconds())
        while node.vault._unclaimed:
            await node.time.advance(1)
            await asyncio.to_thread(os.sched_yield)
        assert node.watchers[0].last.svids


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _replace_version(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(MAGIC + bytes([VERSION + 1]) + content[len(MAGIC) + 1 :])


SPOILT = {
    "flipped": (_flip, "damaged"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "damaged"),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:20]), "was cut"),
    "empty": (lambda p: p.write_bytes(b""), "no sealed cache"),
    "junk": (lambda p: p.write_bytes(b"junk" * 100), "no sealed cache"),
    "another version": (_replace_version, "has version 2"),
    "no key": (lambda p: (p.parent / KEY_NAME).unlink(), "missing or damaged"),
    "another key": (lambda p: (p.parent / KEY_NAME).write_bytes(b"k" * 32), "another key"),
    "a short key": (lambda p: (p.parent / KEY_NAME).write_bytes(b"k"), "missing or damaged"),
    "open to others": (lambda p: p.chmod(0o644), "must belong to the agent's user"),
    "an open key": (lambda p: (p.parent / KEY_NAME).chmod(0o640), "must belong"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_file_that_cant_be_used_is_ignored_with_a_word(how: str, tmp_path: Path) -> None:
    spoil, reason = SPOILT[how]

    @in_loop
    async def test() -> None:
        first, _ = await serve(tmp_path, 1)
        spoil(tmp_path / SEALED_NAME)
        first.server.failure = Unreachable("away")
        with capture_logs() as logs:
            async with run(tmp_path, first) as node:
                await node.time.advance(10)
                assert node.sync.snapshot is None
        (told,) = [entry for entry in logs if entry["event"] == "cache.ignored"]
        assert reason in told["reason"]
        first.server.failure = None
        async with run(tmp_path, node) as healed:
            await until(lambda: healed.sync.snapshot is not None, "the server's word")
            healed.watch(make_process(1))
            await healed.settle()
            await save(healed, tmp_path)

    test()


def test_another_nodes_file_is_refused(tmp_path: Path) -> None:
    file = SealedFile(tmp_path, SeededEntropy())
    file.save(b"content", "nod_other spiffe://example.org/troth/node/other")
    with capture_logs() as logs:
        vault = Vault(file, FakeNode().time.clock, asyncio.sleep, "boot-1")
        assert vault.open(CREDENTIAL) is None
        assert vault.open(replace(CREDENTIAL, node_id="nod_other")) is None
    assert [entry["event"] for entry in logs] == ["cache.ignored"] * 2


def test_only_its_user_may_read_it_and_no_key_shows_in_it(tmp_path: Path) -> None:
    file = SealedFile(tmp_path, SeededEntropy())
    file.save(b"a private key", "me")
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert b"private" not in path.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {SEALED_NAME, KEY_NAME}
    one = (tmp_path / SEALED_NAME).read_bytes()
    file.save(b"a private key", "me")
    assert (tmp_path / SEALED_NAME).read_bytes() != one  # no nonce twice
    assert file.load("me") == b"a private key"


def test_sealing_binds_content_to_key_and_owner() -> None:
    sealed = seal(b"k" * 32, b"content", "me", b"n" * 12)
    assert unseal(b"k" * 32, sealed, "me") == b"content"
    for secret, owner in ((b"K" * 32, "me"), (b"k" * 32, "you")):
        with pytest.raises(Unsealable):
            unseal(secret, sealed, owner)
    for content in (b"", b"junk", b"\x80", b"\xc1"):
        with pytest.raises(Unsealable, match="isn't understood"):
            parse_state(content)
