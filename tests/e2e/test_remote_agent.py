"""An agent without a server beside it: joining with a token, once, and what is served where."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.e2e.processes import TROTH, Daemon, open_folder, run_troth, wait_for
from tests.fakes.issuer import FakeIssuer
from troth.wire.api.nodes import ListNodes
from troth.wire.pem import render_pem_certificates

pytest.importorskip("spiffe", reason="the PyPI package 'spiffe' isn't installed")
pytestmark = pytest.mark.e2e


class Edge:
    """A data directory on "another machine", with what an administrator carried there."""

    def __init__(self, folder: Path, troth, stack: ExitStack) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.endpoint = f"unix://{self.data}/agent.sock"
        self._troth = troth
        self._stack = stack
        (folder / "ca.pem").write_bytes((troth.data / "ca.pem").read_bytes())

    def command(self, *more: str) -> list[str]:
        """`troth agent` with what it always needs."""
        return [
            *("agent", "--server", self._troth.url, "--mtls-url", self._troth.mutual),
            *("--ca", str(self.folder / "ca.pem"), "--data", str(self.data), *more),
        ]

    def bring_token(self, token: str) -> str:
        """Put a token into a file that only we can read; returns the option's value."""
        path = self.folder / "join-token"
        path.touch(mode=0o600)
        path.write_text(token + "\n")
        return f"@{path}"

    def start(self, *more: str) -> Daemon:
        """Start the agent and wait until it serves."""
        agent = self.start_unready(*more)
        agent.wait_for_event("agent.ready")
        return agent

    def start_unready(self, *more: str) -> Daemon:
        """Start the agent alone."""
        agent = Daemon(self.folder, "agent", [str(TROTH), *self.command(*more)])
        self._stack.callback(lambda: print(agent.log))
        self._stack.callback(agent.stop)
        return agent


@pytest.fixture
def edge(troth) -> Iterator[Edge]:
    with open_folder() as folder, ExitStack() as stack:
        yield Edge(folder, troth, stack)


def make_token(troth, node: str) -> str:
    made = run_troth("token", "join", "--node", node, "--data", troth.data)
    assert made.returncode == 0, made.stderr
    assert "once" in made.stderr
    assert made.stdout.strip() not in made.stderr
    return made.stdout.strip()


def assert_refused(done, *words: str) -> None:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in (*words, "error: "):
        assert word in done.stderr


def test_a_life_of_a_remote_node(troth, edge, programs, run_program):
    token = make_token(troth, "edge")
    edge.start("--join-token", edge.bring_token(token))
    nodes = {node.name: node.state for node in troth.call("node.ls", ListNodes()).items}
    assert (nodes["local"], nodes["edge"]) == ("active", "active")
    shown = (edge.folder / "agent.log").read_text()
    assert token not in shown

    # An identity is served on the nodes that it names and on no other.
    troth.register("there", *programs.selectors("remote"), nodes=["edge"])
    at_edge = run_program("remote", edge.endpoint)
    wait_for(lambda: "svids" in at_edge.ask("fetch"), "the identity on the node edge")
    assert [svid["spiffe_id"] for svid in at_edge.told[-1]["svids"]] == [
        "spiffe://troth.local/there"
    ]
    at_local = run_program("remote", troth.endpoint)
    refused = at_local.ask("fetch")
    assert refused["status"] == "PERMISSION_DENIED"
    assert "No identity is registered for this process" in refused["detail"]

    # The token is used up, for the same name and for another machine alike.
    with open_folder() as folder, ExitStack() as stack:
        second = Edge(folder, troth, stack)
        done = run_troth(*second.command("--join-token", second.bring_token(token)))
        assert_refused(done, "refused the join token", "troth token join --node")
        assert token not in done.stderr
        assert not (second.data / "agent" / "node.json").exists()
    joined = [entry.subject for entry in troth.read_journal("node.attested")]
    assert joined.count("spiffe://troth.local/troth/node/edge") == 1


def test_an_agent_restarts_with_its_kept_credential_and_its_old_command(troth, edge):
    option = edge.bring_token(make_token(troth, "phoenix"))
    agent = edge.start("--join-token", option)
    agent.kill()
    agent = edge.start("--join-token", option)
    assert agent.events("node.renewed")
    assert not agent.events("node.joined")
    assert oct((edge.data / "agent").stat().st_mode)[-3:] == "700"
    assert oct((edge.data / "agent" / "node.json").stat().st_mode)[-3:] == "600"
    agent.stop()
    edge.start()  # nor does it need the token any more


def test_tokens_that_do_not_work(troth, edge):
    token = make_token(troth, "never")
    with closing(sqlite3.connect(troth.data / "troth.db", timeout=10)) as database, database:
        expired = "update join_tokens set expires_at = created_at where node_name = 'never'"
        assert database.execute(expired).rowcount == 1
    wrong = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
    for bad in (token, wrong, "nonsense"):
        done = run_troth(*edge.command("--join-token", edge.bring_token(bad)))
        assert_refused(done, "join token")
        assert bad not in done.stderr
    done = run_troth(*edge.command())
    assert_refused(done, "has not joined yet")
    assert "never" not in {node.name for node in troth.call("node.ls", ListNodes()).items}


def test_a_server_that_the_ca_file_does_not_vouch_for_gets_no_token(troth, edge):
    token = make_token(troth, "careful")
    option = edge.bring_token(token)
    right = (edge.folder / "ca.pem").read_bytes()
    stranger = FakeIssuer(trust_domain="troth.local")
    (edge.folder / "ca.pem").write_bytes(render_pem_certificates([stranger.x509.certificate]))
    done = run_troth(*edge.command("--join-token", option))
    assert_refused(done, "don't vouch for", "CA file")
    assert not (edge.data / "agent" / "node.json").exists()
    # It was never sent, so it still works where it belongs.
    (edge.folder / "ca.pem").write_bytes(right)
    edge.start("--join-token", option)
