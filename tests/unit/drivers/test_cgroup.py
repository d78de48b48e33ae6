"""The cgroup attestor: what is believed, and what a user could have made up."""

import pytest

from tests.fakes.procfs import PEER, UID, FakeProc
from troth.core.errors import Denied
from troth.drivers.attestors import Peer
from troth.drivers.attestors.cgroup import find_selectors, open_attestor

ID = "0123456789abcdef" * 4
EVIL = "f" * 64
POD = "pod11111111-2222-3333-4444-555555555555"
POD_SLICE = "kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice"

BELIEVED = [
    ("/system.slice/payments.service", ["systemd:unit:payments.service"]),
    ("/system.slice/system-pay.slice/pay@1.service", ["systemd:unit:pay@1.service"]),
    (r"/system.slice/pay\x2dapi.service", [r"systemd:unit:pay\x2dapi.service"]),
    ("/init.scope", ["systemd:unit:init.scope"]),
    ("/user.slice/user-1000.slice/session-3.scope", ["systemd:unit:session-3.scope"]),
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice/payments.service",
        ["systemd:unit:user@1000.service"],
    ),
    ("/system.slice/payments.service/evil.service", ["systemd:unit:payments.service"]),
    (
        f"/system.slice/docker-{ID}.scope",
        [f"systemd:unit:docker-{ID}.scope", f"container:id:{ID}"],
    ),
    (
        f"/system.slice/docker-{ID}.scope/system.slice/evil.service",
        [f"systemd:unit:docker-{ID}.scope", f"container:id:{ID}"],
    ),
    (
        f"/machine.slice/libpod-{ID}.scope/container",
        [f"systemd:unit:libpod-{ID}.scope", f"container:id:{ID}"],
    ),
    (
        f"/kubepods.slice/kubepods-burstable.slice/{POD_SLICE}/cri-containerd-{ID}.scope",
        [f"systemd:unit:cri-containerd-{ID}.scope", f"container:id:{ID}"],
    ),
    (
        f"/kubepods.slice/{POD_SLICE}/crio-{ID}.scope",
        [f"systemd:unit:crio-{ID}.scope", f"container:id:{ID}"],
    ),
    (f"/docker/{ID}", [f"container:id:{ID}"]),
    (f"/docker/{ID}/system.slice/evil.service", [f"container:id:{ID}"]),
    (f"/docker/{ID}/docker/{EVIL}", [f"container:id:{ID}"]),
    (f"/libpod_parent/libpod-{ID}", [f"container:id:{ID}"]),
    (f"/kubepods/{POD}/{ID}", [f"container:id:{ID}"]),
    (f"/kubepods/burstable/{POD}/{ID}", [f"container:id:{ID}"]),
    (f"/kubepods/besteffort/{POD}/{ID}/inner", [f"container:id:{ID}"]),
    (
        f"/system.slice/containerd.service/{POD_SLICE}:cri-containerd:{ID}",
        ["systemd:unit:containerd.service", f"container:id:{ID}"],
    ),
]

MADE_UP = [
    "/",
    "",
    "/payments",
    "/custom/payments.service",
    "/system.slice",
    "/system.slice/not-a-unit/payments.service",
    "/system.slice/.service",
    "/system.slice/pay ments.service",
    "/../payments.service",
    "/../../system.slice/payments.service",
    f"/../docker-{EVIL}.scope",
    "/system.slice/payments.service (deleted)",
    f"/docker/{EVIL.upper()}",
    f"/docker/{EVIL}0",
    f"/docker/{EVIL[:63]}",
    f"/docker/x/{EVIL}",
    f"/kubepods/{EVIL}",
    f"/kubepods/burstable/pod/{EVIL}",
    f"/evil/docker/{EVIL}",
]

USERS_OWN = [
    f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{EVIL}.scope",
    f"/user.slice/user-1000.slice/user@1000.service/docker-{EVIL}.scope",
    f"/user.slice/user-1000.slice/user@1000.service/docker/{EVIL}",
    "/user.slice/user-1000.slice/user@1000.service/system.slice/payments.service",
]


@pytest.fixture
def proc(tmp_path):
    return FakeProc(tmp_path)


@pytest.mark.parametrize(("path", "selectors"), BELIEVED)
def test_paths_that_only_root_can_make(path, selectors):
    assert list(find_selectors(f"0::{path}\n".encode())) == selectors
    v1 = f"4:memory:/x\n1:name=systemd:{path}\n0::/\n".encode()
    assert list(find_selectors(v1)) == selectors


@pytest.mark.parametrize("path", MADE_UP)
def test_paths_that_prove_nothing(path):
    assert find_selectors(f"0::{path}\n".encode()) == ()


@pytest.mark.parametrize("path", USERS_OWN)
def test_below_a_users_own_unit_nothing_counts_but_that_unit(path):
    assert find_selectors(f"0::{path}\n".encode()) == ("systemd:unit:user@1000.service",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"garbage",
        b"0::/system.slice/\xff.service\n",
        b"0:memory:/system.slice/a.service\n",
        b"1:memory:/system.slice/a.service\n",
        b"2:cpu,name=systemd:/system.slice/a.service\n",
    ],
)
def test_other_lines_prove_nothing(data):
    assert find_selectors(data) == ()


def test_the_unified_path_wins_over_the_old_one():
    data = b"1:name=systemd:/system.slice/old.service\n0::/system.slice/new.service\n"
    assert find_selectors(data) == ("systemd:unit:new.service",)


def test_an_attested_process(proc):
    attestor = open_attestor(proc=proc.root, wait=lambda _: None)
    assert attestor.attest(PEER) == ("systemd:unit:payments.service",)
    assert attestor.attest(Peer(0, UID, UID)) == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda proc: proc.set_cgroup("0::/system.slice/other.service\n"), "another control group"),
        (lambda proc: proc.exit(), "has exited"),
        (lambda proc: proc.set_stat(started=1), "replaced by another"),
        (lambda proc: proc.set_uid(0), "changed its user"),
    ],
)
def test_a_change_between_the_looks_is_denied(proc, change, reason):
    attestor = open_attestor(proc=proc.root, wait=lambda _: change(proc))
    with pytest.raises(Denied, match=reason):
        attestor.attest(PEER)
