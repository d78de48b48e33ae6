"""Servers as a user starts them, on one PostgreSQL database that wants a password."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.processes import Server, open_folder, run_troth, wait_for
from tests.fakes.postgres import start_cluster

pytest.importorskip("spiffe", reason="the PyPI package 'spiffe' isn't installed")
pytestmark = pytest.mark.e2e

PASSWORD = "hunter2-é%/@"
QUARANTINE_SECONDS = 2.0


@pytest.fixture(scope="module")
def database():
    """The URL of an empty database, without the password that its owner must show."""
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("Debian's package postgresql is not installed")
    url = cluster.create_database()
    cluster.create_role("app", PASSWORD, urlsplit(url).path.removeprefix("/"))
    return url.replace("troth@", "app@")


@pytest.fixture
def two_folders():
    with open_folder() as one, open_folder() as two:
        yield one, two


def test_two_servers_share_a_database_and_a_quarantine(
    database, two_folders, programs, run_program
):
    one, two = (Server(folder) for folder in two_folders)
    for server in (one, two):
        server.environ["PGPASSWORD"] = PASSWORD
    try:
        one.start("--database", database)
        # Until keys can live elsewhere, servers of one trust domain hold copies of them.
        two.data.mkdir(mode=0o711)
        shutil.copytree(one.data / "keys", two.data / "keys")
        two.start("--database", database, "--no-agent")

        one.register("api", *programs.selectors("api"))
        workload = run_program("api", one.endpoint)
        assert "svids" in workload.ask("fetch")
        asked = two.move("api", "quarantine")
        wait_for(lambda: "svids" not in workload.ask("fetch"), "the other server's agent refuses")
        assert time.monotonic() - asked < QUARANTINE_SECONDS

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


def test_a_wrong_password_says_so_and_shows_nothing(database, folder):
    failed = run_troth(
        "up", "--data", folder / "data", "--database", database, PGPASSWORD="wrong-hunter3"
    )
    assert failed.returncode != 0
    assert "refuses our user, password or database" in " ".join(failed.stderr.split())
    assert "hunter3" not in failed.stderr + failed.stdout


def test_a_password_in_an_argument_is_refused(database, folder):
    told = database.replace("app@", "app:hunter3@")
    failed = run_troth("up", "--data", folder / "data", "--database", told)
    assert failed.returncode != 0
    assert "TROTH_DATABASE_URL" in failed.stderr
    assert "hunter3" not in failed.stderr + failed.stdout
