"""Devices a second that enrol with a code, each over a TLS connection of its own, on one core.

Then all of them renew at once, over mutual TLS with what they got; and all of it once more on
PostgreSQL, which works on the other cores beside the devices.

They come all at once, as after a delivery or an outage: as many connections as the server takes
from one address, the rest in line. Nobody may be lost and nobody enrolled twice. The reference, in
the same run on the same core, is what the `cryptography` library alone needs for each certificate:
parse the CSR, verify it, build, sign. What is beside that is mostly the TLS handshake, which is
measured too: connections a second to a document that costs next to nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.bench_issuance import measure_reference
from benchmarks.fleet import Enrolled, enrol_fleet, post, renew_fleet, trust_only
from benchmarks.installation import Installation, leave_server_cores, make_csr, run_server
from benchmarks.report import say
from tests.fakes.postgres import start_cluster
from troth.wire.api.devices import InviteDevices
from troth.wire.api.identities import ListInstances, RegisterIdentity

DEVICES = int(os.environ.get("DEVICES", "2000"))
AT_ONCE = 1000
IDENTITIES = 50
HANDSHAKES = 500


@dataclass(frozen=True, slots=True)
class Fleet:
    """The keys of all devices, and what each asks with."""

    keys: list[ec.EllipticCurvePrivateKey]
    csrs: list[bytes]


@dataclass(frozen=True, slots=True)
class Measured:
    """One wave of devices, and what came of them."""

    rate: float
    seconds: float
    again: int
    cost: float

    def describe(self) -> dict[str, Any]:
        """As the result shows it."""
        return {
            "seconds": round(self.seconds, 2),
            "asked_again": self.again,
            "server_cpu_ms_each": round(self.cost * 1000, 2),
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """Both waves on one database; `handshake` in processor seconds of the server."""

    enrolment: Measured
    renewal: Measured
    handshake: float
    lost: int
    twice: int

    def describe(self) -> dict[str, Any]:
        """As the result shows it."""
        return {
            "lost": self.lost,
            "twice": self.twice,
            **self.enrolment.describe(),
            "server_cpu_ms_of_a_handshake": round(self.handshake * 1000, 2),
            "renewals": {"value": round(self.renewal.rate, 1), **self.renewal.describe()},
        }


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(DEVICES)]
    fleet = Fleet(keys, [make_csr(key) for key in keys])
    before = measure_reference(fleet.csrs[:256])
    outcome = measure(fleet, "")
    reference = (before + measure_reference(fleet.csrs[:256])) / 2
    postgresql = measure_postgresql(fleet)
    value = outcome.enrolment.rate
    result = {
        "name": "enrolment",
        "value": round(value, 1),
        "unit": "1/s",
        "reference": round(reference, 1),
        "ratio": round(value / reference, 3),
        "detail": {
            "devices": DEVICES,
            "at_once": AT_ONCE,
            **outcome.describe(),
            "database": "SQLite, one fsync a commit at least, before the answer",
            "postgresql": postgresql
            and {"value": round(postgresql.enrolment.rate, 1), **postgresql.describe()},
            "reference_is": "cryptography alone on one core: CSR parse, verify, build, sign",
            "cores": os.cpu_count(),
        },
    }
    print(json.dumps(result))
    if any(found and (found.lost or found.twice) for found in (outcome, postgresql)):
        sys.exit(1)


def measure_postgresql(fleet: Fleet) -> Outcome | None:
    """The same on a PostgreSQL server on the other cores; None where it isn't installed."""
    cluster = start_cluster()
    if cluster is None:
        return None
    try:
        return measure(fleet, cluster.create_database())
    finally:
        cluster.remove()


