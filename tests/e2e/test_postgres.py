"""Servers as a user starts them, on one PostgreSQL database that wants a password."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.processes import Server, open_folder, run_troth, wait_for
from tests.fakes.postgres import start_cluster
from troth.wire.api.authorities import ForceAuthority, PrepareAuthority
from troth.wire.api.nodes import ListNodes

pytest.importorskip("spiffe", reason="the PyPI package 'spiffe' isn't installed")
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

PASSWORD = "hunter2-é%/@"
QUARANTINE_SECONDS = 2.0


@pytest.fixture
def database():
    """The URL of an empty database, without the password that its owner must show."""
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("Debian's package postgresql is not installed")
    url = cluster.create_database()
    name = urlsplit(url).path.removeprefix("/")
    cluster.create_role(f"app_{name}", PASSWORD, name)
    return url.replace("troth@", f"app_{name}@")


@pytest.fixture
def two_folders():
    with open_folder() as one, open_folder() as two:
        yield one, two


def test_two_servers_share_a_database_and_a_quarantine(
    database, two_folders, programs, run_program
):
    kek = two_folders[0] / "kek"
    one, two = (Server(folder) for folder in two_folders)
    for server in (one, two):
        server.environ["PGPASSWORD"] = PASSWORD
        server.environ["TROTH_KEYSTORE_KEY_ENCRYPTION_KEY"] = f"file:{kek}"
    try:
        one.start("--database", database)
        two.start("--database", database)

        one.register("api", *programs.selectors("api"))
        workload = run_program("api", one.endpoint)
        assert "svids" in workload.ask("fetch")
        asked = two.move("api", "quarantine")
        wait_for(lambda: "svids" not in workload.ask("fetch"), "the other server's agent refuses")
        assert time.monotonic() - asked < QUARANTINE_SECONDS

        # The keys lie in the database, sealed: what one makes, the other signs with.
        assert not [*one.data.glob("keys/*"), *two.data.glob("keys/*")]
        made = force_rotation(one)
        node = find_own_node(two)
        two.register("late", *programs.selectors("late"), nodes=[node])
        run_program("late", two.endpoint).ask("fetch")
        issued = two.wait_for_journal("certificate.issued", "spiffe://troth.local/late")
        assert issued.body["authority"] == made

        # The one that seals goes without a word; the other serves on, and it comes back.
        one.daemon.kill()
        two.move("api", "release")
        two.wait_for_journal("identity.released")
        one.start("--database", database)
        wait_for(lambda: one.read_journal() == two.read_journal(), "both tell the same story")
    finally:
        one.stop()
        two.stop()
    for server in (one, two):
        for path in Path(server.folder).glob("up*"):
            assert "hunter2" not in path.read_text()
    assert not (one.data / "troth.db").exists()


def force_rotation(server: Server) -> str:
    """Have `server` make a new X.509 authority and sign with it at once; returns its id."""
    made = server.call(
        "authority.prepare", PrepareAuthority(use="x509-svid", reason="a test rotates")
    )
    wait_for(
        lambda: made.id in [entry.subject for entry in server.read_journal("crl.published")],
        "its first revocation list",
    )
    server.call(
        "authority.activate", ForceAuthority(id=made.id, reason="a test rotates", force=True)
    )
    return str(made.id)


def find_own_node(server: Server) -> str:
    """The name of the node that the server's own agent is; it isn't the first server's."""
    leaf = json.loads((server.data / "agent" / "node.json").read_text())
    names = [node.name for node in server.call("node.ls", ListNodes()).items]
    mine = f"local-{(server.data / 'installation').read_text().strip()}"
    assert sorted(names) == ["local", mine]
    assert mine in str(leaf)
    return mine


def test_a_server_with_another_key_is_told_at_once(database, two_folders):
    one, two = (Server(folder) for folder in two_folders)
    one.environ["PGPASSWORD"] = PASSWORD
    one.environ |= {"TROTH_KEYSTORE_KEY_ENCRYPTION_KEY": "env:KEK", "KEK": "ab" * 16 + "cd" * 16}
    try:
        one.start("--database", database, "--no-agent")
        for variables, words in (
            ({"KEK": "ef" * 16 + "cd" * 16}, "the key-encryption key is not the one"),
            ({"TROTH_KEYSTORE_KEY_ENCRYPTION_KEY": f"file:{two.folder}/kek"}, "Can't read the key"),
            ({"TROTH_KEYSTORE_DRIVER": "file"}, "set keystore.driver to 'database'"),
        ):
            failed = run_troth(
                *("up", "--no-agent", "--data", two.data, "--listen", "localhost:0"),
                *("--database", database),
                **(one.environ | variables),
            )
            assert failed.returncode != 0
            assert words in " ".join(failed.stderr.split())
            assert not (two.folder / "kek").exists()
    finally:
        one.stop()


def test_keys_that_were_files_are_taken_into_the_database(database, two_folders):
    one, two = (Server(folder) for folder in two_folders)
    for server in (one, two):
        server.environ["PGPASSWORD"] = PASSWORD
        server.environ["TROTH_KEYSTORE_KEY_ENCRYPTION_KEY"] = f"file:{two_folders[0]}/kek"
    try:
        one.environ["TROTH_KEYSTORE_DRIVER"] = "file"
        one.start("--database", database, "--no-agent")
        one.stop()
        del one.environ["TROTH_KEYSTORE_DRIVER"]
        one.start("--database", database, "--no-agent")  # as before, since the files are there
        assert not one.daemon.events("keystore.moved")
        failed = run_troth(
            *("up", "--no-agent", "--data", two.data, "--listen", "localhost:0"),
            *("--database", database),
            **two.environ,
        )
        assert "start that one first" in " ".join(failed.stderr.split())
        one.stop()
        one.environ["TROTH_KEYSTORE_DRIVER"] = "database"
        one.start("--database", database, "--no-agent")
        assert one.daemon.events("keystore.moved")[0]["keys"] == 5
        two.start("--database", database, "--no-agent")
        force_rotation(two)
        assert two.read_journal("authority.activated")[-1].body["use"] == "x509-svid"
    finally:
        one.stop()
        two.stop()


def test_a_wrong_password_says_so_and_shows_nothing(database, folder):
    failed = run_troth(
        "up", "--data", folder / "data", "--database", database, PGPASSWORD="wrong-hunter3"
    )
    assert failed.returncode != 0
    assert "refuses our user, password or database" in " ".join(failed.stderr.split())
    assert "hunter3" not in failed.stderr + failed.stdout


def test_a_password_in_an_argument_is_refused(database, folder):
    told = database.replace("@/", ":hunter3@/")
    failed = run_troth("up", "--data", folder / "data", "--database", told)
    assert failed.returncode != 0
    assert "TROTH_DATABASE_URL" in failed.stderr
    assert "hunter3" not in failed.stderr + failed.stdout
