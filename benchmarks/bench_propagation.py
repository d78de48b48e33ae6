"""How long from a quarantine answered on one server until the identity is denied elsewhere.

Two real servers, A and B, share one PostgreSQL database. Beside B are its agent, an unmodified
Envoy that takes certificate, roots and revocation lists from that agent, and a service with our SDK
(this process). A thousand identities get a certificate each and are quarantined on A, one after the
other. For each, from A's answer, the time until

- *server*: B refuses a request on an open connection with that certificate (B's live view; B
  refuses to issue from the first moment, since it asks the same database),
- *sdk*: the SDK's `check` denies that certificate,
- *envoy*: a new handshake with that certificate fails at the Envoy.

They are found by asking again and again, and count when the refusal is there: so they are too long
by up to one round, some 3 ms. The reference is one hop by PostgreSQL alone, in the same run: from
the beginning of a transaction that inserts a row and notifies until another connection has the
notification. What is measured takes at least one durable commit more than the answer (the sealing),
and for the Envoy four.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import ssl
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import psycopg
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.installation import SELECTOR, Installation, make_csr, run_server
from tests.fakes.envoy import configure_server, run_envoy
from tests.fakes.postgres import start_cluster
from troth.sdk.guard import PeerGuard
from troth.wire.api.certificates import CertificateRequest, InstanceClaim, IssueCertificates
from troth.wire.api.identities import MoveIdentity
from troth.wire.pem import render_pem_certificates

COUNT = int(os.environ.get("COUNT", "1000"))
WARM_UP = 5
BATCH = 100
TARGET_MS = 250.0
PATIENCE = 10.0
PAUSE = 0.001
"""Seconds between two questions to a verifier."""

REQUEST = b"GET / HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n"
PLACES = ("server", "sdk", "envoy")


@dataclass(frozen=True, slots=True)
class Victim:
    """An identity to be quarantined, with its certificate (DER) and a file of chain and key."""

    name: str
    certificate: bytes
    pem: Path


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    cluster = start_cluster()
    if cluster is None:
        raise SystemExit("Debian's package postgresql is not installed")
    database = cluster.create_database()
    with (
        run_server(pinned=False, database=database) as one,
        run_server(agent=True, pinned=False, database=database, keys=one.folder / "keys") as two,
    ):
        two.register("edge", selectors=[f"unix:uid:{os.getuid()}"], nodes=["*"])
        victims = make_victims(two, COUNT + WARM_UP)
        print(f"{len(victims)} certificates issued", file=sys.stderr)
        reference = measure_notify(database)
        before = [server.measure_cpu() for server in (one, two)]
        taken = asyncio.run(measure(one, two, victims))
        used = [
            round((server.measure_cpu() - was) / len(victims) * 1000, 1)
            for server, was in zip((one, two), before, strict=True)
        ]
    print(json.dumps(describe(taken, reference, used)))


async def measure(
    one: Installation, two: Installation, victims: list[Victim]
) -> dict[str, list[float]]:
    """Milliseconds by place, with an Envoy and an SDK beside the second server."""
    agent = two.folder / "agent.sock"
    folder = two.folder / "envoy"
    folder.mkdir()
    config = configure_server(agent, "default", "ROOTCA")
    async with run_envoy(folder, config) as envoy:
        return await asyncio.to_thread(quarantine_all, one, two, envoy.port, victims)


def quarantine_all(
    one: Installation, two: Installation, port: int, victims: list[Victim]
) -> dict[str, list[float]]:
    """Quarantine one after the other; the first ones don't count."""
    taken: dict[str, list[float]] = {place: [] for place in PLACES}
    endpoint = f"unix://{two.folder / 'agent.sock'}"
    with PeerGuard([two.mutual], endpoint) as guard, one.open_admin() as admin:
        guard.wait_ready()
        for number, victim in enumerate(victims):
            round_ = Round(two, guard, port, victim)
            request = MoveIdentity(name=victim.name, reason="a benchmark cuts off")
            found = round_.run(partial(admin.call, "identity.quarantine", request))
            if number < WARM_UP:
                continue
            for place, seconds in found.items():
                taken[place].append(seconds * 1000)
            if (number - WARM_UP) % 100 == 99:
                show_progress(taken)
    return taken


