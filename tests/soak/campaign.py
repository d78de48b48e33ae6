"""A campaign: servers under load, killed at random moments, restarted and audited each time."""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.soak.audit import Audit, Journal, demand
from tests.soak.clients import Client, Rotator
from tests.soak.databases import Database
from tests.soak.ledger import Ledger
from tests.soak.load import CLIENTS
from tests.soak.logs import LogAudit
from tests.soak.stand import Server
from troth.core.errors import TrothError
from troth.wire.api.authorities import ListAuthorities
from troth.wire.api.certificates import CertificateRequest, InstanceClaim, IssueCertificates
from troth.wire.api.status import GetStatus

START_SPAN = 1.6
"""Seconds from a process's birth to its readiness, more or less: kills fall anywhere in between."""

LOAD_SPAN = 1.2
STRANDED_SECONDS = 300 + 30 + 30
"""When a reconciler must have been there: what it waits, its period, and some patience."""

LONG_LIFE = 45.0
TELL_EVERY = 10
"""Kills from one line about them to the next."""


@dataclass(slots=True)
class Tally:
    """What was done and measured."""

    kills: Counter[str] = field(default_factory=Counter)
    starts: list[float] = field(default_factory=list)
    samples: list[dict[str, int]] = field(default_factory=list)
    listed: int = 0

    @property
    def total(self) -> int:
        """Kills of servers; those of the database are extra."""
        return sum(n for kind, n in self.kills.items() if not kind.startswith("database"))


