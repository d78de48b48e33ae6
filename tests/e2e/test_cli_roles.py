"""Who may do what on the admin socket: another user without a role, and with one."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import NOBODY, Server, make_environ, open_folder
from troth.wire.api.identities import NameIdentity

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root to run commands as another user"),
]

UNABLE = 77
AS_USER = Path(__file__).parent / "programs" / "as_user.py"


@pytest.fixture(scope="module")
def settings() -> str:
    return f'[roles.uids]\n{NOBODY} = "auditor"\n'


def run_as(uid: int, troth: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(AS_USER), str(uid), *arguments, "--data", str(troth.data)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd="/",
        env=make_environ(),
    )
    if done.returncode == UNABLE:
        pytest.skip("Python lies where other users can't read it")
    return done


def test_without_a_role_the_socket_stays_shut(lone_troth):
    troth = lone_troth.start()
    assert stat.S_IMODE((troth.data / "admin.sock").stat().st_mode) == 0o600
    for arguments in (("ps",), ("journal", "tail"), ("token", "join", "--node", "mine")):
        done = run_as(NOBODY, troth, *arguments)
        assert done.returncode == 1, done.stderr
        assert f"You may not open {troth.data}/admin.sock" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_an_auditor_reads_and_changes_nothing(troth):
    troth.register("watched", "unix:uid:4242")
    assert stat.S_IMODE((troth.data / "admin.sock").stat().st_mode) == 0o666
    listed = run_as(NOBODY, troth, "ps", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "watched" in listed.stdout
    assert run_as(NOBODY, troth, "journal", "tail").returncode == 0

    for arguments in (
        ("identity", "quarantine", "watched", "--reason", "mischief"),
        ("token", "join", "--node", "mine"),
    ):
        done = run_as(NOBODY, troth, *arguments, "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["code"] == "permission_denied"
        assert "this caller has auditor" in done.stderr
        assert "Traceback" not in done.stderr
    assert troth.call("identity.show", NameIdentity(name="watched")).state == "active"
    assert not troth.read_journal("identity.quarantined")


def test_a_user_without_a_role_is_told_so_when_others_have_one(troth):
    done = run_as(NOBODY - 1, troth, "ps")
    assert done.returncode == 1
    assert f"uid {NOBODY - 1} has no role on the admin socket" in done.stderr


def test_no_server_is_another_exit_code():
    with open_folder() as folder:
        done = run_as(NOBODY, Server(folder), "ps")
    assert done.returncode == 3
    assert "No server answers at" in done.stderr
