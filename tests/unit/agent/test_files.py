from __future__ import annotations

import asyncio
import os
import re
import ssl
import stat
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_crl

from tests.fakes.processes import as_root, await_end, list_group
from tests.fakes.server import make_entry, run_node
from tests.fakes.source import in_loop
from troth.agent import files
from troth.agent.files import CURRENT, Files, FileTarget, write_version
from troth.agent.reload import CommandReload
from troth.core.errors import Invalid, Refused, Unavailable

UID, GID = os.getuid(), os.getgid()
MINE = f"unix:uid:{UID}"
VERSION = "v0123456789abcdef"


def make_target(folder, **changes):
    values = {"identity": "web", "directory": folder / "tls", "uid": UID, "gid": GID}
    return FileTarget(**(values | changes))


async def finish_writing(node, condition):
    """Files are written in a thread: let it finish, without much virtual time passing."""
    await node.settle()
    while not condition():
        await node.time.advance(0.001)
        await asyncio.to_thread(os.sched_yield)


def deliver(node, target):
    node.start(Files(target, node.sync, node.workloads, node.entropy, node.time.sleep).run())


@in_loop
async def test_the_files_are_a_set_that_other_programs_can_use(tmp_path):
    target = make_target(tmp_path)
    async with run_node(make_entry("web", MINE)) as node:
        deliver(node, target)
        await finish_writing(node, (target.directory / "svid.pem").exists)
        where = target.directory
        links = {path.name for path in where.iterdir() if path.is_symlink() and path.exists()}
        assert links == {"bundle.pem", "crl.pem", CURRENT, "svid.pem", "svid_key.pem"}
        leaf = load_pem_x509_certificate((where / "svid.pem").read_bytes())
        key = load_pem_private_key((where / "svid_key.pem").read_bytes(), None)
        assert leaf.public_key() == key.public_key()
        load_pem_x509_crl((where / "crl.pem").read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(where / "svid.pem", where / "svid_key.pem")
        context.load_verify_locations(where / "bundle.pem")
        mode = (where / "svid_key.pem").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
        assert stat.S_IMODE((where / "svid.pem").stat().st_mode) == 0o644
        request = node.server.requests("certificate.issue")[0].requests[0]
        assert request.instance.selectors == [MINE]
        assert request.instance.pid == 0


@in_loop
async def test_rotation_switches_the_whole_set_and_keeps_one_version_back(tmp_path):
    target = make_target(tmp_path)
    async with run_node(make_entry("web", MINE)) as node:
        deliver(node, target)
        where = target.directory
        await finish_writing(node, (where / "svid.pem").exists)
        seen = [(where / CURRENT).readlink()]
        for _ in range(3):
            await node.time.advance(1981)
            await finish_writing(node, lambda: (where / CURRENT).readlink() != seen[-1])
            seen.append((where / CURRENT).readlink())
        await finish_writing(node, lambda: len(list(where.glob("v*"))) == 2)
        assert {path.name for path in where.glob("v*")} == {str(path) for path in seen[-2:]}


@in_loop
async def test_withdrawal_removes_every_key_and_release_brings_a_new_one(tmp_path):
    target = make_target(tmp_path)
    async with run_node(make_entry("web", MINE)) as node:
        deliver(node, target)
        where = target.directory
        await finish_writing(node, (where / "svid_key.pem").exists)
        old = (where / "svid_key.pem").read_bytes()
        node.server.quarantine("web")
        await finish_writing(node, (where / "withdrawn").exists)
        await finish_writing(node, lambda: not list(where.glob("v*/svid_key.pem")))
        assert not (where / "svid_key.pem").exists()
        assert not (where / "svid.pem").exists()
        assert (where / "withdrawn").read_bytes() == b""
        assert (where / "bundle.pem").exists()
        node.server.change("web", state="active")
        await finish_writing(node, (where / "svid_key.pem").exists)
        assert not (where / "withdrawn").exists()
        assert (where / "svid_key.pem").read_bytes() != old


@in_loop
async def test_an_identity_that_asks_for_more_than_the_uid_gets_no_files(tmp_path):
    target = make_target(tmp_path)
    async with run_node(make_entry("web", MINE, "unix:path:/usr/bin/web")) as node:
        deliver(node, target)
        await finish_writing(node, (target.directory / "withdrawn").exists)
        assert node.server.count()["certificate.issue"] == 0
        node.server.put(make_entry("web", MINE))
        await finish_writing(node, (target.directory / "svid.pem").exists)


@in_loop
async def test_only_the_named_identity_is_written(tmp_path):
    target = make_target(tmp_path)
    async with run_node(make_entry("api", MINE), make_entry("web", MINE)) as node:
        deliver(node, target)
        await finish_writing(node, (target.directory / "svid.pem").exists)
        asked = [
            r.identity_id for b in node.server.requests("certificate.issue") for r in b.requests
        ]
        assert asked == ["idn_web"]


@in_loop
async def test_while_the_server_is_away_the_files_of_the_last_run_stay(tmp_path):
    target = make_target(tmp_path)
    write_version(target, VERSION, {"svid.pem": b"old", "svid_key.pem": b"old"})
    async with run_node(make_entry("web", MINE)) as node:
        node.server.failure = Unavailable("away")
        deliver(node, target)
        await node.time.advance(120)
        assert (target.directory / "svid_key.pem").read_bytes() == b"old"


@in_loop
async def test_a_directory_that_cannot_be_written_is_tried_again(tmp_path):
    target = make_target(tmp_path)
    target.directory.write_text("a file is in the way")
    async with run_node(make_entry("web", MINE)) as node:
        deliver(node, target)
        await node.settle()
        await asyncio.to_thread(lambda: None)
        target.directory.unlink()
        node.server.publish()
        await finish_writing(node, (target.directory / "svid.pem").exists)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o702])