class Campaign:
    """One engine, some servers, all clients; one source of chance."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        servers: int,
        seed: int,
        say: Callable[[str], None],
        pace: float = 1.0,
    ) -> None:
        self._pace = pace
        self.random = random.Random(seed)
        self.tally = Tally()
        self.ledger = Ledger()
        self._say = say
        self._folder = folder
        self._database = database
        url = database.create(folder / "s0" / "troth.db")
        self.servers = [
            Server(folder, f"s{number}", url, agent=number == 0) for number in range(servers)
        ]
        self._records = database.open_records(url)
        self.audit = Audit(self._records, self.ledger)
        self.logs = LogAudit()
        self._clients: list[Client] = []

    def run(self, kills: int, *, patient: bool) -> None:
        """All of it. `patient` waits at the end for the servers' own reconciler."""
        for server in self.servers:
            server.launch()
            self.tally.starts.append(server.wait())
        self._start_clients()
        told = 0
        while self.tally.total < kills:
            self._kill_once()
            if self.tally.total >= told + TELL_EVERY:
                told = self.tally.total
                self._tell()
        if patient:
            self._live_long()
        self._stop_clients()
        self._settle(patient=patient)
        self.audit.conclude()
        self.logs.conclude([server.data for server in self.servers], self._records)
        self._check_growth()

    def _tell(self) -> None:
        """How far it is; the seconds stand before it."""
        acknowledged = self.ledger.count_acknowledged()
        self._say(
            f"{self.tally.total} kills, {acknowledged} operations acknowledged, "
            f"journal at {self.audit.journal.head}"
        )

    def close(self) -> None:
        """End everything, however far it came."""
        for client in self._clients:
            client.stop()
        for server in self.servers:
            server.tell(self._say)
            server.kill()
            server.end_agent()

    def _start_clients(self) -> None:
        for name, make in CLIENTS.items():
            seed = self.random.getrandbits(32)
            client = make(name, self.servers, self.ledger, seed, self._folder)
            client.pace = self._pace
            self._clients.append(client)
        for client in self._clients:
            client.start()

    def _stop_clients(self) -> None:
        for client in self._clients:
            client.stop()
        for client in self._clients:
            client.join(60)
            demand(not client.is_alive(), f"{client.name} hangs")

    def _kill_once(self) -> None:
        kind = self.random.choices(
            ("load", "starting", "rotation", "birth", "database"),
            weights=(45, 30, 12, 8, self._database.kill_weight),
        )[0]
        if kind == "birth":
            self._kill_at_birth()
            return
        if kind == "database":
            self.tally.kills[self._database.kill(self.random)] += 1
            self._await_recovery()
        elif kind == "starting":
            self._kill_while_starting()
        else:
            self._kill_under_load(kind)
        self._revive()
        for client in self._clients:
            if client.failure is not None:
                raise client.failure

    def _kill_under_load(self, kind: str) -> None:
        if kind == "rotation":
            (rotator,) = (client for client in self._clients if isinstance(client, Rotator))
            rotator.at_it.clear()
            rotator.wanted.set()
            rotator.at_it.wait(5)
            time.sleep(self.random.random() * 0.15)
        else:
            time.sleep(self.random.random() * LOAD_SPAN)
        for server in self._pick_victims():
            server.kill()
            self.tally.kills[kind] += 1

    def _kill_while_starting(self) -> None:
        for server in self._pick_victims():
            if server.alive:
                server.kill()
                self.tally.kills["load"] += 1
            server.launch()
            time.sleep(self.random.random() * START_SPAN)
            server.kill()
            self.tally.kills["starting"] += 1

    def _pick_victims(self) -> list[Server]:
        if self.random.random() < 0.25:
            return list(self.servers)
        return [self.random.choice(self.servers)]

    def _revive(self) -> None:
        """Audit what the dead left, start them, audit what they say."""
        self.audit.look()
        dead = [server for server in self.servers if not server.alive]
        for server in dead:
            self.logs.look(server.data)
        for server in dead:
            server.launch()
        for server in dead:
            self.tally.starts.append(server.wait())
        for server in dead:
            self.tally.listed += self.audit.check_lists(self._fetch_lists(server))
        self._check_cut_off()
        self.audit.check_stranded(time.time(), STRANDED_SECONDS)
        demand(not any(s.broken for s in self.servers), str([s.broken for s in self.servers]))
        self.tally.samples.append(self.servers[0].measure() | {"database": self._records.size()})

    def _fetch_lists(self, server: Server) -> dict[str, bytes]:
        """The published revocation lists, as anybody gets them."""
        with server.open_admin() as admin:
            known = admin.call("authority.ls", ListAuthorities()).items
        living = [
            a.id for a in known if a.use == "x509-svid" and a.state not in ("revoked", "ended")
        ]
        transport = httpx.HTTPTransport(uds=str(server.data / "admin.sock"))
        lists = {}
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=30) as client:
            for authority in living:
                answer = client.get(f"/crl/{authority}.crl")
                # One that was prepared a moment ago has none yet, and signs nothing.
                if answer.status_code == 200:
                    lists[authority] = answer.content
        return lists

    def _check_cut_off(self) -> None:
        """What was quarantined, and the answer given, gets nothing from any server, ever."""
        wanted = self.ledger.list_cut_off(8)
        (warden,) = (client for client in self._clients if client.name == "warden-a")
        if not wanted or not warden.pem.exists():
            return
        requests = [
            CertificateRequest(
                identity_id=identity,
                csr=warden.csr,
                instance=InstanceClaim(key="ab" * 8, pid=1, selectors=["unix:uid:1001"]),
            )
            for identity in wanted
        ]
        for server in self.servers:
            try:
                with warden.open_mutual(server) as client:
                    body = IssueCertificates(requests=requests)
                    answers = client.call("certificate.issue", body).results
            except TrothError:
                continue  # a refusal of all is a refusal of each
            granted = [answer.serial for answer in answers if answer.error is None]
            demand(not granted, f"{server.name} issued {granted} to quarantined identities")

    def _await_recovery(self) -> None:
        """Servers that lost their database find back by themselves: each must serve again."""
        for server in self.servers:
            deadline = time.monotonic() + 30
            while True:
                with server.open_admin() as admin:
                    try:
                        admin.call("status.show", GetStatus())
                        break
                    except TrothError:
                        demand(time.monotonic() < deadline, f"{server.name} doesn't find back")
                        time.sleep(0.1)

    def _kill_at_birth(self) -> None:
        """An installation killed again and again before it was ever ready comes up all the same."""
        number = self.tally.kills["birth"]
        folder = self._folder / f"birth-{number}"
        folder.mkdir()
        url = self._database.create(folder / "b" / "troth.db")
        server = Server(folder, "b", url, agent=False)
        try:
            for _ in range(self.random.randint(1, 3)):
                server.launch()
                time.sleep(self.random.random() * START_SPAN)
                server.kill()
                self.tally.kills["birth"] += 1
            server.launch()
            server.wait()
            records = self._database.open_records(url)
            time.sleep(0.3)
            server.kill()
            demand(not server.broken, str(server.broken))
            Journal().read(records)
            sql = "select use, count(*) from authorities where state = 'active' group by use"
            active = dict(records.rows(sql))
            wanted = {"x509-svid": 1, "jwt-svid": 1, "access-token": 1}
            demand(active == wanted, f"active authorities: {active}")
        finally:
            server.kill()
            self._database.drop(url, folder)

    def _live_long(self) -> None:
        """Under load without a kill, for a while: what a process holds must not grow for ever."""
        self._say(f"{LONG_LIFE:.0f} s under load without a kill")
        time.sleep(LONG_LIFE / 3)
        first = self.servers[0].measure()
        time.sleep(LONG_LIFE)
        last = self.servers[0].measure()
        demand(last["server_files"] <= first["server_files"] + 10, f"files: {first} {last}")
        demand(last["server_kb"] <= first["server_kb"] + 40_000, f"memory: {first} {last}")

    def _settle(self, *, patient: bool) -> None:
        """Until nothing is under way and nothing is stranded."""
        self._revive()
        self.logs.wait_complete([server.data for server in self.servers], self._records)
        if not patient:
            for server in self.servers:
                server.kill()
            self._database.reconcile(self.servers[0].data / "troth.db")
            return
        deadline = time.monotonic() + STRANDED_SECONDS
        self._say("waiting for the reconciler")
        while self.audit.list_stranded():
            demand(time.monotonic() < deadline, "the reconciler leaves interrupted issuances open")
            time.sleep(1)
        time.sleep(1)
        for server in self.servers:
            server.stop()

    def _check_growth(self) -> None:
        """From the first tenth of the restarts to the last, nothing has grown that shouldn't."""
        samples = self.tally.samples
        tenth = len(samples) // 10
        if tenth < 5:
            return

        def median(part: list[dict[str, int]], key: str) -> float:
            return statistics.median(sample[key] for sample in part if key in sample)

        first, last = samples[:tenth], samples[-tenth:]
        for key, allowed in (("server_files", 10), ("agent_files", 10), ("agent_kb", 40_000)):
            began, ended = median(first, key), median(last, key)
            demand(ended <= began + allowed, f"{key} grew from {began} to {ended}")
        keys = self.audit.journal.types["authority.intended"]
        # The seal, the key of policy versions, and the log's two.
        demand(last[-1]["keys"] <= keys + 4, f"{last[-1]['keys']} key files of {keys} authorities")
        loose = last[-1]["files"] - last[-1]["keys"]
        demand(loose <= first[0]["files"] - first[0]["keys"] + 10, f"{loose} files are left")

    def report(self, seconds: float) -> dict[str, Any]:
        """What happened, in figures."""
        samples = self.tally.samples
        return {
            "engine": self._database.name,
            "servers": len(self.servers),
            "kills": dict(self.tally.kills),
            "killed": self.tally.total,
            "operations": self.ledger.count_acknowledged(),
            "acknowledged": dict(sorted(self.ledger.counts.items())),
            "refusals": dict(sorted(self.ledger.refusals.items())),
            "journal": self.audit.journal.head,
            "abandoned": self.audit.journal.types["certificate.abandoned"]
            + self.audit.journal.types["jwtsvid.abandoned"],
            "listed": self.tally.listed,
            "checkpoints": self.logs.looks,
            "entries": self.logs.entries,
            "start_s": round(statistics.median(self.tally.starts), 2) if self.tally.starts else 0,
            "first": samples[0] if samples else {},
            "last": samples[-1] if samples else {},
            "seconds": round(seconds),
        }


def speak(name: str) -> Callable[[str], None]:
    """Says how far it is, with the time, on standard error."""
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began:6.0f} s] {name}: {what}", file=sys.stderr, flush=True)

    say(f"process {os.getpid()}")
    return say
