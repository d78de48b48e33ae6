"""The first run from an empty directory, what it leaves on disk, and what a second run keeps."""

from __future__ import annotations

import os
import re
import socket
import ssl
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.processes import Server, open_folder, run_troth
from troth.wire.api.nodes import CreateJoinToken, ListNodes
from troth.wire.api.status import GetStatus

pytestmark = pytest.mark.e2e

JOIN_TOKEN = re.compile(rb"jtk_[0-9a-z]+\.")


@pytest.fixture(scope="module")
def troth():
    """A server that found nothing at all, not even a configuration file."""
    with open_folder() as folder:
        server = Server(folder)
        try:
            yield server.start()
        finally:
            server.stop()


def mode_of(path: Path) -> str:
    return f"{stat.S_IMODE(path.lstat().st_mode):04o}"


def test_others_may_reach_the_sockets_and_see_nothing_else(troth):
    data = troth.data
    assert mode_of(data) == "0711"
    assert {path.name: mode_of(path) for path in data.iterdir() if path.is_dir()} == {
        "agent": "0700",
        "archive": "0700",
        "decisions": "0700",
        "keys": "0700",
        "log": "0700",
    }
    assert stat.S_ISSOCK((data / "admin.sock").stat().st_mode)
    assert mode_of(data / "admin.sock") == "0600"
    assert stat.S_ISSOCK((data / "agent.sock").stat().st_mode)
    assert mode_of(data / "agent.sock") == "0777", "any process may ask who it is"
    files = [path for path in data.rglob("*") if path.is_file()]
    assert {data / "keys" / "kek", data / "troth.db"} <= set(files)
    assert {path.name for path in files if mode_of(path) != "0600"} == {"ca.pem"}
    assert mode_of(data / "ca.pem") == "0644"


def test_no_secret_stands_where_other_users_look(troth):
    example = troth.call("token.join", CreateJoinToken(node="elsewhere")).token.encode()
    assert JOIN_TOKEN.search(example), "the pattern knows what a join token looks like"
    kek = (troth.data / "keys" / "kek").read_bytes().strip()
    for pid in (troth.daemon.pid, troth.agent_pid):
        for place in ("cmdline", "environ"):
            shown = Path(f"/proc/{pid}/{place}").read_bytes()
            assert not JOIN_TOKEN.search(shown)
            assert kek not in shown
    log = troth.daemon.log.encode()
    assert not JOIN_TOKEN.search(log)
    assert kek not in log


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_ca_pem_vouches_for_the_public_listener(troth, host):
    port = urlsplit(troth.url).port
    context = ssl.create_default_context(cafile=str(troth.data / "ca.pem"))
    with (
        socket.create_connection((host, port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        assert tls.version() == "TLSv1.3"
        names = (tls.getpeercert() or {})["subjectAltName"]
    assert ("URI", "spiffe://troth.local/troth/server") in names


def test_the_systems_roots_do_not_vouch_for_it(troth):
    address = ("localhost", urlsplit(troth.url).port)
    with (
        socket.create_connection(address, timeout=10) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")


def test_a_second_server_is_refused_and_the_first_is_left_alone(troth):
    agent = troth.agent_pid
    for listen in ("localhost:0", urlsplit(troth.url).netloc):
        done = run_troth("up", "--data", troth.data, "--listen", listen)
        assert done.returncode == 1
        assert f"uses {troth.data}; stop it" in done.stderr
        assert "Traceback" not in done.stderr
    assert troth.daemon.process.poll() is None
    assert troth.call("status.show", GetStatus())
    assert not troth.daemon.events("agent.stopped")
    assert not troth.daemon.events("agent.ended")
    assert troth.agent_pid == agent


def test_the_agent_gets_no_secret_of_the_servers_environment(lone_troth):
    secret = os.urandom(32).hex()
    lone_troth.environ = {"TROTH_KEYSTORE_KEY_ENCRYPTION_KEY": "env:KEK_OF_OURS"}
    lone_troth.environ["KEK_OF_OURS"] = secret
    troth = lone_troth.start()
    assert not (troth.data / "keys" / "kek").exists()
    of_server, of_agent = (
        Path(f"/proc/{pid}/environ").read_text() for pid in (troth.daemon.pid, troth.agent_pid)
    )
    assert secret in of_server
    assert secret not in of_agent
    assert "PATH=" in of_agent


def test_a_restart_keeps_authorities_identities_and_roots(lone_troth):
    troth = lone_troth.start()
    troth.register("kept", "unix:uid:4242")
    kept = {path.name: path.read_bytes() for path in (troth.data / "keys").iterdir()}
    roots = (troth.data / "ca.pem").read_bytes()
    troth.daemon.stop()
    assert troth.daemon.process.returncode == 0
    assert not (troth.data / "admin.sock").exists()
    assert not (troth.data / "agent.sock").exists(), "the agent has ended with its server"

    troth.start()
    assert {path.name: path.read_bytes() for path in (troth.data / "keys").iterdir()} == kept
    assert (troth.data / "ca.pem").read_bytes() == roots
    shown = run_troth("ps", "--data", troth.data)
    assert [line.split()[:3] for line in shown.stdout.splitlines()[1:]] == [
        ["kept", "service", "active"]
    ]
    (node,) = troth.call("node.ls", ListNodes()).items
    assert (node.name, node.state) == ("local", "active")
    assert len(troth.read_journal("node.attested")) == 1, "it came back with what it had"
    assert len(troth.read_journal("authority.activated")) == 3, "one a use"

    # The same directory as another trust domain would be a mixture of two.
    troth.daemon.stop()
    done = run_troth("up", "--data", troth.data, "--trust-domain", "other.example")
    assert done.returncode == 1
    assert "belongs to the trust domain troth.local, not other.example" in done.stderr


@pytest.mark.parametrize(
    ("setting", "environ", "sentence"),
    [
        ("[ttl]\nx509_defualt = 60\n", {}, "did you mean ttl.x509_default?"),
        ("", {"TROTH_LISTEN_PUBLC": "x"}, "did you mean TROTH_LISTEN_PUBLIC?"),
    ],
    ids=["file", "environment"],
)
def test_what_is_misspelt_stops_the_start(folder, setting, environ, sentence):
    data = folder / "data"
    data.mkdir()
    (data / "troth.toml").write_text(setting)
    done = run_troth("up", "--data", data, "--listen", "localhost:0", **environ)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in data.iterdir()] == ["troth.toml"], "nothing was begun"
