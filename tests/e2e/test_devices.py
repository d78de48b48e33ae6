"""Devices without an agent: the real client, in a Python with `cryptography` and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fleet import enrol_fleet
from scripts.build_enroll import build
from tests.e2e.processes import Daemon, Server, make_environ, wait_for
from tests.fakes.house import make_csr
from tests.fakes.machines import Maker
from troth.wire.api.devices import InviteDevices
from troth.wire.api.identities import ListInstances, MoveInstance, RegisterIdentity

pytestmark = pytest.mark.e2e

ACME = Maker("Acme")
SHORT = 6
"""Seconds that a certificate lives where a test waits for its renewal."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> str:
    anchors = tmp_path_factory.mktemp("acme") / "devices.pem"
    anchors.write_bytes(ACME.pem)
    return f'[x509pop]\ndevice_authorities = "{anchors}"\n'


@pytest.fixture(scope="session")
def client(tmp_path_factory) -> Callable[..., list[str]]:
    """The command line of the zipapp, in a Python without any other package."""
    place = tmp_path_factory.mktemp("device")
    build(place / "troth-enroll.pyz")
    (place / "packages").mkdir()
    site = Path(sysconfig.get_path("platlib"))
    for found in (site / "cryptography", site / "cffi", *site.glob("_cffi_backend*")):
        (place / "packages" / found.name).symlink_to(found)

    def command(*arguments: str | Path) -> list[str]:
        return [sys.executable, "-S", str(place / "troth-enroll.pyz"), *map(str, arguments)]

    command.packages = str(place / "packages")  # type: ignore[attr-defined]
    return command


