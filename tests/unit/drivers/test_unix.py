"""The unix attestor against a /proc that misbehaves at the chosen moment."""

import hashlib
import os

import pytest

from tests.fakes.procfs import GID, PEER, UID, FakeProc
from troth.core.errors import Denied
from troth.drivers.attestors import Peer
from troth.drivers.attestors.unix import HashCache, open_attestor

OWNER = (f"unix:uid:{UID}", f"unix:gid:{GID}")


@pytest.fixture
def proc(tmp_path):
    return FakeProc(tmp_path)


def attest(proc, during=lambda: None, peer=PEER, **settings):
    """Attest; `during` happens between the two looks."""
    return open_attestor(proc=proc.root, wait=lambda _: during(), **settings).attest(peer)


def sha256(data: bytes) -> str:
    return f"unix:sha256:{hashlib.sha256(data).hexdigest()}"


def test_owner_path_and_digest(proc):
    assert attest(proc) == (*OWNER, f"unix:path:{proc.program}", sha256(b"honest"))


def test_the_second_look_comes_after_the_delay(proc):
    asked: list[float] = []
    open_attestor(proc=proc.root, wait=asked.append).attest(PEER)
    assert asked == [0.02]


def test_a_program_larger_than_a_chunk(proc):
    data = os.urandom(3 << 20) + b"x"
    proc.program.write_bytes(data)
    assert attest(proc)[-1] == sha256(data)


def test_a_program_above_the_bound_is_not_hashed(proc):
    with proc.program.open("wb") as file:
        file.truncate((512 << 20) + 1)
    assert attest(proc) == (*OWNER, f"unix:path:{proc.program}")
    proc.program.write_bytes(b"12345")
    assert len(attest(proc, max_program=4)) == 3
    assert len(attest(proc, max_program=5)) == 4


def test_an_empty_program(proc):
    proc.program.write_bytes(b"")
    assert attest(proc)[-1] == sha256(b"")


@pytest.mark.parametrize("exists", [True, False])
def test_a_deleted_program_proves_nothing(proc, exists):
    gone = proc.program.with_name("program (deleted)")
    if exists:
        gone.write_bytes(b"honest")
    proc.run(gone)
    assert attest(proc) == OWNER


def test_a_program_that_may_not_be_looked_at_proves_nothing(proc):
    proc.run("/nowhere/at/all")
    assert attest(proc) == OWNER


def test_no_program_and_no_process_is_denied(proc):
    proc.run("/nowhere/at/all")
    proc.set_stat(state="Z")
    with pytest.raises(Denied, match="has exited"):
        attest(proc)


def test_a_pipe_instead_of_a_program_neither_blocks_nor_counts(proc):
    pipe = proc.program.with_name("pipe")
    os.mkfifo(pipe)
    proc.run(pipe)
    assert attest(proc) == (*OWNER, f"unix:path:{pipe}")


@pytest.mark.parametrize("name", ["new\nline", "esc\x1b[2J", b"latin\xe9"])
def test_a_path_that_no_registration_can_hold_is_left_out(proc, name):
    odd = proc.program.with_name(os.fsdecode(name))
    odd.write_bytes(b"odd")
    proc.run(odd)
    assert attest(proc) == (*OWNER, sha256(b"odd"))


def test_exec_between_the_looks_is_denied(proc):
    other = proc.program.with_name("other")
    other.write_bytes(b"honest")
    with pytest.raises(Denied, match="changed its program"):
        attest(proc, lambda: proc.run(other))


def test_a_rename_over_the_program_between_the_looks_is_denied(proc):
    def exchange():
        other = proc.program.with_name("other")
        other.write_bytes(b"evil")
        other.rename(proc.program)

    with pytest.raises(Denied, match="changed its program"):
        attest(proc, exchange)


def test_exit_between_the_looks_is_denied(proc):
    with pytest.raises(Denied, match="has exited"):
        attest(proc, proc.exit)


def test_a_successor_with_the_same_number_is_denied(proc):
    with pytest.raises(Denied, match="replaced by another"):
        attest(proc, lambda: proc.set_stat(started=9_999))


def test_a_file_written_between_the_looks_is_denied_and_not_remembered(proc):
    attestor = open_attestor(proc=proc.root, wait=lambda _: proc.program.write_bytes(b"evil!!"))
    with pytest.raises(Denied, match="being written"):
        attestor.attest(PEER)
    assert attest(proc)[-1] == sha256(b"evil!!")


def test_a_known_file_is_not_read_again_but_a_changed_one_is(proc, monkeypatch):
    attestor = open_attestor(proc=proc.root, wait=lambda _: None)
    first = attestor.attest(PEER)
    reads = []
    real = os.pread

    def count(*arguments):
        reads.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(os, "pread", count)
    assert attestor.attest(PEER) == first
    assert reads == []
    proc.program.write_bytes(b"honest, version 2")
    assert attestor.attest(PEER)[-1] == sha256(b"honest, version 2")
    assert reads


def test_the_same_size_and_time_of_modification_dont_fool_the_cache(proc):
    attestor = open_attestor(proc=proc.root, wait=lambda _: None)
    attestor.attest(PEER)
    kept = proc.program.stat()
    other = proc.program.with_name("other")
    other.write_bytes(b"wicked")
    os.utime(other, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    other.rename(proc.program)
    assert attestor.attest(PEER)[-1] == sha256(b"wicked")


def test_the_cache_forgets_the_one_not_asked_for_the_longest():
    cache = HashCache(2)
    a, b, c = ((0, n, 0, 0, 0) for n in range(3))
    cache.keep(a, "a")
    cache.keep(b, "b")
    assert cache.find(a) == "a"
    cache.keep(c, "c")
    assert (cache.find(a), cache.find(b), cache.find(c)) == ("a", None, "c")


def test_a_process_out_of_sight_has_its_owner_alone(proc):
    assert attest(proc, peer=Peer(0, UID, GID)) == OWNER


def test_strangers_of_our_user_namespace_prove_no_uid(proc):
    proc.write("self/uid_map", "0 100000 65536\n")
    proc.write("self/gid_map", "0 100000 65536\n")
    proc.write("sys/kernel/overflowuid", "65534\n")
    proc.write("sys/kernel/overflowgid", "65534\n")
    assert attest(proc, peer=Peer(0, 65534, 65534)) == ()
    assert attest(proc, peer=Peer(0, 7, 8)) == ("unix:uid:7", "unix:gid:8")


def test_nobody_is_somebody_where_all_users_are_known(proc):
    proc.write("sys/kernel/overflowuid", "65534\n")
    assert attest(proc, peer=Peer(0, 65534, 1)) == ("unix:uid:65534", "unix:gid:1")