class Round:
    """One quarantine, watched at three places at once."""

    def __init__(self, two: Installation, guard: PeerGuard, port: int, victim: Victim) -> None:
        self._two = two
        self._guard = guard
        self._port = port
        self._victim = victim
        self._denied: dict[str, float] = {}
        self._errors: list[BaseException] = []
        self._asked = threading.Event()

    def run(self, quarantine: Callable[[], Any]) -> dict[str, float]:
        """Seconds from the answer until each place denied; an early denial counts as 0."""
        context = ssl.create_default_context(cafile=str(self._two.folder / "ca.pem"))
        context.load_cert_chain(self._victim.pem)
        context.check_hostname = False
        with httpx.Client(base_url=self._two.mutual, verify=context, trust_env=False) as client:
            looks: dict[str, Callable[[], bool]] = {
                "server": lambda: client.get("/v1/status").status_code == 401,
                "sdk": lambda: not self._guard.check(self._victim.certificate).allowed,
                "envoy": lambda: not self._shake_hands(context),
            }
            for place, look in looks.items():
                if look():
                    raise RuntimeError(f"{self._victim.name} is denied at the {place} before")
            threads = [
                threading.Thread(target=self._watch, args=(place, look))
                for place, look in looks.items()
            ]
            for thread in threads:
                thread.start()
            quarantine()
            answered = time.monotonic()
            for thread in threads:
                thread.join()
        if self._errors:
            raise self._errors[0]
        return {place: max(0.0, at - answered) for place, at in self._denied.items()}

    def _watch(self, place: str, look: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        try:
            while not look():
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self._victim.name} is never denied at the {place}")
                time.sleep(PAUSE)
            self._denied[place] = time.monotonic()
        except BaseException as error:  # noqa: BLE001 - raised where the round is run
            self._errors.append(error)

    def _shake_hands(self, context: ssl.SSLContext) -> bool:
        """Whether the Envoy accepts the certificate: in TLS 1.3 the first answer tells."""
        try:
            with (
                socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as raw,
                context.wrap_socket(raw) as connection,
            ):
                connection.sendall(REQUEST)
                return connection.recv(15).startswith(b"HTTP/1.1 200")
        except (ssl.SSLError, ConnectionError):
            return False


def make_victims(server: Installation, count: int) -> list[Victim]:
    """Identities on the node `bench`, each with one certificate."""
    registered = [server.register(f"victim-{number:04}") for number in range(count)]
    victims = []
    with server.join() as client:
        for start in range(0, count, BATCH):
            part = registered[start : start + BATCH]
            keys = [ec.generate_private_key(ec.SECP256R1()) for _ in part]
            body = IssueCertificates(
                requests=[
                    CertificateRequest(
                        identity_id=view.id,
                        csr=make_csr(key),
                        instance=InstanceClaim(key=f"{number:032x}", pid=7, selectors=[SELECTOR]),
                    )
                    for number, (view, key) in enumerate(zip(part, keys, strict=True), start)
                ]
            )
            answer = client.post("/v1/certificates/issue", content=_encode(body))
            answer.raise_for_status()
            for view, key, result in zip(part, keys, answer.json()["results"], strict=True):
                victims.append(_keep(server.folder, view.name, key, result))
    return victims


def _keep(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, result: Any) -> Victim:
    chain = [base64.b64decode(one) for one in result["chain"]]
    pem = folder / f"{name}.pem"
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.touch(0o600)
    pem.write_bytes(text + render_pem_certificates(chain))
    return Victim(name, chain[0], pem)


def _encode(body: Any) -> bytes:
    return msgspec.json.encode(body)


def measure_notify(database: str) -> list[float]:
    """Milliseconds from the beginning of a transaction that notifies until a listener knows."""
    parts = urlsplit(database)
    host = parse_qs(parts.query)["host"][0]
    where = f"host={host} dbname={parts.path.lstrip('/')} user=troth"
    taken = []
    with (
        psycopg.connect(where, autocommit=True) as listener,
        psycopg.connect(where, autocommit=True) as writer,
    ):
        listener.execute("LISTEN bench")
        writer.execute("CREATE TABLE bench_notify (n int)")
        heard: list[float] = []
        news = threading.Semaphore(0)

        def listen() -> None:
            for _ in listener.notifies(stop_after=COUNT):
                heard.append(time.monotonic())
                news.release()

        thread = threading.Thread(target=listen)
        thread.start()
        for number in range(COUNT):
            began = time.monotonic()
            with writer.transaction():
                writer.execute("INSERT INTO bench_notify VALUES (%s)", (number,))
                writer.execute("NOTIFY bench")
            news.acquire()
            taken.append((heard[-1] - began) * 1000)
        thread.join()
        writer.execute("DROP TABLE bench_notify")
    return taken


def find_percentile(values: list[float], share: float) -> float:
    """The value that `share` of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summarize(values: list[float]) -> dict[str, float]:
    """p50, p99 and maximum."""
    return {
        "p50": round(statistics.median(values), 2),
        "p99": round(find_percentile(values, 0.99), 2),
        "max": round(max(values), 2),
    }


def show_progress(taken: dict[str, list[float]]) -> None:
    """One line for whoever waits."""
    words = ", ".join(f"{place} {summarize(values)}" for place, values in taken.items())
    print(f"{len(taken['sdk'])} quarantines: {words}", file=sys.stderr)


def describe(
    taken: dict[str, list[float]], notify: list[float], used: list[float]
) -> dict[str, Any]:
    """The result, as every benchmark prints it."""
    value = max(find_percentile(values, 0.99) for values in taken.values())
    reference = find_percentile(notify, 0.99)
    return {
        "name": "propagation",
        "value": round(value, 2),
        "unit": "ms",
        "reference": round(reference, 3),
        "ratio": round(value / reference, 1),
        "detail": {
            "quarantines": len(taken["sdk"]),
            "of": "as many identities with one certificate each, one after the other",
            **{place: summarize(values) for place, values in taken.items()},
            "reference_is": "p99 of one transaction with NOTIFY, until a listener has it",
            "notify": summarize(notify),
            "cpu_ms_each": dict(zip(("a", "b"), used, strict=True)),
            "targets": {"p99_ms": TARGET_MS},
            "met": value <= TARGET_MS,
            "cores": os.cpu_count(),
        },
    }


if __name__ == "__main__":
    main()
