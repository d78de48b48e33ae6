"""`troth db` as an operator uses it: backup at work, disaster, restore, the move to PostgreSQL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Server, run_troth, wait_for
from tests.fakes.postgres import start_cluster
from troth.wire.api.identities import ListIdentities

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def run_db(*words: str | Path, **environ: str) -> dict[str, Any]:
    done = run_troth("db", *words, "--json", **environ)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def list_names(server: Server) -> set[str]:
    with server.connect() as client:
        return {item.name for item in client.call("identity.ls", ListIdentities()).items}


def test_a_lost_machine_comes_back_from_its_backup(lone_troth, new_machine):
    lone_troth.environ["TROTH_KEYSTORE_KEY_ENCRYPTION_KEY"] = f"file:{lone_troth.folder}/kek"
    lone_troth.start()
    lone_troth.register("api", "unix:uid:1001")
    lone_troth.wait_for_journal("identity.registered")
    out = lone_troth.folder / "backup"
    told = run_db("backup", "--data", lone_troth.data, "--out", out, **lone_troth.environ)
    assert run_db("check", out) == told
    story = lone_troth.read_journal()[: told["journal_head"]]
    lone_troth.register("later", "unix:uid:1002")
    lone_troth.stop()

    shutil.copy(lone_troth.folder / "kek", new_machine.folder / "kek")
    new_machine.environ["TROTH_KEYSTORE_KEY_ENCRYPTION_KEY"] = f"file:{new_machine.folder}/kek"
    run_db("restore", out, "--data", new_machine.data, **new_machine.environ)
    new_machine.start()
    assert list_names(new_machine) == {"api"}
    new_machine.wait_for_journal("store.restored")
    assert new_machine.read_journal()[: told["journal_head"]] == story
    assert (new_machine.data / "ca.pem").read_bytes() == (lone_troth.data / "ca.pem").read_bytes()
    joined = wait_for(
        lambda: new_machine.read_journal("node.attested")[1:], "its agent joins as local"
    )
    assert joined[0].subject == "spiffe://troth.local/troth/node/local"


def test_the_state_moves_to_postgresql_and_is_served_there(lone_troth):
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("Debian's package postgresql is not installed")
    url = cluster.create_database()
    lone_troth.start()
    lone_troth.register("api", "unix:uid:1001")
    lone_troth.wait_for_journal("certificate.issued")
    source = f"sqlite:///{lone_troth.data}/troth.db"
    words = ("move", "--data", lone_troth.data, "--from", source, "--to", url)
    refused = run_troth("db", *words)
    assert refused.returncode == 1
    assert "Stop it first" in " ".join(refused.stderr.split())
    story = lone_troth.read_journal()
    lone_troth.daemon.stop()

    told = run_db(*words)
    assert told["journal_head"] >= len(story)
    lone_troth.start("--database", url)
    assert lone_troth.read_journal()[: len(story)] == story
    assert list_names(lone_troth) == {"api"}
    lone_troth.register("later", "unix:uid:1002")
    lone_troth.wait_for_journal("identity.registered", "spiffe://troth.local/later")
    again = run_troth("db", *words)
    assert again.returncode == 1
    assert "isn't empty" in " ".join(again.stderr.split())


def test_a_password_in_an_argument_is_refused(folder):
    url = "postgresql://troth:hunter3@db.example.org/troth"
    failed = run_troth(
        "db", "move", "--data", folder, "--from", f"sqlite:///{folder}/a", "--to", url
    )
    assert failed.returncode == 2
    assert "hunter3" not in failed.stderr + failed.stdout
