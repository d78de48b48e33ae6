"""SVIDs as files for a program that knows no protocol, kept by an agent with `--files`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.processes import NOBODY, TROTH, Daemon, run_troth, wait_for
from troth.wire.api.nodes import CreateJoinToken

pytestmark = pytest.mark.e2e

TTL = 5
"""Seconds; the certificate is renewed at half its life, so the reload takes about as long."""

UID = NOBODY if os.getuid() == 0 else os.getuid()

TARGETS = """
[[files]]
identity = "legacy"
directory = "{directory}"
user = {uid}
mode = "0400"
reload = {{ signal = "HUP", pid_file = "{pid_file}" }}
"""


@pytest.fixture
def keep_files(troth, folder):
    """Starts an agent that keeps files as a TOML file says."""
    agents = []

    def keep(text: str) -> Daemon:
        targets = folder / "targets.toml"
        targets.write_text(text)
        targets.chmod(0o644)
        token = folder / "join-token"
        token.touch(mode=0o600)
        token.write_text(troth.call("token.join", CreateJoinToken(node="files")).token)
        command = [
            *(str(TROTH), "agent", "--server", troth.url, "--mtls-url", troth.mutual),
            *("--ca", str(troth.data / "ca.pem"), "--data", str(folder / "data")),
            *("--join-token", f"@{token}", "--files", str(targets)),
        ]
        agents.append(Daemon(folder, "agent", command))
        agents[-1].wait_for_event("agent.ready")
        return agents[-1]

    yield keep
    for agent in agents:
        agent.stop()
        print(agent.log)


def mode_of(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def serial_of(pem: str) -> int:
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_a_life_of_a_program_that_reads_files(troth, keep_files, folder, start_reader):
    target, pid_file = folder / "svids", folder / "reader.pid"
    reader = start_reader(str(target), str(pid_file), str(UID))
    reader.expect(lambda told: told["event"] == "ready", "the program")
    troth.register("legacy", f"unix:uid:{UID}", nodes=["files"], x509_ttl=TTL)
    agent = keep_files(TARGETS.format(directory=target, uid=UID, pid_file=pid_file))

    first = reader.expect(lambda told: told["event"] != "ready", "the first files")
    assert first["event"] == "reload", first
    assert first["names"] == ["bundle.pem", "crl.pem", "svid.pem", "svid_key.pem"]
    assert first["stats"] == {"x509": 1, "x509_ca": 1, "crl": 1}
    modes = {path.name: mode_of(path) for path in (target / "current").iterdir()}
    assert modes.pop("svid_key.pem") == "0400"
    assert set(modes.values()) == {"0644"}
    assert (target / "svid_key.pem").stat().st_uid == UID
    assert (mode_of(target), target.stat().st_uid) == ("0755", os.getuid())

    # Half a life later there is another certificate with another key, and the program knows.
    second = reader.expect(lambda told: told["event"] != "ready", "the rotation", TTL + 10)
    assert second["event"] == "reload", "certificate and key belong together"
    assert second["names"] == first["names"]
    assert serial_of(second["certificate"]) != serial_of(first["certificate"])

    troth.move("legacy", "quarantine")
    gone = reader.expect(lambda told: not told.get("usable"), "the news that the key has gone")
    assert gone["event"] == "reload", gone
    assert gone["names"] == ["bundle.pem", "crl.pem", "withdrawn"]
    keys = [path for path in target.rglob("*") if b"PRIVATE KEY" in read(path)]
    assert keys == [], "neither in the present version nor in an old one"

    def list_revoked() -> set[int]:
        listed = x509.load_pem_x509_crl((target / "crl.pem").read_bytes())
        return {entry.serial_number for entry in listed}

    wait_for(
        lambda: serial_of(second["certificate"]) in list_revoked(), "the serial in the file crl.pem"
    )
    troth.move("legacy", "release")
    again = reader.expect(lambda told: told.get("usable"), "new files after the release")
    assert serial_of(again["certificate"]) not in list_revoked()
    assert not agent.events("files.not_written")


def read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


@pytest.fixture
def start_reader(run_program):
    def start(*arguments: str):
        return run_program("reader", *arguments, script="reader.py")

    return start


def test_targets_that_would_give_a_key_away_stop_the_agent(troth, folder):
    targets = folder / "targets.toml"
    command = (
        *("agent", "--server", troth.url, "--ca", troth.data / "ca.pem"),
        *("--data", folder / "data", "--files", targets),
    )
    good = TARGETS.format(directory=folder / "svids", uid=UID, pid_file=folder / "pid")
    for change, sentence in (
        (('"0400"', '"0644"'), "must let only its owner and group read it"),
        (("[[files]]", "[[file]]"), "unknown field"),
        ((f'"{folder}/svids"', '"svids"'), "must be an absolute path"),
    ):
        targets.write_text(good.replace(*change))
        done = run_troth(*command)
        assert done.returncode == 1
        assert str(targets) in done.stderr
        assert sentence in done.stderr
    assert not (folder / "svids").exists()
