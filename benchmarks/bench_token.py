"""Access tokens a second by client credentials, each recorded before its answer, on one core.

Distinct identities, each with a key of its own, prove themselves by `private_key_jwt` over TLS on
32 connections; the assertions are made before. The reference, on the same core and in the same run,
is what no such server can do without: one P-256 verification and one P-256 signature, bare. The
detail has the same with client certificates (mutual TLS), with DPoP proofs besides the assertions,
and on a server that has issued a million tokens before (`--millions`), beside one that has not.
"""

from __future__ import annotations

import argparse
import ssl
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.clients import (
    TOKEN_PATH,
    Key,
    ask_token,
    declare,
    fetch_nonce,
    make_assertion,
    make_contexts,
    make_keys,
    make_proof,
    name_client,
)
from benchmarks.installation import Installation, leave_server_cores, run_server
from benchmarks.issued import Left, leave_issued
from benchmarks.load import Batches, Measured, ask_all, run_load
from benchmarks.report import print_rates
from benchmarks.requests import Line, quantile

IDENTITIES = 1000
CONNECTIONS = 32
RUNS = 5
OTHER_RUNS = 2
EACH = 100
RATIO = 0.25
GROWTH = 1.10
ISSUED = b"access_token"

Make = Callable[[Installation, list[Key], int], Batches]


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--millions", type=float, default=1, help="of tokens issued before; 0: none"
    )
    millions = parser.parse_args().millions
    plain = Measured()
    plain.measure_bare(sign=True)
    keys = make_keys(IDENTITIES)
    with run_server() as server:
        leave_server_cores()
        names = [f"workload-{number}" for number in range(CONNECTIONS)]
        declare(server, keys, *names)
        lines = open_lines(server)
        ask_all(lines, make_batches(server, keys, 10), ISSUED)
        for number in range(RUNS):
            run(server, lines, keys, make_batches, plain, f"private_key_jwt, run {number + 1}")
        detail = {
            "mtls": measure_mutual(server, names),
            "dpop": measure_dpop(server, keys, lines),
        }
        close(lines)
        if millions:
            count = round(millions * 1_000_000)
            rate = statistics.median(plain.rates)
            detail[f"after_{count}"] = measure_growth(server, keys, count, rate)
    print_rates(
        "token",
        plain.rates,
        plain.references,
        least=RATIO,
        reference_is="one P-256 verification and one signature by the library, on one core",
        database="SQLite, one fsync a commit at least, before the answer",
        identities=IDENTITIES,
        connections=CONNECTIONS,
        **plain.describe_times(),
        **detail,
    )


def open_lines(server: Installation) -> list[Line]:
    """Connections of clients that show no certificate."""
    context = ssl.create_default_context(cafile=str(server.folder / "ca.pem"))
    return [Line(server.public, context) for _ in range(CONNECTIONS)]


def close(lines: list[Line]) -> None:
    """Hang up."""
    for line in lines:
        line.close()


def run(
    server: Installation,
    lines: list[Line],
    keys: list[Key],
    make: Make,
    into: Measured,
    name: str,
) -> None:
    """One run, every request by another identity than those before it."""
    run_load(server, lines, make(server, keys, EACH), ISSUED, into, name, sign=True)


def measure_mutual(server: Installation, names: list[str]) -> dict[str, Any]:
    """The same by X.509-SVIDs, one identity a connection: nothing is sent that proves more."""
    contexts = make_contexts(server, names)
    lines = [Line(server.mutual, context) for context in contexts]
    batches = [[ask_token(server.mutual, {})] * EACH] * CONNECTIONS
    measured = Measured()
    ask_all(lines, [[batch[0]] * 10 for batch in batches], ISSUED)
    for _ in range(OTHER_RUNS):
        run_load(server, lines, batches, ISSUED, measured, "mTLS", sign=True)
    close(lines)
    return {"identities": len(names), **measured.describe()}


def measure_dpop(server: Installation, keys: list[Key], lines: list[Line]) -> dict[str, Any]:
    """The same with a DPoP proof that has the server's nonce, by another key, besides."""
    holders = make_keys(IDENTITIES)

    def make(server: Installation, keys: list[Key], each: int) -> Batches:
        nonce = fetch_nonce(server, keys[0], name_client(0))
        url = f"{server.public}{TOKEN_PATH}"
        return make_batches(
            server, keys, each, lambda n: f"dpop: {make_proof(holders[n], url, nonce)}"
        )

    measured = Measured()
    for _ in range(OTHER_RUNS):
        run(server, lines, keys, make, measured, "DPoP")
    return measured.describe()


def measure_growth(
    server: Installation, keys: list[Key], count: int, rate: float
) -> dict[str, Any]:
    """What a token costs here once `count` were issued before, at `rate` a second, and on a server
    that issued next to none; in turns, so that both meet the same machine."""
    left: list[Left] = []
    start = server.restart(lambda folder: left.append(leave_issued(folder, count, rate)))
    after, before = Measured(), Measured()
    with run_server() as fresh:
        declare(fresh, keys)
        pairs = [(fresh, before, "before"), (server, after, "after")]
        for one, _, _ in pairs:
            lines = open_lines(one)
            ask_all(lines, make_batches(one, keys, EACH), ISSUED)
            close(lines)
        for _ in range(RUNS):
            for one, measured, word in pairs:
                lines = open_lines(one)  # none stays open for as long as the other one's turn takes
                run(one, lines, keys, make_batches, measured, word)
                close(lines)
    p50s = [quantile(one.times, 0.5) for one in (before, after)]
    costs = [statistics.median(one.costs) for one in (before, after)]
    return {
        "p50_ratio": round(p50s[1] / p50s[0], 3),
        "p50_ratio_most": GROWTH,
        "cpu_ratio": round(costs[1] / costs[0], 3),
        "before": before.describe(),
        "after": after.describe(),
        "start_s": round(start, 2),
        **left[0].describe(),
    }


def make_batches(
    server: Installation,
    keys: list[Key],
    each: int,
    header: Callable[[int], str] | None = None,
) -> Batches:
    """Requests for each connection, every one with a fresh assertion of another identity."""

    def make(number: int) -> bytes:
        which = number % len(keys)
        proof = make_assertion(keys[which], name_client(which), server.public)
        return ask_token(server.public, proof, *([header(which)] if header else []))

    return [
        [make(connection + number * CONNECTIONS) for number in range(each)]
        for connection in range(CONNECTIONS)
    ]


if __name__ == "__main__":
    main()
