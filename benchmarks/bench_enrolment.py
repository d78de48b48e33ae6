"""Devices a second that enrol with a code, each over a TLS connection of its own, on one core.

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
import time

from benchmarks.bench_issuance import measure_reference
from benchmarks.fleet import enrol_fleet, post
from benchmarks.installation import Installation, leave_server_cores, make_csr, run_server
from troth.wire.api.devices import InviteDevices
from troth.wire.api.identities import ListInstances, RegisterIdentity

DEVICES = int(os.environ.get("DEVICES", "2000"))
AT_ONCE = 1000
IDENTITIES = 50
HANDSHAKES = 500


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    csrs = [make_csr() for _ in range(DEVICES)]
    before = measure_reference(csrs[:256])
    with run_server() as server:
        leave_server_cores()
        codes = invite(server)
        roots = (server.folder / "ca.pem").read_bytes()
        url = server.public
        handshake = asyncio.run(measure_handshakes(server, url, roots))
        used, began = server.measure_cpu(), time.perf_counter()
        found = asyncio.run(enrol_fleet(url, roots, codes, csrs, at_once=AT_ONCE))
        seconds = time.perf_counter() - began
        cost = (server.measure_cpu() - used) / DEVICES
        lost, twice = check(server, [device.answer["instance_id"] for device in found])
    reference = (before + measure_reference(csrs[:256])) / 2
    value = DEVICES / seconds
    result = {
        "name": "enrolment",
        "value": round(value, 1),
        "unit": "1/s",
        "reference": round(reference, 1),
        "ratio": round(value / reference, 3),
        "detail": {
            "devices": DEVICES,
            "at_once": AT_ONCE,
            "seconds": round(seconds, 2),
            "lost": lost,
            "twice": twice,
            "asked_again": sum(device.attempts - 1 for device in found),
            "server_cpu_ms_each": round(cost * 1000, 2),
            "server_cpu_ms_of_a_handshake": round(handshake * 1000, 2),
            "reference_is": "cryptography alone on one core: CSR parse, verify, build, sign",
            "cores": os.cpu_count(),
        },
    }
    print(json.dumps(result))
    if lost or twice:
        sys.exit(1)


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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=roots.decode())
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
