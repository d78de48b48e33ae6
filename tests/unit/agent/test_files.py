from __future__ import annotations

import asyncio
import os
import signal
import ssl
import stat
import sys

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_crl

from tests.fakes.server import make_entry, run_node
from tests.fakes.source import in_loop
from troth.agent.files import CURRENT, Files, FileTarget, write_version
from troth.agent.reload import CommandReload, SignalReload, request_reload
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


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give the key to another uid")
def test_the_key_belongs_to_the_target_before_it_has_content(tmp_path):
    target = make_target(tmp_path, uid=4711, gid=4712, mode=0o640)
    write_version(target, VERSION, {"svid_key.pem": b"key", "svid.pem": b"chain"})
    found = (target.directory / "svid_key.pem").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (4711, 4712, 0o640)
    assert (target.directory / "svid.pem").stat().st_uid == 0


async def start_sleeper(tmp_path):
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGHUP, lambda *a: (print('reloaded', flush=True), sys.exit()))\n"
        "print('ready', flush=True)\n"
        "signal.pause()"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=-1)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    pid_file = tmp_path / "child.pid"
    pid_file.write_text(f"{child.pid}\n")
    return child, SignalReload(signal.SIGHUP, pid_file)


@in_loop
async def test_the_reload_signal_reaches_the_process_of_the_pid_file(tmp_path):
    child, reload = await start_sleeper(tmp_path)
    await request_reload(reload, UID)
    assert await child.stdout.readline() == b"reloaded\n"
    await child.wait()


@in_loop
async def test_a_pid_file_that_names_anothers_process_signals_nobody(tmp_path, capsys):
    child, reload = await start_sleeper(tmp_path)
    try:
        await request_reload(reload, UID + 1)
        assert f"belongs to uid {UID}" in capsys.readouterr().out
        assert child.returncode is None
    finally:
        child.kill()
        await child.wait()


@pytest.mark.parametrize("content", ["", "-1", "0", "1", "rubbish", "999999999"])
@in_loop
async def test_a_broken_pid_file_is_told_and_hurts_nobody(tmp_path, capsys, content):
    pid_file = tmp_path / "pid"
    pid_file.write_text(content)
    await request_reload(SignalReload(signal.SIGKILL, pid_file), UID)
    assert "files.reload_failed" in capsys.readouterr().out


@in_loop
async def test_a_reload_command_runs_after_each_change_and_its_failure_is_told(tmp_path, capsys):
    done = tmp_path / "done"
    target = make_target(tmp_path, reload=CommandReload(("touch", str(done))))
    async with run_node(make_entry("web", MINE)) as node:
        deliver(node, target)
        await finish_writing(node, done.exists)
    await request_reload(CommandReload(("false",)), UID)
    assert "exited with 1" in capsys.readouterr().out
    await request_reload(CommandReload(("/does/not/exist",)), UID)
    assert "No such file" in capsys.readouterr().out