def test_a_directory_where_others_can_write_is_refused(tmp_path, mode):
    target = make_target(tmp_path)
    target.directory.mkdir()
    target.directory.chmod(mode)
    with pytest.raises(Refused, match="nobody else may write there"):
        write_version(target, VERSION, {"svid.pem": b""})
    assert list(target.directory.iterdir()) == []


def test_a_symlink_in_place_of_the_directory_is_not_followed(tmp_path):
    target = make_target(tmp_path)
    (tmp_path / "real").mkdir()
    target.directory.symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="tls"):
        write_version(target, VERSION, {"svid.pem": b""})
    assert list((tmp_path / "real").iterdir()) == []


def test_a_crash_before_the_switch_leaves_the_old_set(tmp_path, monkeypatch):
    target = make_target(tmp_path)
    write_version(target, VERSION, {"svid.pem": b"old", "svid_key.pem": b"old key"})

    def crash(*args, **kwargs):
        raise OSError("power failure")

    with monkeypatch.context() as patched:
        patched.setattr(os, "symlink", crash)
        with pytest.raises(OSError, match="power failure"):
            write_version(target, VERSION.replace("0", "1"), {"svid.pem": b"new"})
    assert (target.directory / "svid.pem").read_bytes() == b"old"
    assert (target.directory / "svid_key.pem").read_bytes() == b"old key"
    write_version(target, VERSION.replace("0", "2"), {"svid.pem": b"new"})
    assert (target.directory / "svid.pem").read_bytes() == b"new"
    assert len(list(target.directory.glob("v*"))) == 1


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o707])
def test_a_place_that_others_can_write_to_is_refused_and_mended(tmp_path, mode):
    above = tmp_path / "app"
    (above / "run").mkdir(parents=True)
    target = make_target(above / "run")
    above.chmod(mode)
    with pytest.raises(Refused, match=re.escape(f"run: chmod go-w {above}")):
        write_version(target, VERSION, {"svid.pem": b""})
    assert not target.directory.exists()
    above.chmod(0o1777)  # there nobody can rename what isn't theirs
    write_version(target, VERSION, {"svid.pem": b""})


@as_root
def test_a_place_of_the_workload_s_own_is_refused_and_mended(tmp_path):
    above = tmp_path / "app"
    above.mkdir()
    os.chown(above, 4711, 4711)
    target = make_target(above, uid=4711)
    with pytest.raises(Refused, match=re.escape(f"{above} belongs to uid 4711")) as caught:
        write_version(target, VERSION, {"svid.pem": b""})
    assert f"run: chown 0 {above}" in caught.value.detail
    assert not target.directory.exists()


@as_root
def test_a_directory_of_the_workload_s_own_is_refused(tmp_path):
    target = make_target(tmp_path, uid=4711)
    target.directory.mkdir()
    os.chown(target.directory, 4711, 4711)
    with pytest.raises(Refused, match="must belong to the agent's user"):
        write_version(target, VERSION, {"svid.pem": b""})