@pytest.fixture
def enroll(client) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the client to its end."""

    def run(*arguments: str | Path, code: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            client(*arguments),
            input=code,
            capture_output=True,
            text=True,
            timeout=30,
            env=make_environ(PYTHONPATH=client.packages),
        )

    return run


@pytest.fixture
def keep(client, folder) -> Iterator[Callable[..., Daemon]]:
    """Starts the client to stay."""
    with ExitStack() as stack:

        def start(*arguments: str | Path) -> Daemon:
            words = client(*arguments, "--keep", "--json")
            daemon = Daemon(
                folder, f"keep-{len(os.listdir(folder))}", words, PYTHONPATH=client.packages
            )
            stack.callback(daemon.stop)
            return daemon

        yield start


def register(troth: Server, name: str, *selectors: str, **fields: Any) -> str:
    request = RegisterIdentity(
        name=name, kind="device", owner="plant@example.org", purpose="measures",
        selectors=list(selectors), activate=True, **fields,
    )  # fmt: skip
    return str(troth.call("identity.register", request).spiffe_id)


def invite(troth: Server, *names: str) -> list[str]:
    made = troth.call("device.invite", InviteDevices(names=list(names)))
    return [code.code for code in made.codes]


def tell_server(troth: Server) -> list[str | Path]:
    return ["--server", troth.url, "--mtls-url", troth.mutual, "--ca", troth.data / "ca.pem"]


def call_by_curl(troth: Server, place: Path) -> dict[str, Any]:
    """What the mutual-TLS listener answers to an unmodified client with the device's files."""
    current = place / "current"
    done = subprocess.run(
        ["curl", "-sS", "--cacert", current / "bundle.pem", "--cert", current / "svid.pem",
         "--key", current / "svid_key.pem", "-H", "content-type: application/json",
         "-d", '{"csr": ""}', f"{troth.mutual}/v1/devices/renew"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def show(place: Path, *what: str) -> str:
    file = place / "current" / "svid.pem"
    done = subprocess.run(
        ["openssl", "x509", "-in", file, "-noout", *what],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return done.stdout


def test_the_life_of_a_device(troth, enroll, folder):
    spiffe_id = register(troth, "sensor-1", dns_names=["sensor-1.example.org"])
    place = folder / "device"
    (code,) = invite(troth, "sensor-1")
    done = enroll(*tell_server(troth), "--code-file", "-", "--out", place, "--json", code=code)
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert first["spiffe_id"] == spiffe_id
    assert code not in done.stdout + done.stderr
    assert (place / "current" / "svid_key.pem").stat().st_mode & 0o777 == 0o600
    names = show(place, "-ext", "subjectAltName")
    assert spiffe_id in names
    assert "sensor-1.example.org" in names
    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", place / "current" / "bundle.pem",
         place / "current" / "svid.pem"], capture_output=True, timeout=30,
    )  # fmt: skip
    assert verified.returncode == 0
    # Known by its certificate to an unmodified client: only the CSR is missing.
    assert "CSR is empty" in call_by_curl(troth, place)["detail"]

    serial, key = show(place, "-serial"), show(place, "-pubkey")
    done = enroll("--out", place, "--renew", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["instance_id"] == first["instance_id"]
    assert show(place, "-serial") != serial
    assert show(place, "-pubkey") != key
    assert "CSR is empty" in call_by_curl(troth, place)["detail"]
    (instance,) = troth.call("instance.ls", ListInstances(name="sensor-1")).items
    assert (instance.id, instance.node) == (first["instance_id"], "")

    troth.move("sensor-1", "quarantine")
    wait_for(
        lambda: call_by_curl(troth, place)["code"] in ("unauthenticated", "permission_denied"),
        "its certificate is refused",
    )
    refused = enroll("--out", place, "--renew", "--json")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["code"] in ("unauthenticated", "permission_denied")

    troth.move("sensor-1", "release")
    refused = enroll("--out", place, "--renew")
    assert refused.returncode == 1, "what was revoked stays revoked"
    assert "revoked" in refused.stderr
    (code,) = invite(troth, "sensor-1")
    done = enroll("--out", place, "--again", "--code-file", "-", code=code)
    assert done.returncode == 0, done.stderr
    assert enroll("--out", place, "--renew").returncode == 0


def test_it_renews_by_itself_tells_its_programs_and_waits_for_a_new_code(
    troth, enroll, keep, folder
):
    register(troth, "pump-1", x509_ttl=SHORT)
    place, code_file, heard = folder / "pump", folder / "code", folder / "heard"
    hook = folder / "hook"
    hook.write_text(f'#!/bin/sh\necho said; date >> "{heard}"\n')
    hook.chmod(0o700)
    (code,) = invite(troth, "pump-1")
    code_file.touch(0o600)
    code_file.write_text(code)
    daemon = keep(*tell_server(troth), "--code-file", code_file, "--out", place, "--hook", hook)

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in daemon.output.splitlines()]

    wait_for(lambda: len(lines()) >= 3, "two renewals", 4 * SHORT)
    assert len({line["instance_id"] for line in lines()}) == 1
    wait_for(lambda: len(heard.read_text().splitlines()) >= 3, "the hook after each")
    busy = enroll("--out", place, "--renew")
    assert busy.returncode == 1
    assert "Another process" in busy.stderr

    # Cut off and released: the old certificate and the old code are worth nothing any more.
    troth.move("pump-1", "quarantine")
    wait_for(lambda: "Trying again" in daemon.log, "it is refused and stays", 4 * SHORT)
    troth.move("pump-1", "release")
    known = len(lines())
    (code,) = invite(troth, "pump-1")
    code_file.write_text(code)
    wait_for(lambda: len(lines()) > known, "it has found the new code", 40)
    daemon.process.terminate()
    assert daemon.wait() == 0


def test_a_manufacturer_s_certificate_is_enough(troth, enroll, folder):
    machine = ACME.make("sn-4711")
    register(troth, "meter-1", f"x509pop:sha256:{hashlib.sha256(machine.chain[0]).hexdigest()}")
    (folder / "cert.pem").write_bytes(machine.pem)
    (folder / "key.pem").write_bytes(machine.key_pem)
    pair = ("--x509pop", folder / "cert.pem", folder / "key.pem")
    place = folder / "meter"
    done = enroll(*tell_server(troth), *pair, "--out", place)
    assert done.returncode == 0, done.stderr
    assert enroll("--out", place, "--renew").returncode == 0
    (instance,) = troth.call("instance.ls", ListInstances(name="meter-1")).items
    troth.call("instance.lock", MoveInstance(id=instance.id, reason="stolen"))
    refused = enroll(*pair, "--out", place, "--again")
    assert refused.returncode == 1
    assert "locked" in refused.stderr


def test_the_root_is_known_by_its_fingerprint(troth, enroll, folder):
    register(troth, "lamp-1")
    (code,) = invite(troth, "lamp-1")
    where = ["--server", troth.url, "--mtls-url", troth.mutual, "--code-file", "-"]
    done = enroll(*where, "--ca-sha256", "ab" * 32, "--out", folder / "lamp", code=code)
    assert done.returncode == 1
    assert "no root with that fingerprint" in done.stderr
    shown = subprocess.run(
        ["openssl", "x509", "-in", troth.data / "ca.pem", "-fingerprint", "-sha256", "-noout"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    fingerprint = shown.stdout.strip().partition("=")[2]
    done = enroll(*where, "--ca-sha256", fingerprint, "--out", folder / "lamp", code=code)
    assert done.returncode == 0, done.stderr


def test_exit_codes_and_what_they_say(troth, enroll, folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"https://localhost:{probe.getsockname()[1]}"
    ca = ("--ca", troth.data / "ca.pem")
    away = enroll("--server", closed, *ca, "--code-file", "-", "--out", folder / "a",
                  "--patience", "0", "--json", code="x")  # fmt: skip
    assert away.returncode == 3
    assert json.loads(away.stdout)["code"] == "unavailable"
    wrong = enroll("--server", troth.url, *ca, "--json")
    assert wrong.returncode == 2
    assert json.loads(wrong.stdout)["code"] == "invalid_usage"
    refused = enroll(*tell_server(troth), "--code-file", "-", "--out", folder / "b", code="ABC")
    assert refused.returncode == 1
    assert "28 letters and digits" in refused.stderr
    nobody = enroll("--server", troth.url, "--code-file", "-", "--out", folder / "c", code="x")
    assert nobody.returncode == 1
    assert "--ca" in nobody.stderr
    nothing = enroll("--out", folder / "d", "--renew")
    assert nothing.returncode == 1
    assert "enrol first" in nothing.stderr
    other = ACME.make("localhost")
    (folder / "other.pem").write_bytes(other.pem)
    stranger = enroll("--server", troth.url, "--ca", folder / "other.pem", "--code-file", "-",
                      "--out", folder / "e", "--patience", "0", code="x")  # fmt: skip
    assert stranger.returncode == 3
    assert "not the server that we trust" in stranger.stderr


def test_a_server_killed_while_a_fleet_enrols_loses_nobody(lone_troth, client, folder):
    """Whatever was under way: each device shows the same code for the same key again."""
    troth = lone_troth.start("--no-agent")
    count = 24
    register(troth, "fleet")
    codes = invite(troth, *["fleet"] * count)
    devices = []

    def send(number: int) -> None:
        code_file = folder / f"code-{number}"
        code_file.touch(0o600)
        code_file.write_text(codes[number])
        words = client(*tell_server(troth), "--code-file", code_file, "--out",
                       folder / f"device-{number}", "--patience", "90", "--json")  # fmt: skip
        devices.append(Daemon(folder, f"d{number}", words, PYTHONPATH=client.packages))

    try:
        for half in (range(count // 2), range(count // 2, count)):
            seen = len(troth.read_journal("certificate.intended"))
            for number in half:
                send(number)

            def goes_on(seen: int = seen) -> bool:
                return len(troth.read_journal("certificate.intended")) > seen + 2

            wait_for(goes_on, "some are under way")
            troth.daemon.kill()
            troth.start("--no-agent")
        failed = [d.output + d.log for d in devices if d.wait(120) != 0]
        assert not failed
    finally:
        for device in devices:
            device.stop()
    answers = [json.loads(device.output) for device in devices]
    assert len({answer["instance_id"] for answer in answers}) == count
    assert len(troth.read_journal("device.enrolled")) == count
    assert len(troth.call("instance.ls", ListInstances(name="fleet")).items) == count


def test_a_hundred_devices_at_once_and_none_is_lost_or_enrolled_twice(troth):
    """`make bench-enrolment` does the same with thousands."""
    count = 100
    names = [f"swarm-{number}" for number in range(10)]
    for name in names:
        register(troth, name)
    codes = invite(troth, *(names[number % 10] for number in range(count)))
    csrs = [make_csr() for _ in range(count)]
    roots = (troth.data / "ca.pem").read_bytes()
    found = asyncio.run(enrol_fleet(troth.url, roots, codes, csrs, at_once=count))
    mine = {device.answer["instance_id"] for device in found}
    known = [
        instance.id
        for name in names
        for instance in troth.call("instance.ls", ListInstances(name=name)).items
    ]
    assert len(mine) == len(known) == count
    assert mine == set(known)
    ids = [device.answer["spiffe_id"].rpartition("/")[2] for device in found]
    assert ids == [names[number % 10] for number in range(count)], "each as whom it was invited"


def test_the_modules_that_it_loads(client):
    """Without the zipapp too: from an installation with everything, it takes next to nothing."""
    code = (
        "import sys, runpy\n"
        "sys.argv = ['troth-enroll', '--help']\n"
        "try:\n    runpy.run_module('troth.enroll', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "import troth.enroll.keeper, troth.enroll.server, troth.enroll.device\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert "--code-file" in done.stdout
    loaded = set(done.stderr.split()) - set(sys.stdlib_module_names)
    started = subprocess.run(
        [sys.executable, "-c", "import sys; print(*{n.partition('.')[0] for n in sys.modules})"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert loaded - set(started.stdout.split()) <= {
        "troth",
        "cryptography",
        "_cffi_backend",
        "_openssl",  # what cryptography calls its binding
    }
