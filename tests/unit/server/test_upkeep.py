"""Backup, restore and move as the command line does them: on real files, with a server's state."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.fakes.house import make_csr
from tests.fakes.postgres import start_cluster
from tests.fakes.stores import ENGINES
from troth.audit.pin import Pin, begin_pin, renew_pin
from troth.audit.tile import prove_consistency
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Conflict, Invalid, Refused, Unavailable
from troth.core.ids import RequestId
from troth.issuance.authorities import Use
from troth.operations.call import Caller
from troth.operations.log import read_checkpoint
from troth.server.config import Config, load_config
from troth.server.installation import prepare_directories
from troth.server.upkeep import Copy, back_up, check_backup, move_database, restore_backup
from troth.server.wiring import House, build_house
from troth.wire.api.devices import InviteDevices
from troth.wire.api.identities import RegisterIdentity
from troth.wire.api.nodes import AttestNode, CreateJoinToken
from troth.wire.backup import Closing, SealedKey, parse_backup, render_backup

ADMIN = Caller("uid:0", frozenset({"admin"}), source="test")


def ignore(table: str, done: int, total: int) -> None:
    assert table


def configure(data: Path, url: str = "", **variables: str) -> Config:
    environ = {"TROTH_KEYSTORE_KEY_ENCRYPTION_KEY": f"file:{data.parent}/kek"} | variables
    return load_config(data=data, environ=environ | ({"TROTH_DATABASE_URL": url} if url else {}))


def make_url(engine: str) -> str:
    if engine == "sqlite":
        return ""
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("Debian's package postgresql is not installed")
    return cluster.create_database()


def serve(config: Config, clock: VirtualClock, work: Callable[[House], Any]) -> Any:
    """Run `work` in a server on `config`."""

    async def run() -> Any:
        prepare_directories(config)
        house = await build_house(config, clock, SeededEntropy())
        try:
            return await work(house)
        finally:
            house.decisions.close()
            house.store.close()

    return asyncio.run(run())


async def make_token(house: House, ttl: int = 86_400) -> str:
    body = CreateJoinToken(node="edge", ttl=ttl)
    return str((await house.dispatcher.call("token.join", ADMIN, RequestId("r"), body)).token)


async def make_code(house: House) -> str:
    """A join token, and a device's enrolment code."""
    await make_token(house)
    device = RegisterIdentity(
        name="sensor-1", kind="device", owner="o@example.org", purpose="Measures", activate=True
    )
    await house.dispatcher.call("identity.register", ADMIN, RequestId("r"), device)
    body = InviteDevices(names=["sensor-1"])
    made = await house.dispatcher.call("device.invite", ADMIN, RequestId("r"), body)
    return str(made.codes[0].code)


async def read_crl(house: House) -> int:
    authority = await house.store.read(lambda tx: tx.authorities.active(Use.X509))
    found = await house.store.read(lambda tx: tx.crls.latest(authority.id))
    assert found is not None
    return found.number


async def read_keys(house: House) -> list[bytes]:
    return [a.public_key for a in await house.store.read(lambda tx: tx.authorities.list())]


def save(config: Config, clock: VirtualClock, out: Path) -> Copy:
    return back_up(config, out, clock, SeededEntropy(), ignore)


def bring_back(config: Config, clock: VirtualClock, file: Path) -> Copy:
    return restore_backup(config, file, clock, SeededEntropy(), ignore)


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("source", ENGINES)
def test_a_backup_made_at_work_restores_on_either_engine(
    source: str, target: str, tmp_path: Path
) -> None:
    clock, out = VirtualClock(), tmp_path / "backups"
    out.mkdir()
    old = configure(tmp_path / "old", make_url(source))

    async def work(house: House) -> tuple[str, list[bytes], Copy]:
        token = await make_token(house)
        copy = await asyncio.to_thread(save, old, clock, out)
        clock.advance(timedelta(hours=1))
        return token, await read_keys(house), copy

    token, keys, copy = serve(old, clock, work)
    (file,) = out.iterdir()
    assert copy.file == str(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "kek").read_text().strip().encode() not in file.read_bytes()
    assert bytes.fromhex((tmp_path / "kek").read_text()) not in file.read_bytes()
    assert check_backup(file, ignore) == copy

    new = configure(tmp_path / "new", make_url(target))
    assert bring_back(new, clock, file).rows == copy.rows
    assert copy.keys == (5 if source == "sqlite" else 0)

    async def look(house: House) -> None:
        assert await read_keys(house) == keys
        assert house.local_node == "local"
        assert await read_crl(house) > 10**12
        body = AttestNode(method="join_token", evidence=token, csr=make_csr())
        with pytest.raises(Refused, match="expired"):
            await house.dispatcher.call("node.attest", ADMIN, RequestId("r"), body)
        told = await house.store.read(
            lambda tx: tx.journal.list_waiting(99) or tx.journal.page(type_prefix="store.")
        )
        assert told  # what happened since is on record

    serve(new, clock, look)


