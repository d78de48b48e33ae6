"""What the story happens with: the server, the workloads, the proxies, and how to wait for them."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

from troth.cli.demonstration.envoys import EnvoyAdmin
from troth.cli.demonstration.narration import Narrator
from troth.cli.demonstration.postgres import Cluster, start_cluster
from troth.cli.demonstration.processes import PATIENCE, Company, Process, make_environment
from troth.cli.demonstration.proxies import (
    Egress,
    Ingress,
    render_bootstrap,
    render_gate,
)
from troth.cli.demonstration.stage import Actor, Stage, describe_python_path
from troth.cli.options import ADMIN_SOCKET, AGENT_SOCKET, CA_FILE
from troth.core.clock import Clock
from troth.core.errors import Unavailable
from troth.wire.api.client import ApiClient
from troth.wire.api.journal import JournalEntry, ListJournal

TRUST_DOMAIN = "troth.local"
LISTEN = "localhost"
PORT_TRIES = 3
ACTORS = ("orders", "payments", "reporter", "impostor")
WORKERS = {"orders": "orders-worker", "payments": "payments-worker"}
"""Without users of their own, a second program of a service needs an identity of its own."""

GATE = "gate"
"""The Envoy that asks troth about each request; its application and user are those of payments."""

_FLUSH = ("--file-flush-interval-msec", "50")  # of Envoy's logs, which the story reads

Found = TypeVar("Found")


class Scene:
    """All that a step may touch. Whatever it starts is stopped by `close`, in order."""

    def __init__(self, data: Path, narrator: Narrator, clock: Clock, *, users: bool) -> None:
        self.data = data
        self.narrator = narrator
        self.clock = clock
        self.stage = Stage(data, users=users)
        self.stage.build(ACTORS if users else (*ACTORS, *WORKERS.values()))
        self.environment = make_environment(self.agent_socket)
        self.company = Company(self.stage.logs, self.environment)
        self.api = ApiClient.over_socket(str(data / ADMIN_SOCKET))
        self.processes: dict[str, Process] = {}
        self.envoys: dict[str, EnvoyAdmin] = {}
        self.notes: dict[str, Any] = {}
        self.cluster: Cluster | None = None
        self._database: tuple[str, ...] = ()
        self._ports = (0, 0)
        self._agent = -1

    @property
    def agent_socket(self) -> Path:
        """Where workloads find the agent."""
        return self.data / AGENT_SOCKET

    @property
    def url(self) -> str:
        """The server's public URL."""
        return f"https://{LISTEN}:{self._ports[0]}"

    @property
    def mutual_url(self) -> str:
        """The URL of the server's mutual-TLS listener."""
        return f"https://{LISTEN}:{self._ports[1]}"

    def find_worker(self, service: str) -> Actor:
        """As whom programs of a service run that aren't its Envoy; named as its identity is."""
        return self.stage[service] if self.stage.users else self.stage[WORKERS[service]]

    def name(self, identity: str) -> str:
        """The SPIFFE ID of an identity."""
        return f"spiffe://{TRUST_DOMAIN}/{identity}"

    def wait(
        self, holds: Callable[[], Found | None], what: str, patience: float = PATIENCE
    ) -> Found:
        """Ask `holds` until it gives something true; raises `Unavailable` if it doesn't in time."""
        deadline = self.clock.monotonic() + patience
        while True:
            if found := holds():
                return found
            if self.clock.monotonic() > deadline:
                raise Unavailable(f"{what}: not within {patience:g} s.")
            if ended := self.company.find_ended():
                raise Unavailable(f"{what}: {ended[0].name} has ended instead.")
            time.sleep(0.02)

    # The server and its agent

    def start_database(self) -> None:
        """Start a PostgreSQL for the server; without, it has an SQLite file in its directory."""
        directory = self.data / "postgresql"
        directory.mkdir()
        self.cluster = start_cluster(directory)
        self._database = ("--database", self.cluster.make_database("troth"))

    def start_server(self) -> float:
        """Start `troth up` and wait until it is ready; returns the seconds that took."""
        for _ in range(PORT_TRIES):
            if not self._ports[0]:
                self._ports = pick_ports()
            began = self.clock.monotonic()
            server = self.company.start(
                "server",
                [
                    *(sys.executable, "-P", "-m", "troth", "up"),
                    *("--data", self.data, "--listen", f"{LISTEN}:{self._ports[0]}"),
                    *("--trust-domain", TRUST_DOMAIN),
                    *self._database,
                ],
                {"TROTH_LISTEN_MUTUAL": f"{LISTEN}:{self._ports[1]}"},
            )
            self.processes["server"] = server
            try:
                self.wait(self.is_ready, "the server is ready")
            except Unavailable:
                if server.running or not any("in use" in line for line in server.read_tail()):
                    raise
                self.company.stop(server)  # somebody was faster: take other ports
                self._ports = (0, 0)
                continue
            return self.clock.monotonic() - began
        raise Unavailable("Other programs took every port that the system offered; try again.")

    def is_ready(self) -> bool:
        """Whether /readyz answers 200, asked as anybody may: over TLS, trusting ca.pem alone."""
        answer = self.get("/readyz")
        return answer is not None and answer.status_code == 200

    def get(self, path: str) -> httpx.Response | None:
        """A public document of the server, or None if it doesn't answer."""
        try:
            context = ssl.create_default_context(cafile=self.data / CA_FILE)
            with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE) as client:
                return client.get(self.url + path)
        except (OSError, httpx.TransportError):
            return None

    def wait_agent(self) -> int:
        """Wait until the agent's socket answers; returns the agent's pid."""
        self.wait(self._try_agent, "the agent answers")
        pid = int((self.data / "agent" / "agent.lock").read_text().split()[0])
        if self._agent < 0:
            self._agent = os.pidfd_open(pid)
        return pid

    def _try_agent(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.agent_socket))
            except OSError:
                return False
        return True

    def run_troth(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of troth as a person would."""
        command = [sys.executable, "-P", "-m", "troth", *arguments, "--data", self.data]
        return self.company.run(command)

    def run_offline(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command that reaches no server: it is told of a place where there is none."""
        nowhere = self.stage.folder / "nowhere"
        return self.company.run(
            [sys.executable, "-P", "-m", "troth", *arguments, "--data", nowhere]
        )

    def read_journal(self, after: int) -> list[JournalEntry]:
        """All sealed entries after a position."""
        found: list[JournalEntry] = []
        while True:
            page = self.api.call("journal.ls", ListJournal(after=after, limit=1000))
            found += page.items
            if not page.items or page.items[-1].position >= page.head:
                return found
            after = page.items[-1].position

    def read_head(self) -> int:
        """The last position of the journal."""
        return int(self.api.call("journal.ls", ListJournal(limit=1)).head)

    # Workloads

    def start_service(self, name: str, *options: str | Path) -> Process:
        """Start the application of a service."""
        actor = self.stage[name]
        own = ("--name", name, "--socket", actor.folder / "app.sock")
        return self.start(name, [*self.stage.compose(actor, "service"), *own, *options])

    def start_workload(self, process: str, actor: Actor, port: int) -> Process:
        """Start a workload that speaks SPIFFE itself."""
        command = [
            *self.stage.compose(actor, "workload", self.stage.place_python(actor)),
            *("--agent", f"unix://{self.agent_socket}", "--peer", self.name("payments")),
            *("--address", f"127.0.0.1:{port}", "--folder", actor.folder),
        ]
        return self.start(process, command)

    def start_holder(self, port: int) -> Process:
        """Start the stubborn copy of orders."""
        actor = self.find_worker("orders")
        command = [
            *self.stage.compose(actor, "holder", self.stage.place_python(actor)),
            *("--agent", f"unix://{self.agent_socket}", "--folder", actor.folder),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
        return self.start("holder", command)

    def start_envoy(self, name: str, callers: list[str], egress: Egress | None = None) -> int:
        """Start a service's Envoy and wait until it serves; returns its port for mutual TLS."""
        actor = self.stage[name]
        admin = actor.folder / "admin.sock"
        ingress = Ingress(callers, actor.folder / "app.sock", self._refusals(name))
        bootstrap = render_bootstrap(name, self.agent_socket, admin, ingress, egress)
        return self._run_envoy(name, actor, admin, bootstrap)

    def start_gate(self, service: str, parts: Mapping[str, Any]) -> int:
        """Start a second Envoy of a service, which asks troth; returns its port for mutual TLS."""
        actor = self.stage[service]
        admin = actor.folder / "gate.sock"
        bootstrap = render_gate(GATE, admin, actor.folder / "app.sock", parts)
        return self._run_envoy(GATE, actor, admin, bootstrap)

    def _run_envoy(self, name: str, actor: Actor, admin: Path, bootstrap: Mapping[str, Any]) -> int:
        config = actor.folder / f"{name}-envoy.json"
        self.stage.give(actor, config, json.dumps(bootstrap, indent=2))
        options = ("-c", config, "--disable-hot-restart", "--concurrency", "1", *_FLUSH)
        envoy = self.stage.place_envoy(actor)
        launch = self.stage.compose(actor, "launch")
        command = [*launch, "--", envoy, *options, "--log-level", "warning"]
        self.processes[f"{name}-envoy"] = self.company.start(f"{name}-envoy", command)
        self.envoys[name] = EnvoyAdmin(name, admin)
        self.wait(self.envoys[name].is_live, f"the Envoy of {name} serves")
        return self.envoys[name].read_port()

    def start(self, name: str, command: list[str | Path]) -> Process:
        """Start one of our programs under a name of its own."""
        extra = {} if self.stage.users else describe_python_path()
        process = self.company.start_program(name, command, extra)
        self.processes[name] = process
        return process

    def read_traffic(self) -> dict[str, Any]:
        """What became of the requests from orders to payments so far."""
        return self.processes["orders"].ask("report")

    def read_refusals(self, name: str) -> set[str]:
        """Why a service's Envoy refused TLS connections so far, in its own words."""
        lines = self._refusals(name).read_text(encoding="utf-8", errors="replace").splitlines()
        reasons = (line.partition("OPENSSL_internal:")[2] for line in lines)
        return {reason.removesuffix(":TLS_error_end") for reason in reasons if reason}

    def _refusals(self, name: str) -> Path:
        return self.stage[name].folder / "refusals.log"

    # The end

    def explain(self, error: Exception) -> str:
        """An error in words; shows the logs of processes that ended by themselves."""
        for process in self.company.find_ended():
            self.narrator.say(f"the log of {process.name} ({process.log}) ends:")
            self.narrator.quote("\n".join(process.read_tail()))
        return str(error) or type(error).__name__

    def close(self, *, keep_server: bool) -> None:
        """Stop everything, the server and its agent only if they aren't kept."""
        for envoy in self.envoys.values():
            envoy.close()
        self.api.close()
        server = self.processes.get("server")
        kept = [server] if keep_server and server is not None else []
        self.company.stop_all(but=kept)
        if not kept and self._agent >= 0:
            self._stop_agent()
        if self._agent >= 0:
            os.close(self._agent)
            self._agent = -1
        if self.cluster is not None and not kept:
            self.cluster.stop()

    def _stop_agent(self) -> None:
        """The server ends its agent; one that outlived a killed server is ended here."""
        try:
            signal.pidfd_send_signal(self._agent, signal.SIGTERM)
        except ProcessLookupError:
            pass  # the server has ended it


def pick_ports() -> tuple[int, int]:
    """Two ports that the system says are free now."""
    with (
        socket.create_server((LISTEN, 0)) as public,
        socket.create_server((LISTEN, 0)) as mutual,
    ):
        return public.getsockname()[1], mutual.getsockname()[1]
