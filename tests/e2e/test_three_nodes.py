"""Three servers on one PostgreSQL, each on a machine of its own as far as the network can tell,
behind the load balancer of deploy/three-nodes: any one is lost, and nothing else is.

The one that seals is killed, cut off and stalled, and one that doesn't seal is killed; with
``LOSSES=all`` one that doesn't seal is cut off and stalled as well.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.e2e.networks import Machine, find_obstacle
from tests.e2e.processes import TROTH, Daemon, Program, make_environ, open_folder, wait_for
from tests.fakes.postgres import Cluster, find_programs
from tests.soak.audit import Audit
from tests.soak.clients import Client, Issuer, TokenIssuer, Warden
from tests.soak.databases import reconcile
from tests.soak.ledger import Ledger
from tests.soak.records import PostgresRecords
from tests.soak.stand import pick_ports
from troth.core.errors import TrothError
from troth.wire.api.client import ApiClient
from troth.wire.api.identities import RegisterIdentity
from troth.wire.api.nodes import CreateJoinToken
from troth.wire.api.status import GetStatus

ALL_LOSSES = os.environ.get("LOSSES") == "all"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(560 if ALL_LOSSES else 280),
    # httpcore leaves a Unix socket that nobody answers at to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
BALANCER = Path(__file__).parents[2] / "deploy" / "three-nodes" / "haproxy.cfg"
SEALER = """
    SELECT host(client_addr) FROM leases
    JOIN pg_locks ON locktype = 'advisory' AND granted
        AND classid::bigint << 32 | objid::bigint
            = ('x' || lpad(substring(holder from '@(.*)'), 16, '0'))::bit(64)::bigint
    JOIN pg_stat_activity USING (pid) WHERE leases.name = 'sealer'
"""
"""Where the server is that holds the sealer's lease: its holder is named after the advisory lock
that the server keeps while it lives."""

LEASE = 15
"""Seconds: the default, which outlasts the sealer's own lease of ten."""

CARRY_ON_SECONDS = 30.0
"""For the clients to get certificates again, whoever is lost: on a machine that does more."""


class Node:
    """One server on its machine."""

    def __init__(self, folder: Path, machine: Machine, database: str, origin: str) -> None:
        self.machine = machine
        self.folder = folder / machine.name
        self.data = self.folder / "data"
        self.data.mkdir(parents=True, mode=0o711)
        self.ca = str(self.data / "ca.pem")
        self.public = f"https://{machine.address}:8443"
        self.mutual = f"https://{machine.address}:8444"
        self._database = database.replace("HOST", machine.near)
        self._settings = {
            "TROTH_ORIGIN": origin,
            "TROTH_LEASE": str(LEASE),
            "TROTH_KEYSTORE_KEY_ENCRYPTION_KEY": f"file:{folder}/kek",
            "PGPASSWORD": "secret",
        }
        self.daemon: Daemon | None = None

    def start(self) -> None:
        command = [*self.machine.prefix, str(TROTH), "up", "--data", str(self.data), "--no-agent"]
        command += ["--listen", f"{self.machine.address}:8443", "--database", self._database]
        count = len(list(self.folder.glob("*.log")))
        self.daemon = Daemon(self.folder, f"up{count}", [*command, "--json"], **self._settings)
        wait_for(lambda: '"url"' in self.running.output, "a server that is ready", 60)

    @property
    def running(self) -> Daemon:
        assert self.daemon is not None
        assert self.daemon.process.poll() is None, self.daemon.log[-4000:]
        return self.daemon

    def stop(self) -> None:
        if self.daemon is not None:
            print(self.daemon.log[-6000:])
            self.daemon.process.kill()
            self.daemon.process.wait(10)

    def open_admin(self) -> ApiClient:
        return ApiClient.over_socket(str(self.data / "admin.sock"))

    def read_head(self) -> int:
        with self.open_admin() as admin:
            return int(admin.call("status.show", GetStatus()).epoch)