def measure(fleet: Fleet, database: str) -> Outcome:
    """Enrol and renew at a server of its own, on the database at that URL or on SQLite."""
    with run_server(database=database) as server:
        leave_server_cores()
        codes = invite(server)
        roots = (server.folder / "ca.pem").read_bytes()
        handshake = asyncio.run(measure_handshakes(server, server.public, roots))
        say(f"{DEVICES} devices enrol")
        enrolling = enrol_fleet(server.public, roots, codes, fleet.csrs, at_once=AT_ONCE)
        enrolled, first = measure_wave(server, enrolling)
        contexts = show_certificates(roots, fleet, enrolled)
        say(f"{DEVICES} devices renew")
        renewing = renew_fleet(server.mutual, contexts, fleet.csrs, at_once=AT_ONCE)
        renewed, second = measure_wave(server, renewing)
        lost, twice = check(server, [device.answer["instance_id"] for device in enrolled])
        # Whoever renews is still the same one, and has another certificate.
        for before, after in zip(enrolled, renewed, strict=True):
            lost += after.answer["instance_id"] != before.answer["instance_id"]
        chains = [device.answer["chain"][0] for device in enrolled + renewed]
        twice += len(chains) - len(set(chains))
    return Outcome(first, second, handshake, lost, twice)


def measure_wave(
    server: Installation, wave: Coroutine[Any, Any, list[Enrolled]]
) -> tuple[list[Enrolled], Measured]:
    """Let all devices come, and see what that takes."""
    used, began = server.measure_cpu(), time.perf_counter()
    found = asyncio.run(wave)
    seconds = time.perf_counter() - began
    return found, Measured(
        rate=DEVICES / seconds,
        seconds=seconds,
        again=sum(device.attempts - 1 for device in found),
        cost=(server.measure_cpu() - used) / DEVICES,
    )


def show_certificates(
    roots: bytes, fleet: Fleet, enrolled: Sequence[Enrolled]
) -> list[ssl.SSLContext]:
    """TLS for each device, with its key and what it got."""
    contexts = []
    with tempfile.NamedTemporaryFile(prefix="troth-device-") as file:  # TLS reads nothing else
        for key, device in zip(fleet.keys, enrolled, strict=True):
            ders = map(b64decode, device.answer["chain"])
            chain = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders]
            private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            Path(file.name).write_bytes(private + b"".join(chain))
            contexts.append(trust_only(roots))
            contexts[-1].load_cert_chain(file.name)
    return contexts


def invite(server: Installation) -> list[str]:
    """A code for each device; some devices share an identity."""
    names = [f"bench-{number}" for number in range(IDENTITIES)]
    codes: list[str] = []
    with server.open_admin() as admin:
        for name in names:
            admin.call(
                "identity.register",
                RegisterIdentity(
                    name=name, kind="device", owner="bench", purpose="Measures", activate=True
                ),
            )
        wanted = [names[number % IDENTITIES] for number in range(DEVICES)]
        for start in range(0, DEVICES, 1000):
            made = admin.call("device.invite", InviteDevices(names=wanted[start : start + 1000]))
            codes += [code.code for code in made.codes]
    return codes


async def measure_handshakes(server: Installation, url: str, roots: bytes) -> float:
    """Processor seconds of the server for a connection whose request is refused at once."""
    context = trust_only(roots)
    used = server.measure_cpu()
    for _ in range(HANDSHAKES // 50):
        await asyncio.gather(*(post(url, context, "/v1/devices/enroll", {}) for _ in range(50)))
    return (server.measure_cpu() - used) / HANDSHAKES


def check(server: Installation, instances: list[str]) -> tuple[int, int]:
    """How many devices the server doesn't know, and how many it knows twice."""
    known: list[str] = []
    with server.open_admin() as admin:
        for number in range(IDENTITIES):
            page = admin.call("instance.ls", ListInstances(name=f"bench-{number}"))
            known += [instance.id for instance in page.items]
    lost = len(set(instances) - set(known))
    return lost, abs(len(known) - len(instances)) + len(instances) - len(set(instances))


if __name__ == "__main__":
    main()
