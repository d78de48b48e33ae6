"""What every workload attestor promises, with real processes, sockets and kernel credentials."""

import hashlib
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from troth.core.errors import Denied, Invalid
from troth.drivers.attestors import BUILT_IN, Examination, Peer, attest_peer, load_attestors
from troth.identity.selectors import Selector, find_weakness, match_selectors

SO_PEERPIDFD = 77  # Linux 6.5; Python's socket module has no name for it yet
OTHER_UID = 54321
SLEEP = Path(shutil.which("sleep") or "/bin/sleep").resolve()

ATTACKER = """
import os, socket, sys
address, uid = sys.argv[1], int(sys.argv[2])
if uid != os.getuid():
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
connection = socket.socket(socket.AF_UNIX)
connection.connect("\\0" + address)
gone, stays = os.pipe()                  # both close on exec, so the child reads the end then
if os.fork() == 0:
    os.close(stays)
    os.read(gone, 1)                     # the parent is the honest program now
    connection.sendall(b"x")
    connection.recv(1)
    os._exit(0)
os.execv(sys.argv[3], [sys.argv[3], "600"])
"""


def owner_peer(pid: int, pidfd: int = -1) -> Peer:
    return Peer(pid, os.getuid(), os.getgid(), pidfd)


def peer_of(connection: socket.socket) -> Peer:
    """What the agent reads when a workload connects."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = struct.unpack("3i", credentials)
    try:
        pidfd = struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))[0]
    except OSError:  # before Linux 6.5
        pidfd = -1
    return Peer(pid, uid, gid, pidfd)


@pytest.fixture(params=sorted(BUILT_IN))
def name(request):
    return request.param


@pytest.fixture
def started():
    """Start a program; it is ended, by its pid, when the test is over."""
    running = []

    def start(*command, **options):
        process = subprocess.Popen([str(part) for part in command], **options)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def load(name: str, during=lambda: None):
    (attestor,) = load_attestors([name], wait=lambda _: during())
    return attestor


@pytest.fixture(params=["pidfd", "no-pidfd"])
def peer_for(request):
    """Peers as kernels with and without SO_PEERPIDFD tell them."""
    opened = []

    def make(pid: int) -> Peer:
        if request.param == "no-pidfd":
            return owner_peer(pid)
        opened.append(os.pidfd_open(pid))
        return owner_peer(pid, opened[-1])

    yield make
    for pidfd in opened:
        os.close(pidfd)


def test_a_driver_has_its_registered_name(name):
    assert load(name).name == name


def test_selectors_are_known_unique_and_the_same_each_time(name, started, peer_for):
    peer = peer_for(started(SLEEP, 600).pid)
    attestor = load(name)
    texts = attestor.attest(peer)
    assert isinstance(texts, tuple)
    assert len({Selector.parse(text).key for text in texts}) == len(texts)
    assert attestor.attest(peer) == texts


def test_a_process_that_has_exited_is_denied(name, started, peer_for):
    process = started(SLEEP, 600)
    peer = peer_for(process.pid)
    process.kill()
    process.wait()
    with pytest.raises(Denied, match="has exited; connect again"):
        load(name).attest(peer)


@pytest.mark.parametrize("reaped", [True, False])
def test_a_process_that_exits_meanwhile_is_denied(name, started, peer_for, reaped):
    process = started(SLEEP, 600)
    peer = peer_for(process.pid)

    def end():
        process.kill()
        if reaped:
            process.wait()
        else:  # it stays as a zombie, whose number and start time are still there
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    with pytest.raises(Denied, match="has exited; connect again"):
        load(name, end).attest(peer)


def test_a_process_out_of_sight_is_no_crash(name):
    assert all(
        text.startswith(("unix:uid:", "unix:gid:")) for text in load(name).attest(Peer(0, 7, 8))
    )


def test_a_kernel_thread_is_no_crash(name):
    if not Path("/proc/2/comm").exists():
        pytest.skip("no kernel threads to be seen from here")
    texts = load(name).attest(Peer(2, 0, 0))
    assert not any(text.startswith(("unix:path:", "unix:sha256:")) for text in texts)


def test_many_threads_get_the_same_answer_and_leave_no_descriptor_open(name, started):
    peer = owner_peer(started(SLEEP, 600).pid)
    attestor = load(name)
    expected = attestor.attest(peer)
    before = len(os.listdir("/proc/self/fd"))
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(attestor.attest(peer))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 8
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_unknown_driver_is_refused_with_the_known_names():
    with pytest.raises(Invalid, match=r"no workload attestor 'tpm'; known: unix, cgroup"):
        load_attestors(["tpm"])


def test_the_program_and_its_owner(started, peer_for):
    attested = attest_peer(load_attestors(), peer_for(started(SLEEP, 600).pid), lambda _: None)
    assert Selector("unix:uid", str(os.getuid())) in attested
    assert Selector("unix:path", str(SLEEP)) in attested
    digest = hashlib.sha256(SLEEP.read_bytes()).hexdigest()
    assert Selector("unix:sha256", digest) in attested


def test_one_denial_spoils_all_that_was_proved():
    class Broken:
        name = "broken"

        def examine(self, peer: Peer) -> Examination:
            yield
            raise Denied("gone")

        def attest(self, peer: Peer) -> tuple[str, ...]:
            raise AssertionError("not called")

    class Fine:
        name = "fine"

        def examine(self, peer: Peer) -> Examination:
            yield
            return ("unix:uid:1",)

        def attest(self, peer: Peer) -> tuple[str, ...]:
            raise AssertionError("not called")

    waits: list[float] = []
    assert attest_peer([Fine()], Peer(1, 1, 1), waits.append) == {Selector("unix:uid", "1")}
    with pytest.raises(Denied):
        attest_peer([Fine(), Broken()], Peer(1, 1, 1), waits.append)
    assert waits == [0.02, 0.02]


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_program_whose_file_was_taken_away_has_no_path_and_no_digest(
    tmp_path, started, peer_for, how
):
    program = tmp_path / "workload"
    shutil.copy(SLEEP, program)
    process = started(program, 600)
    peer = peer_for(process.pid)
    assert f"unix:path:{program}" in load("unix").attest(peer)
    if how == "deleted":
        program.unlink()
    else:
        shutil.copy(SLEEP, tmp_path / "new")
        (tmp_path / "new").rename(program)
    assert load("unix").attest(peer) == (f"unix:uid:{os.getuid()}", f"unix:gid:{os.getgid()}")


def test_exec_between_the_two_looks_is_denied(started, peer_for):
    script = (
        "import os, sys\n"
        "os.set_inheritable(int(sys.argv[1]), False)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "os.execv(sys.argv[2], [sys.argv[2], '600'])\n"
    )
    gone, stays = os.pipe()
    process = started(
        sys.executable, "-c", script, stays, SLEEP,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[stays],
    )  # fmt: skip
    os.close(stays)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()

    def make_it_exec():
        process.stdin.write(b"\n")
        process.stdin.flush()
        os.read(gone, 1)  # ends when the exec closes the other side

    try:
        with pytest.raises(Denied, match="changed its program"):
            load("unix", make_it_exec).attest(peer_for(process.pid))
    finally:
        os.close(gone)


def attest_attacker(started, uid: int) -> frozenset[Selector]:
    """Connect, leave the socket to a child, become the honest program: what is attested then?"""
    with closing(socket.socket(socket.AF_UNIX)) as server:
        address = f"troth-test-{secrets.token_hex(8)}"
        server.bind("\0" + address)  # no file, so that any uid may connect
        server.listen()
        server.settimeout(20)
        process = started(sys.executable, "-c", ATTACKER, address, uid, SLEEP)
        connection, _ = server.accept()
        with closing(connection):
            connection.settimeout(20)
            assert connection.recv(1) == b"x"
            peer = peer_of(connection)
            assert peer.pid == process.pid
            try:
                attested = attest_peer(load_attestors(), peer, lambda _: None)
                connection.sendall(b"identity of somebody else")  # the child would get it
            finally:
                if peer.pidfd >= 0:
                    os.close(peer.pidfd)
    return attested


def test_the_hash_alone_is_not_safe_under_one_uid(started):
    """The known limit: the attacker gets the honest program's path and digest.

    Nothing in /proc can tell, since the process that connected *is* the honest program by the
    time it is looked at. Therefore a registration that rests on the program alone is a warning.
    """
    attested = attest_attacker(started, os.getuid())
    honest = Selector("unix:sha256", hashlib.sha256(SLEEP.read_bytes()).hexdigest())
    assert match_selectors([honest], attested).complete
    assert match_selectors([Selector("unix:path", str(SLEEP))], attested).complete
    weakness = find_weakness([honest])
    assert weakness is not None
    assert "another program under the same uid can pass for it" in weakness


def test_the_uid_holds_in_the_same_race(started):
    attested = attest_attacker(started, os.getuid())
    assert {s for s in attested if s.key == "unix:uid"} == {Selector("unix:uid", str(os.getuid()))}
    other = [Selector("unix:uid", str(OTHER_UID)), Selector("unix:path", str(SLEEP))]
    assert not match_selectors(other, attested).complete


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="starts a process under another uid")
def test_another_uid_gains_nothing_by_borrowing_the_program(started):
    honest = Selector("unix:sha256", hashlib.sha256(SLEEP.read_bytes()).hexdigest())
    attested = attest_attacker(started, OTHER_UID)
    assert honest in attested
    assert Selector("unix:uid", str(OTHER_UID)) in attested
    match = match_selectors([Selector("unix:uid", "0"), honest], attested)
    assert not match.complete
    assert match.missing == (Selector("unix:uid", "0"),)


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="looks at root's process from another uid")
def test_an_agent_without_rights_sees_the_owner_alone(started):
    script = (
        "import os, sys\n"
        "from troth.drivers.attestors import Peer, load_attestors\n"
        "attestors = load_attestors(wait=lambda _: None)\n"
        "os.setgroups([]); os.setgid(54321); os.setuid(54321)\n"
        "for attestor in attestors:\n"
        "    print(*attestor.attest(Peer(int(sys.argv[1]), 0, 0)), sep='\\n')\n"
    )
    process = started(SLEEP, 600)
    done = subprocess.run(
        [sys.executable, "-c", script, str(process.pid)],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    found = set(done.stdout.split())
    assert {"unix:uid:0", "unix:gid:0"} <= found
    assert not any(text.startswith(("unix:path", "unix:sha256")) for text in found)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
