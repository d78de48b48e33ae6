"""Reload signals and commands: who may be told, what a pid file may hold, how long it may take."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.fakes.processes import as_root, await_end
from tests.fakes.source import in_loop
from troth.agent.reload import CommandReload, SignalReload, request_reload

UID = os.getuid()


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
    pid_file.chmod(0o644)
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


@pytest.mark.parametrize(
    "content", ["", "-1", "0", "1", "rubbish", "999999999", "9" * 40, "9" * 63]
)
@in_loop
async def test_a_broken_pid_file_is_told_and_hurts_nobody(tmp_path, capsys, content):
    pid_file = tmp_path / "pid"
    pid_file.write_text(content)
    pid_file.chmod(0o644)
    await request_reload(SignalReload(signal.SIGKILL, pid_file), UID)
    assert "files.reload_failed" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["fifo", "directory", "symlink", "device"])
@in_loop
async def test_a_pid_file_that_is_none_is_told_and_blocks_nothing(tmp_path, capsys, kind):
    child, reload = await start_sleeper(tmp_path)
    real = reload.pid_file.rename(tmp_path / "real")
    match kind:
        case "fifo":
            os.mkfifo(reload.pid_file)
        case "directory":
            reload.pid_file.mkdir()
        case "symlink":
            reload.pid_file.symlink_to(real)
        case _:
            reload = SignalReload(signal.SIGHUP, Path("/dev/zero"))
    try:
        async with asyncio.timeout(5):
            await request_reload(reload, UID)
        assert "files.reload_failed" in capsys.readouterr().out
        assert child.returncode is None
    finally:
        child.kill()
        await child.wait()


@pytest.mark.parametrize("mode", [0o666, 0o664])
@in_loop
async def test_a_pid_file_that_others_can_write_signals_nobody(tmp_path, capsys, mode):
    child, reload = await start_sleeper(tmp_path)
    reload.pid_file.chmod(mode)
    try:
        await request_reload(reload, UID)
        assert "could have written" in capsys.readouterr().out
        assert child.returncode is None
    finally:
        child.kill()
        await child.wait()


@as_root
@in_loop
async def test_a_pid_file_of_another_user_signals_nobody(tmp_path, capsys):
    child, reload = await start_sleeper(tmp_path)
    os.chown(reload.pid_file, 4711, 4711)
    try:
        await request_reload(reload, UID)
        assert "could have written" in capsys.readouterr().out
        assert child.returncode is None
    finally:
        child.kill()
        await child.wait()


@as_root
@in_loop
async def test_a_process_with_more_rights_than_the_target_is_no_target(tmp_path, capsys):
    code = (
        "import os, sys\n"
        "os.setresuid(0, 4711, 0)\n"  # as in a setuid program: /proc shows the effective uid
        "print('ready', flush=True)\n"
        "sys.stdin.read()"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=-1, stdout=-1)
    try:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"
        pid_file = tmp_path / "pid"
        pid_file.write_text(str(child.pid))
        pid_file.chmod(0o644)
        await request_reload(SignalReload(signal.SIGKILL, pid_file), 4711)
        assert "belongs to uid 0, 4711" in capsys.readouterr().out
        assert child.returncode is None
    finally:
        child.kill()
        await child.wait()


@in_loop
async def test_a_command_has_a_bounded_time_and_takes_its_children_along(tmp_path, capsys):
    group = tmp_path / "group"
    script = f"echo $$ > {group}; sleep 1000 & wait"
    waiting = asyncio.create_task(request_reload(CommandReload(("sh", "-c", script)), UID, 0.3))
    await waiting
    assert "longer than 0.3 s" in capsys.readouterr().out
    if group.exists():
        await_end(int(group.read_text()))


@in_loop
async def test_a_command_that_fails_is_told(capsys):
    await request_reload(CommandReload(("false",)), UID)
    assert "exited with 1" in capsys.readouterr().out
    await request_reload(CommandReload(("/does/not/exist",)), UID)
    assert "No such file" in capsys.readouterr().out
