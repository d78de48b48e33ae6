import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.fakes.procfs import PEER, PID, UID, FakeProc
from troth.core.errors import Denied
from troth.drivers.attestors import Peer
from troth.drivers.attestors.procfs import (
    PROC,
    UserChanged,
    read_boot_id,
    read_start_time,
    watch_process,
)


@pytest.fixture
def proc(tmp_path):
    return FakeProc(tmp_path)


@pytest.mark.parametrize(
    "name", ["sh", "a b", "a) R 1 2 (b", "((((", "))))", ") S 1 1 1 1 1", "", "\n)"]
)
def test_the_start_time_is_found_behind_any_name(proc, name):
    proc.set_stat(name, started=123456789)
    assert read_start_time(proc.root, PID) == 123456789


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_process_that_waits_for_its_parent_is_gone(proc, state):
    proc.set_stat(state=state)
    with pytest.raises(Denied, match="has exited"):
        read_start_time(proc.root, PID)


@pytest.mark.parametrize("text", ["", "4242", "4242 (x) S 1 2 3", "no brackets at all"])
def test_a_broken_stat_is_no_process(proc, text):
    proc.write(f"{PID}/stat", text)
    with pytest.raises(Denied):
        read_start_time(proc.root, PID)


def test_a_missing_process_is_denied_with_a_sentence(proc):
    proc.exit()
    with pytest.raises(Denied, match=r"has exited; connect again"):
        watch_process(proc.root, PEER)


def test_a_process_out_of_sight_is_not_watched(proc):
    assert watch_process(proc.root, Peer(0, UID, UID)) is None
    hidden = os.pidfd_open(os.getpid())
    try:
        assert watch_process(proc.root, Peer(999_999_999, UID, UID, hidden)) is None
    finally:
        os.close(hidden)


@pytest.mark.parametrize("with_pidfd", [False, True])
def test_the_user_must_still_be_the_one_that_connected(proc, with_pidfd):
    pidfd = os.pidfd_open(os.getpid()) if with_pidfd else -1
    peer = replace(PEER, pidfd=pidfd)
    try:
        watch = watch_process(proc.root, peer)
        assert watch is not None
        proc.set_uid(0)
        with pytest.raises(UserChanged, match="changed its user"):
            watch.check()
        with pytest.raises(UserChanged, match="changed its user"):
            watch_process(proc.root, peer)
    finally:
        if with_pidfd:
            os.close(pidfd)


def test_another_start_time_is_another_process(proc):
    watch = watch_process(proc.root, PEER)
    assert watch is not None
    watch.check()
    proc.set_stat(started=778)
    with pytest.raises(Denied, match="replaced by another"):
        watch.check()


def test_the_boot_id(proc):
    assert read_boot_id(proc.root) == "0f6d9b1c-1111-4222-8333-444455556666"
    assert len(read_boot_id(PROC)) == 36


def test_a_pidfd_tells_that_its_process_is_gone_even_if_the_number_lives(proc):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(child.pid)
    try:
        peer = Peer(PID, UID, UID, pidfd)
        watch = watch_process(proc.root, peer)
        assert watch is not None
        watch.check()
        child.communicate(b"\n", timeout=20)
        with pytest.raises(Denied, match="has exited"):
            watch.check()
    finally:
        child.kill()
        child.wait()
        os.close(pidfd)


def test_the_kernel_agrees_on_our_own_process():
    mine = read_start_time(PROC, os.getpid())
    assert mine > 0
    assert mine == read_start_time(PROC, os.getpid())
    with open("/proc/self/stat") as file:
        assert str(mine) in file.read().split()