def test_numbers_of_revocation_lists_never_go_back(tmp_path: Path) -> None:
    clock = VirtualClock()
    config = configure(tmp_path / "data")
    serve(config, clock, read_crl)
    save(config, clock, tmp_path / "one")

    async def publish_often(house: House) -> int:
        (publish,) = (task.run for task in house.tasks if task.name == "crl.publish")
        for _ in range(5):
            clock.advance(timedelta(days=1))
            await publish()
        return await read_crl(house)

    seen = [serve(config, clock, publish_often)]
    for number in range(3):
        data = tmp_path / f"again{number}"
        config = configure(data)
        bring_back(config, clock, tmp_path / "one")
        seen += [serve(config, clock, read_crl), serve(config, clock, publish_often)]
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("target", ENGINES)
def test_a_backup_that_is_restored_beside_its_log_makes_no_fork(
    target: str, tmp_path: Path
) -> None:
    """What was sealed after the backup keeps its place: whoever has seen the log notices nothing
    but that it goes on."""
    clock = VirtualClock()
    config = configure(tmp_path / "data")

    async def write(house: House) -> Pin:
        await make_token(house)
        for name in ("journal.follow", "log.write"):
            (run,) = (task.run for task in house.tasks if task.name == name)
            await run()
        note = read_checkpoint(house.log).decode()
        return begin_pin([key.render() for key in house.signer.keys], note)

    serve(config, clock, write)
    save(config, clock, tmp_path / "one")
    clock.advance(timedelta(seconds=9))
    seen = serve(config, clock, write)
    again = configure(tmp_path / "again", make_url(target))
    shutil.copytree(config.data / "log", again.data / "log")
    bring_back(again, clock, tmp_path / "one")

    async def go_on(house: House) -> tuple[Pin, set[str]]:
        pin = await write(house)
        proof = [one.hex() for one in prove_consistency(house.log.read, seen.size, pin.size)]
        events = await house.store.read(lambda tx: tx.journal.after(0, 1000))
        return renew_pin(seen, pin.note, proof), {one.event.type for one in events}

    pin, types = serve(again, clock, go_on)
    assert pin.size > seen.size
    assert {"log.restored", "store.restored"} <= types
    assert "log.forked" not in types


def test_what_a_restore_says_is_in_the_journal(tmp_path: Path) -> None:
    clock = VirtualClock()
    config = configure(tmp_path / "data")
    serve(config, clock, make_code)
    copy = save(config, clock, tmp_path / "one")
    clock.advance(timedelta(seconds=9))
    again = configure(tmp_path / "again")
    bring_back(again, clock, tmp_path / "one")

    async def seal(house: House) -> Any:
        (follow,) = (task.run for task in house.tasks if task.name == "journal.follow")
        await follow()
        found = await house.store.read(lambda tx: tx.journal.page(type_prefix="store."))
        return [sealed.event for sealed in found]

    (event,) = serve(again, clock, seal)
    assert event.type == "store.restored"
    assert event.body == {
        "made_at": copy.made_at.isoformat(),
        "head": copy.journal_head,
        "tokens": 1,
        "codes": 1,
        "secrets": 0,
    }


def test_a_restore_needs_an_empty_place_and_changes_nothing_else(tmp_path: Path) -> None:
    clock = VirtualClock()
    config = configure(tmp_path / "data")
    serve(config, clock, read_keys)
    save(config, clock, tmp_path / "one")
    before = {p: p.read_bytes() for p in (tmp_path / "data" / "keys").iterdir()}
    with pytest.raises(Conflict, match="isn't empty"):
        bring_back(config, clock, tmp_path / "one")
    assert {p: p.read_bytes() for p in (tmp_path / "data" / "keys").iterdir()} == before

    other = configure(tmp_path / "other")
    serve(other, clock, read_keys)
    (tmp_path / "other" / "troth.db").unlink()
    for extra in (tmp_path / "other").glob("troth.db-*"):
        extra.unlink()
    with pytest.raises(Conflict, match="another installation"):
        bring_back(other, clock, tmp_path / "one")
    shutil.rmtree(tmp_path / "other" / "keys")
    bring_back(other, clock, tmp_path / "one")  # nothing was kept of the first try
    assert len(serve(other, clock, read_keys)) == 3


