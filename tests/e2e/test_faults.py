"""Bad days: a full disk, a database that stands still, a clock that jumps. What must be recorded is
refused, what can be read is read, and service resumes without anybody's help."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from tests.e2e.processes import ClockedServer, Server, find_authority, open_folder, wait_for
from tests.fakes.postgres import Cluster, find_programs
from troth.core.errors import Unavailable
from troth.wire.api.identities import ListIdentities, NameIdentity

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]

MANY = 2000
"""Registrations that certainly don't fit into what is left."""


@contextmanager
def mount(place: Path, megabytes: int) -> Iterator[None]:
    """A small file system at `place`, with what was there in it."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs"]
    with open_folder() as folder:
        copy = folder / "copy"
        subprocess.run(["cp", "-a", str(place), str(copy)], check=True)
        mounted = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"mounting isn't allowed here: {mounted.stderr.strip()}")
        try:
            subprocess.run(["cp", "-a", f"{copy}/.", str(place)], check=True)
            yield
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def fill(place: Path) -> Iterator[None]:
    """Leave not a byte free on the file system of `place`, until the end."""
    filler = place / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
    finally:
        filler.unlink()


@pytest.fixture
def cluster():
    programs = find_programs()
    if programs is None:
        pytest.skip("Debian's package postgresql isn't installed")
    cluster = Cluster(programs)
    yield cluster
    cluster.remove()


def get(troth: Server, path: str) -> httpx.Response:
    """What anybody may read, as the admin socket gives it."""
    transport = httpx.HTTPTransport(uds=str(troth.data / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=40) as client:
        return client.get(path)


def check_reading(troth: Server, authority: str) -> None:
    """What needs no record is there as ever."""
    for path in ("/healthz", "/bundle", "/svid/jwks", f"/crl/{authority}.crl"):
        assert get(troth, path).status_code == 200, path
    names = {one.name for one in troth.call("identity.ls", ListIdentities()).items}
    assert "before" in names


def register_many(troth: Server) -> None:
    for number in range(MANY):
        troth.register(f"filling-{number}", "unix:uid:1001")


def check_refusal(troth: Server) -> str:
    """Registering until it is refused; the refusal's words. It is a problem document of 503."""
    with pytest.raises(Unavailable) as refusal:
        register_many(troth)
    transport = httpx.HTTPTransport(uds=str(troth.data / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=40) as client:
        body = {"name": "refused", "kind": "service", "owner": "o@example.org", "purpose": "p"}
        answer = client.post("/v1/identities", json=body | {"selectors": ["unix:uid:1001"]})
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"]
    assert answer.json()["code"] == "unavailable"
    return refusal.value.detail


def check_resumption(troth: Server) -> None:
    """It records again, by itself, and nothing that was refused is there."""
    wait_for(lambda: register(troth, "after"), "a registration", 40)
    wait_for(lambda: get(troth, "/readyz").status_code == 200, "readiness", 40)
    names = [one.name for one in troth.call("identity.ls", ListIdentities(limit=1000)).items]
    assert {"before", "after"} <= set(names)
    assert "refused" not in names
    wait_for(
        lambda: len(troth.read_journal("identity.registered")) == len(names),
        "each registration in the journal, once",
    )
    positions = [entry.position for entry in troth.read_journal()]
    assert positions == list(range(1, len(positions) + 1))


def register(troth: Server, name: str) -> bool:
    with suppress(Unavailable):
        troth.register(name, "unix:uid:1001")
        return True
    return False


@pytest.mark.root
def test_a_full_disk_under_sqlite(lone_troth):
    lone_troth.data.mkdir(mode=0o711)
    with mount(lone_troth.data, 24):
        try:
            troth = lone_troth.start("--no-agent")
            troth.register("before", "unix:uid:1001")
            authority = find_authority(troth)
            with fill(troth.data):
                assert "the disk or the quota is full" in check_refusal(troth)
                check_reading(troth, authority)
            check_resumption(troth)
        finally:
            lone_troth.stop()


@pytest.mark.root
@pytest.mark.slow
def test_a_full_disk_under_postgresql(lone_troth, cluster):
    tables = cluster.directory / "data" / "base"
    owner = tables.stat()
    with mount(tables, 64):
        os.chown(tables, owner.st_uid, owner.st_gid)
        cluster.start()
        try:
            troth = lone_troth.start("--no-agent", "--database", cluster.create_database())
            troth.register("before", "unix:uid:1001")
            authority = find_authority(troth)
            with fill(tables):
                assert "out of disk" in check_refusal(troth)
                check_reading(troth, authority)
            check_resumption(troth)
        finally:
            lone_troth.stop()
            cluster.stop(signal.SIGQUIT)


@pytest.mark.slow
def test_a_database_that_stands_still(lone_troth, cluster):
    """Nothing on the network is broken: it is there, and doesn't answer."""
    cluster.start()
    troth = lone_troth.start("--no-agent", "--database", cluster.create_database())
    troth.register("before", "unix:uid:1001")
    with stopped(cluster):
        began = time.monotonic()
        with pytest.raises(Unavailable, match="doesn't answer"):
            troth.register("standing", "unix:uid:1001")
        assert time.monotonic() - began < 28, "before the client itself gives up"
        assert get(troth, "/healthz").status_code == 200
        ready = get(troth, "/readyz")
        assert ready.status_code == 503
        assert ready.json()["obstacles"]
    wait_for(lambda: register(troth, "after"), "a registration", 40)
    wait_for(lambda: get(troth, "/readyz").status_code == 200, "readiness", 40)
    found = troth.call("identity.show", NameIdentity(name="before"))
    assert found.state == "active"


@contextmanager
def stopped(cluster: Cluster) -> Iterator[None]:
    """All of PostgreSQL's processes stand still, its sockets stay."""
    pids = cluster.list_processes()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.fixture
def clocked():
    with open_folder() as folder:
        server = ClockedServer(folder)
        try:
            yield server.start()
        finally:
            server.stop()


@pytest.mark.parametrize("hours", [6, -6])
def test_a_clock_that_jumps_and_comes_back(clocked, hours):
    ends = datetime.now(UTC) + timedelta(hours=2)
    clocked.register("short", "unix:uid:1001", expires_at=ends)
    authority = find_authority(clocked)
    clocked.set_clock(timedelta(hours=hours))
    # What is recorded is recorded, in order, whatever time it bears.
    clocked.register("odd", "unix:uid:1001")
    clocked.move("odd", "quarantine")
    clocked.wait_for_journal("identity.quarantined")
    assert get(clocked, "/healthz").status_code == 200

    clocked.set_clock(timedelta(0))
    clocked.register("after", "unix:uid:1001")
    clocked.wait_for_journal("identity.registered", "spiffe://troth.local/after")
    short = clocked.call("identity.show", NameIdentity(name="short"))
    assert short.state == "active", "it isn't retired for a clock that was wrong for a moment"
    assert not clocked.read_journal("identity.retired")
    assert clocked.call("identity.show", NameIdentity(name="odd")).state == "quarantined"
    wait_for(lambda: get(clocked, "/readyz").status_code == 200, "readiness", 60)
    listed = x509.load_der_x509_crl(get(clocked, f"/crl/{authority}.crl").content)
    assert listed.last_update_utc <= datetime.now(UTC)
    assert listed.next_update_utc is not None
    assert listed.next_update_utc > datetime.now(UTC) + timedelta(hours=48)
    positions = [entry.position for entry in clocked.read_journal()]
    assert positions == list(range(1, len(positions) + 1))
