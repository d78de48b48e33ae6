"""JWT-SVIDs a second through the API of one server on one core, each recorded before its answer.

A node's agent asks for batches of 256 over mutual TLS, on a few connections at once, each token for
a running copy of its own; the answer to a batch is given when its tokens and their journal entries
are on disk. The reference, on the same core and in the same run, is a bare ECDSA P-256 signature
over a token's worth of bytes. What one token a request costs stands in the detail.
"""

from __future__ import annotations

import os
import statistics
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
from benchmarks.report import print_rates, say
from troth.wire.api.certificates import InstanceClaim
from troth.wire.api.jwt_svids import IssuedJwtSvids, IssueJwtSvids, JwtSvidRequest

BATCH = 256
IDENTITIES = 8
CONNECTIONS = 3
BATCHES = 8
SINGLE_CONNECTIONS = 16
SINGLES = 30
SIGNATURES = 5000
TOKEN_BYTES = 400
RUNS = 5
RATIO = 0.10
ROUTE = "/v1/jwt-svids/issue"


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    rates, singles, shares, costs = [], [], [], []
    references = [measure_reference()]
    with run_server() as server:
        leave_server_cores()
        ids = [server.register(f"bench-{number}").id for number in range(IDENTITIES)]
        bodies = [make_body(ids, number, BATCH) for number in range(CONNECTIONS)]
        lone = [make_body(ids, number, 1) for number in range(SINGLE_CONNECTIONS)]
        with server.join() as client:
            run_together(CONNECTIONS, lambda n: issue(client, bodies[n], 1, BATCH))
            run_together(SINGLE_CONNECTIONS, lambda n: issue(client, lone[n], 1, 1))
            for number in range(RUNS):
                before = server.measure_cpu()
                seconds = run_together(
                    CONNECTIONS, lambda n: issue(client, bodies[n], BATCHES, BATCH)
                )
                rates.append(CONNECTIONS * BATCHES * BATCH / seconds)
                used = server.measure_cpu() - before
                shares.append(used / seconds)
                costs.append(used * 1e6 / (CONNECTIONS * BATCHES * BATCH))
                references.append(measure_reference())
                seconds = run_together(
                    SINGLE_CONNECTIONS, lambda n: issue(client, lone[n], SINGLES, 1)
                )
                singles.append(SINGLE_CONNECTIONS * SINGLES / seconds)
                say(f"run {number + 1}: {rates[-1]:.0f} a second, reference {references[-1]:.0f}")
    print_rates(
        "jwt-svid",
        rates,
        references,
        least=RATIO,
        reference_is="cryptography alone on one core: ECDSA P-256 with SHA-256",
        database="SQLite, one fsync a commit at least, before the answer",
        batch=BATCH,
        connections=CONNECTIONS,
        identities=IDENTITIES,
        one_a_request_per_s=round(statistics.median(singles), 1),
        server_cpu_us_each=round(statistics.median(costs), 1),
        server_core_share=round(statistics.median(shares), 2),
    )


def make_body(ids: list[str], number: int, count: int) -> bytes:
    """A request for `count` tokens, each for a running copy of its own, as JSON."""
    requests = [
        JwtSvidRequest(
            identity_id=ids[(number + index) % len(ids)],
            instance=InstanceClaim(
                key=f"{number:016x}{index:016x}", pid=1000 + index, selectors=[SELECTOR]
            ),
            audiences=["bench"],
        )
        for index in range(count)
    ]
    return msgspec.json.encode(IssueJwtSvids(requests=requests))


def issue(client: httpx.Client, body: bytes, times: int, count: int) -> None:
    """Ask again and again; every answer must hold `count` tokens."""
    for _ in range(times):
        answer = client.post(ROUTE, content=body)
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {answer.text[:500]}")
        results = msgspec.json.decode(answer.content, type=IssuedJwtSvids).results
        refused = [result.error.detail for result in results if result.error]
        whole = len(results) == count and all(result.token.count(".") == 2 for result in results)
        if refused or not whole:
            raise RuntimeError(f"{len(refused)} of {len(results)} refused: {refused[:1]}")


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
