"""JWT-SVIDs a second through the API of one server on one core, each recorded before its answer.

Nodes ask over mutual TLS, one token a request, several requests at once. The reference, on the
same core and in the same run, is a bare ECDSA P-256 signature over a token's worth of bytes.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

import httpx
import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.installation import (
    SELECTOR,
    SERVER_CORES,
    leave_server_cores,
    run_server,
    run_together,
)
from troth.wire.api.certificates import InstanceClaim, IssuedJwtSvid, IssueJwtSvid

IDENTITIES = 8
CONNECTIONS = 16
REQUESTS = 60
SIGNATURES = 5000
TOKEN_BYTES = 400
RUNS = 5
RATIO = 0.10
ROUTE = "/v1/jwt-svids/issue"


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    rates, shares, references = [], [], [measure_reference()]
    with run_server() as server:
        leave_server_cores()
        ids = [server.register(f"bench-{number}").id for number in range(IDENTITIES)]
        bodies = [make_body(ids[number % IDENTITIES], number) for number in range(CONNECTIONS)]
        with server.join() as client:
            run_together(CONNECTIONS, lambda n: issue(client, bodies[n], 5))
            for number in range(RUNS):
                before = server.measure_cpu()
                seconds = run_together(CONNECTIONS, lambda n: issue(client, bodies[n], REQUESTS))
                rates.append(CONNECTIONS * REQUESTS / seconds)
                shares.append((server.measure_cpu() - before) / seconds)
                references.append(measure_reference())
                print(
                    f"run {number + 1}: {rates[-1]:.0f} a second, reference {references[-1]:.0f}",
                    file=sys.stderr,
                )
    value, reference = statistics.median(rates), statistics.median(references)
    result = {
        "name": "jwt-svid",
        "value": round(value, 1),
        "unit": "1/s",
        "reference": round(reference, 1),
        "ratio": round(value / reference, 4),
        "detail": {
            "runs": [round(rate, 1) for rate in rates],
            "references": [round(rate, 1) for rate in references],
            "reference_is": "cryptography alone on one core: ECDSA P-256 with SHA-256",
            "database": "SQLite, one fsync a commit at least, before the answer",
            "connections": CONNECTIONS,
            "identities": IDENTITIES,
            "server_core_share": round(statistics.median(shares), 2),
            "targets": {"ratio": RATIO},
            "met": value / reference >= RATIO,
            "cores": os.cpu_count(),
        },
    }
    print(json.dumps(result))


def make_body(identity_id: str, number: int) -> bytes:
    """A request for one token, for a running copy of its own, as JSON."""
    claim = InstanceClaim(key=f"{number:032x}", pid=1000 + number, selectors=[SELECTOR])
    return msgspec.json.encode(
        IssueJwtSvid(identity_id=identity_id, instance=claim, audiences=["bench"])
    )


def issue(client: httpx.Client, body: bytes, times: int) -> None:
    """Ask again and again; every answer must hold a token."""
    for _ in range(times):
        answer = client.post(ROUTE, content=body)
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {answer.text[:500]}")
        if msgspec.json.decode(answer.content, type=IssuedJwtSvid).token.count(".") != 2:
            raise RuntimeError("the answer holds no token")


def measure_reference() -> float:
    """Signatures a second by the library alone, on the server's core."""
    key, data = ec.generate_private_key(ec.SECP256R1()), bytes(TOKEN_BYTES)
    algorithm = ec.ECDSA(hashes.SHA256())
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, SERVER_CORES)
    try:
        began = time.perf_counter()
        for _ in range(SIGNATURES):
            key.sign(data, algorithm)
        return SIGNATURES / (time.perf_counter() - began)
    finally:
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