def test_a_symlink_that_takes_the_fresh_directory_s_place_changes_nothing_else(
    tmp_path, monkeypatch
):
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    target = make_target(tmp_path)
    mkdir = os.mkdir

    def lose_the_race(path, mode=0o777, *, dir_fd=None):
        mkdir(path, mode, dir_fd=dir_fd)
        if os.fspath(path) in (str(target.directory), target.directory.name):
            target.directory.rmdir()
            target.directory.symlink_to(victim)

    monkeypatch.setattr(os, "mkdir", lose_the_race)
    with pytest.raises(OSError, match="tls"):
        write_version(target, VERSION, {"svid.pem": b""})
    assert stat.S_IMODE(victim.stat().st_mode) == 0o700
    assert list(victim.iterdir()) == []


def test_an_administrator_s_symlinks_on_the_way_are_followed(tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "relative").symlink_to("absolute/deep")
    write_version(make_target(tmp_path / "relative"), VERSION, {"svid.pem": b"x"})
    assert (tmp_path / "real/deep/tls/svid.pem").read_bytes() == b"x"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(Refused, match="Too many levels"):
        write_version(make_target(tmp_path / "loop"), VERSION, {})
    with pytest.raises(Refused, match=r"No such file.*Make it"):
        write_version(make_target(tmp_path / "missing"), VERSION, {})


@as_root
def test_a_stranger_s_symlink_on_the_way_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    os.chown(tmp_path / "link", 4711, 4711, follow_symlinks=False)
    with pytest.raises(Refused, match="link belongs to uid 4711"):
        write_version(make_target(tmp_path / "link"), VERSION, {})


def test_looking_for_a_place_leaves_no_descriptor_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "loop").symlink_to("loop")
    for folder in (tmp_path, tmp_path / "loop", tmp_path / "missing"):
        with suppress(Refused):
            write_version(make_target(folder), VERSION, {})
    assert len(os.listdir("/proc/self/fd")) == before


@in_loop
async def test_one_target_that_breaks_ends_nothing(tmp_path, monkeypatch, capsys):
    target = make_target(tmp_path)
    broken: list[object] = []

    def write(*args):
        if not broken:
            broken.append(args)
            raise RuntimeError("a bug")
        write_version(*args)

    monkeypatch.setattr(files, "write_version", write)
    async with run_node(make_entry("web", MINE)) as node:
        deliver(node, target)
        await finish_writing(node, lambda: broken)
        await finish_writing(node, lambda: "a bug" in capsys.readouterr().out)
        await node.time.advance(1)
        await finish_writing(node, (target.directory / "svid.pem").exists)


@in_loop
async def test_a_command_that_hangs_delays_no_withdrawal(tmp_path):
    started = tmp_path / "started"
    script = f"echo $$ >> {started}; sleep 1000 & wait"
    target = make_target(tmp_path, reload=CommandReload(("sh", "-c", script)))
    async with run_node(make_entry("web", MINE)) as node:
        deliver(node, target)
        await finish_writing(node, lambda: started.exists() and started.read_text())
        node.server.quarantine("web")
        await finish_writing(node, (target.directory / "withdrawn").exists)
        await finish_writing(node, lambda: not list(target.directory.glob("v*/svid_key.pem")))
        await finish_writing(node, lambda: len(started.read_text().split()) == 2)
        first, second = map(int, started.read_text().split())
        await_end(first)
        assert list_group(second)
    await_end(second)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o700, 0o200, 0o1600])
def test_a_key_that_others_could_read_is_refused(tmp_path, mode):
    with pytest.raises(Invalid, match="such as 0600 or 0640"):
        make_target(tmp_path, mode=mode).check()


def test_targets_are_checked(tmp_path, monkeypatch):
    make_target(tmp_path, mode=0o640).check()
    with pytest.raises(Invalid, match="absolute"):
        make_target(tmp_path, directory=tmp_path.relative_to(tmp_path)).check()
    monkeypatch.setattr(os, "geteuid", lambda: UID + 1)
    with pytest.raises(Invalid, match="Only root"):
        make_target(tmp_path).check()


@as_root
def test_the_key_belongs_to_the_target_before_it_has_content(tmp_path):
    target = make_target(tmp_path, uid=4711, gid=4712, mode=0o640)
    write_version(target, VERSION, {"svid_key.pem": b"key", "svid.pem": b"chain"})
    found = (target.directory / "svid_key.pem").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (4711, 4712, 0o640)
    assert (target.directory / "svid.pem").stat().st_uid == 0


@in_loop
async def test_a_reload_command_runs_after_each_change(tmp_path):
    done = tmp_path / "done"
    target = make_target(tmp_path, reload=CommandReload(("touch", str(done))))
    async with run_node(make_entry("web", MINE)) as node:
        deliver(node, target)
        await finish_writing(node, done.exists)