class Behind:
    """How clients see them: one address, whoever answers. Administrators go to a server itself."""

    def __init__(self, nodes: list[Node], public: int, mutual: int) -> None:
        self.public = f"https://localhost:{public}"
        self.mutual = f"https://localhost:{mutual}"
        self._nodes = nodes
        self._turn = 0

    @property
    def ca(self) -> str:
        return self._nodes[0].ca

    def open_admin(self) -> ApiClient:
        self._turn += 1
        return self._nodes[self._turn % len(self._nodes)].open_admin()


class Site:
    """The database, three nodes, the balancer, an agent behind it, and clients at work."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self.folder = folder
        self.machines = []
        for number in range(3):
            self.machines.append(Machine(number))
            stack.callback(self.machines[-1].remove)
        self.url = self._start_database()
        public, mutual = pick_ports(2)
        origin = f"https://localhost:{public}"
        far = f"postgresql://app@HOST{urlsplit(self.url).path}?sslmode=disable"
        self.nodes = [Node(folder, machine, far, origin) for machine in self.machines]
        for node in self.nodes:
            stack.callback(node.stop)
            node.start()
        self.behind = Behind(self.nodes, public, mutual)
        self._start_balancer(public, mutual)
        self.ledger = Ledger()
        self.audit = Audit(PostgresRecords(self.url), self.ledger)
        self.clients: list[Client] = []

    def _start_database(self) -> str:
        programs = find_programs()
        assert programs is not None
        near = ",".join(machine.near for machine in self.machines)
        cluster = Cluster(programs, listen_addresses=near)
        self._stack.callback(cluster.remove)
        rules = cluster.directory / "data" / "pg_hba.conf"
        rules.write_text(rules.read_text() + "host all app 198.18.0.0/15 scram-sha-256\n")
        cluster.start()
        url = cluster.create_database()
        cluster.create_role("app", "secret", urlsplit(url).path[1:])
        return url

    def _start_balancer(self, public: int, mutual: int) -> None:
        names = zip("ABC", self.machines, strict=True)
        environ = {f"NODE_{letter}": machine.address for letter, machine in names}
        environ |= {"PUBLIC": f"127.0.0.1:{public}", "MUTUAL": f"127.0.0.1:{mutual}"}
        assert HAPROXY is not None
        balancer = Daemon(self.folder, "haproxy", [HAPROXY, "-db", "-f", str(BALANCER)], **environ)
        self._stack.callback(lambda: print(balancer.log[-3000:]))
        self._stack.callback(balancer.kill)
        wait_for(self._is_served, "an answer through the balancer", 30)

    def _is_served(self) -> bool:
        command = ["curl", "-sf", "--cacert", self.behind.ca, f"{self.behind.public}/readyz"]
        return subprocess.run(command, capture_output=True, env=make_environ()).returncode == 0

    def start_clients(self) -> None:
        for number, make in enumerate((Issuer, Issuer, Warden, TokenIssuer)):
            # All that they need of a server is what it looks like from outside.
            client = make(f"client-{number}", [self.behind], self.ledger, number, self.folder)
            self.clients.append(client)
            self._stack.callback(client.stop)
            client.start()

    def start_agent(self) -> str:
        """An agent that knows the balancer and nothing behind it; its socket."""
        with self.nodes[0].open_admin() as admin:
            token = admin.call("token.join", CreateJoinToken(node="edge")).token
        (self.folder / "token").touch(mode=0o600)
        (self.folder / "token").write_text(token)
        data = self.folder / "agent"
        command = [str(TROTH), "agent", "--server", self.behind.public, "--data", str(data)]
        command += ["--mtls-url", self.behind.mutual, "--ca", self.behind.ca]
        command += ["--join-token", f"@{self.folder / 'token'}"]
        agent = Daemon(self.folder, "agent", command)
        self._stack.callback(lambda: print(agent.log[-3000:]))
        self._stack.callback(agent.kill)
        agent.wait_for_event("agent.ready")
        return f"unix://{data}/agent.sock"

    def find_sealer(self) -> Node:
        """The node that seals now: it holds the sealer's lease, and lives."""

        def look() -> Node | None:
            with psycopg.connect(self.url, autocommit=True) as connection:
                addresses = {address for (address,) in connection.execute(SEALER)}
            found = [node for node in self.nodes if node.machine.address in addresses]
            return found[0] if found else None

        return wait_for(look, "a node that seals", 20)

    def find_other(self) -> Node:
        """A node that doesn't seal."""
        sealer = self.find_sealer()
        return next(node for node in self.nodes if node is not sealer)

    def check_succession(self, lost: Node) -> None:
        """Another one seals, if the one that is lost did."""
        wait_for(lambda: self.find_sealer() is not lost, "another node that seals", 20)

    def check_progress(self, what: str) -> None:
        """Clients get certificates again, and all that was promised so far is recorded."""
        before = self.ledger.counts.get("certificates", 0)
        wait_for(
            lambda: self.ledger.counts.get("certificates", 0) > before + 20, what, CARRY_ON_SECONDS
        )
        self.audit.look()