def test_the_wrong_key_encryption_key_opens_nothing(tmp_path: Path) -> None:
    clock = VirtualClock()
    config = configure(tmp_path / "data")
    serve(config, clock, read_keys)
    save(config, clock, tmp_path / "one")
    (tmp_path / "kek").rename(tmp_path / "lost")
    again = configure(tmp_path / "again")
    bring_back(again, clock, tmp_path / "one")
    with pytest.raises(Unavailable, match="Can't read the key-encryption key"):
        serve(again, clock, read_keys)
    (tmp_path / "lost").rename(tmp_path / "kek")
    assert len(serve(again, clock, read_keys)) == 3


def test_a_backup_is_never_overwritten_nor_left_half_done(tmp_path: Path) -> None:
    clock = VirtualClock()
    config = configure(tmp_path / "data")
    out = tmp_path / "backups"
    out.mkdir()
    with pytest.raises(Invalid, match="There is no database"):
        save(config, clock, out)
    assert list(out.iterdir()) == []
    serve(config, clock, read_keys)
    save(config, clock, out / "one")
    before = (out / "one").read_bytes()
    with pytest.raises(Conflict, match="exists already"):
        save(config, clock, out / "one")
    assert (out / "one").read_bytes() == before
    assert [path.name for path in out.iterdir()] == ["one"]


def test_a_damaged_backup_and_one_that_others_can_write_are_refused(tmp_path: Path) -> None:
    clock = VirtualClock()
    config, file = configure(tmp_path / "data"), tmp_path / "one"
    serve(config, clock, read_keys)
    save(config, clock, file)
    whole = file.read_bytes()
    for damaged in (
        b"",
        whole[:-1],
        whole[: len(whole) // 2],
        whole + b"\0",
        bytes([*whole[:500], whole[500] ^ 1, *whole[501:]]),
        b"\0" * 100,
    ):
        file.write_bytes(damaged)
        for attempt in (
            lambda: check_backup(file, ignore),
            lambda: bring_back(configure(tmp_path / "again"), clock, file),
        ):
            with pytest.raises(Invalid):
                attempt()
    file.write_bytes(whole)
    file.chmod(0o620)
    with pytest.raises(Refused, match="Others may write"):
        bring_back(configure(tmp_path / "again"), clock, file)
    file.chmod(0o600)
    bring_back(configure(tmp_path / "again"), clock, file)


def test_a_check_refuses_what_a_restore_would(tmp_path: Path) -> None:
    clock = VirtualClock()
    config, file = configure(tmp_path / "data"), tmp_path / "one"
    serve(config, clock, read_keys)
    save(config, clock, file)
    frames = list(parse_backup(io.BytesIO(file.read_bytes()).read))
    end = frames[-1]
    assert isinstance(end, Closing)
    for others in (
        [*frames[:-1], replace(end, next_ids={"journal": 1 << 63})],
        [*frames[:-1], SealedKey(name="../key", content=b""), end],
        [replace(frames[0], tables=[]), end],
    ):
        file.write_bytes(b"".join(render_backup(others)))
        with pytest.raises(Invalid, match="damaged"):
            check_backup(file, ignore)
        with pytest.raises(Invalid, match="damaged"):
            bring_back(configure(tmp_path / "again"), clock, file)


def test_a_move_to_postgresql_and_back_keeps_keys_and_journal(tmp_path: Path) -> None:
    clock = VirtualClock()
    here = configure(tmp_path / "data", TROTH_KEYSTORE_DRIVER="database")
    keys = serve(here, clock, read_keys)
    url = make_url("postgresql")
    there = configure(tmp_path / "data", url)
    moved = move_database(here.database, url, clock, ignore)
    assert serve(there, clock, read_keys) == keys
    assert not list((tmp_path / "data" / "keys").glob("*.key"))
    back = configure(tmp_path / "data", f"sqlite:///{tmp_path}/back.db")
    returned = move_database(url, back.database, clock, ignore)
    assert returned.journal_head >= moved.journal_head
    back = configure(tmp_path / "data", back.database, TROTH_KEYSTORE_DRIVER="database")
    assert serve(back, clock, read_keys) == keys