class Asker(threading.Thread):
    """Lets a workload ask its agent all the time: for its identity, which the agent holds, and for
    a token to somebody new, which only a server makes."""

    def __init__(self, workload: Program, spiffe_id: str) -> None:
        super().__init__(name="asker", daemon=True)
        self._workload = workload
        self._spiffe_id = spiffe_id
        self._over = threading.Event()
        self.wrong: list[str] = []
        self.asked = 0
        self.tokens = 0
        self.longest = 0.0
        """Seconds from one token to the next, at most."""

    def run(self) -> None:
        last = time.monotonic()
        try:
            while not self._over.wait(0.3):
                self._ask_for_identity()
                if self._gets_token():
                    self.longest = max(self.longest, time.monotonic() - last)
                    last = time.monotonic()
            self.longest = max(self.longest, time.monotonic() - last)
        except AssertionError as error:
            self.wrong.append(str(error))

    def _ask_for_identity(self) -> None:
        told = self._workload.ask("fetch")
        self.asked += 1
        if [svid["spiffe_id"] for svid in told.get("svids", [])] != [self._spiffe_id]:
            self.wrong.append(str(told))

    def _gets_token(self) -> bool:
        self._workload.say("fetch_jwt", audience=f"listener-{self.asked}")
        told = self._workload.expect(lambda told: told["event"] == "fetch_jwt", "an answer", 30)
        if told.get("spiffe_ids") == [self._spiffe_id]:
            self.tokens += 1
            return True
        if told.get("status") not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            self.wrong.append(str(told))
        return False

    def stop(self) -> None:
        self._over.set()
        self.join(60)

    def check(self) -> None:
        """It was never told anything wrong, and never left without an answer for long."""
        assert not self.wrong, self.wrong[:5]
        assert self.asked > 20
        assert self.tokens > 20
        assert self.longest < CARRY_ON_SECONDS


@pytest.fixture
def site():
    if (obstacle := find_obstacle()) is not None:
        pytest.skip(obstacle)
    if find_programs() is None:
        pytest.skip("Debian's package postgresql isn't installed")
    if HAPROXY is None:
        pytest.skip("Debian's package haproxy isn't installed")
    with open_folder() as folder, ExitStack() as stack:
        yield Site(folder, stack)
    gc.collect()  # here, where what it complains of is known


def test_any_one_of_three_nodes_is_lost_and_nothing_else(
    site, programs, run_program, record_property
):
    pytest.importorskip("spiffe", reason="the PyPI package 'spiffe' isn't installed")
    endpoint = site.start_agent()
    with site.nodes[0].open_admin() as admin:
        request = RegisterIdentity(
            name="steady",
            kind="service",
            owner="team-tests",
            purpose="goes on",
            selectors=list(programs.selectors("steady")),
            nodes=["edge"],
            activate=True,
        )
        spiffe_id = admin.call("identity.register", request).spiffe_id
    workload = run_program("steady", endpoint)
    wait_for(lambda: "svids" in workload.ask("fetch"), "the identity through the balancer")
    asker = Asker(workload, spiffe_id)
    asker.start()
    site.start_clients()
    site.check_progress("certificates from three nodes")

    kill(site, site.find_sealer())
    kill(site, site.find_other())
    for find in (site.find_sealer, *([site.find_other] if ALL_LOSSES else [])):
        lose_the_network(site, find())
        stall(site, find())

    asker.stop()
    asker.check()
    record_property("longest seconds between tokens", round(asker.longest, 1))
    for client in site.clients:
        client.stop()
    for client in site.clients:
        client.join(60)
        assert client.failure is None
    site.audit.look()
    heads = wait_for(lambda: same_heads(site.nodes), "the same epoch everywhere", 20)
    assert heads >= site.audit.journal.head
    # Nobody may write while all is read anew and compared.
    for node in site.nodes:
        node.running.kill()
    reconcile(site.url)
    site.audit.conclude()


def kill(site: Site, node: Node) -> None:
    """Killed, it takes nothing with it, and it comes back when it is started."""
    node.running.kill()
    site.check_progress("certificates from the two that are left")
    site.check_succession(node)
    node.start()


def lose_the_network(site: Site, node: Node) -> None:
    """Cut off, it grants nothing once its lease is over, and it comes back by itself."""
    node.machine.cut()
    cut_at = time.monotonic()
    told: list[str] = []
    asking = threading.Thread(target=ask_until_over, args=(site, node, cut_at, told))
    asking.start()
    site.check_progress("certificates from the two that are connected")
    site.check_succession(node)
    asking.join(90)
    assert told, "it was asked after its lease was over"
    assert set(told) <= {"unavailable", "unreachable"}, told
    node.machine.mend()
    wait_for(lambda: is_granted(site, node), "the node that is connected again", 40)
    site.check_progress("certificates from three nodes again")


def ask_until_over(site: Site, node: Node, cut_at: float, told: list[str]) -> None:
    """Ask on the very machine that is cut off, beyond the end of its lease."""
    while time.monotonic() < cut_at + LEASE + 5:
        began = time.monotonic()
        code = node.machine.ask(lambda: ask(site, node))
        if began > cut_at + LEASE:
            told.append(code)
        time.sleep(0.2)


def stall(site: Site, node: Node) -> None:
    """Stopped and continued, it knows nothing of what happened, and acts on none of it."""
    pid = find_server(node)
    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        site.check_progress("certificates from the two that move")
        site.check_succession(node)
        wait_for(lambda: time.monotonic() > stopped + LEASE + 1, "the end of its lease", 30)
    finally:
        os.kill(pid, signal.SIGCONT)
    # Whoever is quarantined meanwhile is refused from the first moment on: wardens look.
    wait_for(lambda: is_granted(site, node), "the node that moves again", 40)
    site.check_progress("certificates from three nodes after all")


def find_server(node: Node) -> int:
    """The server's own process: `ip netns exec` becomes it."""
    pid = node.running.pid
    assert b"troth" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return pid


def ask(site: Site, node: Node) -> str:
    """Ask this very node for a certificate; "granted", or the code of its refusal."""
    client = site.clients[0]
    try:
        with client.open_mutual(node) as api:
            issued = client.issue_over(api)
    except TrothError as error:
        return error.code
    return "granted" if all(answer.error is None for answer in issued) else "refused"


def is_granted(site: Site, node: Node) -> bool:
    with contextlib.suppress(TrothError):
        return ask(site, node) == "granted"
    return False


def same_heads(nodes: list[Node]) -> int | None:
    heads = {node.read_head() for node in nodes}
    return heads.pop() if len(heads) == 1 else None
