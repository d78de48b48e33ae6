"""AuthZEN evaluations a second over TLS, on kept-alive connections, by one core.

The server of a resource asks with its X.509-SVID, each time about another identity and thing; each
answer is in the decision log, durably, before it is given. The reference, on the same core and in
the same run, is the same listener with an empty handler. In the detail: `evaluations` of 20.
"""

from __future__ import annotations

import json
import statistics
import time

from benchmarks.clients import declare, make_contexts, make_id, make_keys, name_client
from benchmarks.empty import BODY, EmptyServer, run_empty
from benchmarks.installation import Installation, leave_server_cores, run_server
from benchmarks.load import Batches, ask_all
from benchmarks.report import print_result, say
from benchmarks.requests import Line, make_post, quantile

IDENTITIES = 1000
CONNECTIONS = 32
RUNS = 5
EACH = 250
BATCH = 20
BATCHES = 25
RATIO = 0.5
GATE = "gate"
PATH = "/access/v1/evaluation"
_JSON = "content-type: application/json"


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    with run_server() as server, run_empty() as empty:
        leave_server_cores()
        declare(server, make_keys(IDENTITIES), GATE, servers=[GATE])
        (context,) = make_contexts(server, [GATE])
        lines = [Line(server.mutual, context) for _ in range(CONNECTIONS)]
        idle = [Line(empty.url, empty.context) for _ in range(CONNECTIONS)]
        ask_all(lines, make_single(server.mutual, 0, 20), b'"decision":true')
        rates: list[float] = []
        references: list[float] = []
        times: list[float] = []
        costs: list[float] = []
        bare: list[float] = []
        for number in range(RUNS):
            asked = make_single(server.mutual, number + 1, EACH)
            rate, cost = _run(server, lines, asked, b'"decision":true', times)
            rates.append(rate)
            costs.append(cost)
            rate, cost = _run(empty, idle, make_single(empty.url, number + 1, EACH), BODY)
            references.append(rate)
            bare.append(cost)
            say(f"run {number + 1}: {rates[-1]:.0f} a second, empty {references[-1]:.0f}")
        many, many_costs = [], []
        for number in range(3):
            asked = make_many(server.mutual, number, BATCHES)
            rate, cost = _run(server, lines, asked, b'"decision":true')
            many.append(rate * BATCH)
            many_costs.append(cost / BATCH)
        for line in (*lines, *idle):
            line.close()
    value, reference = statistics.median(rates), statistics.median(references)
    print_result(
        "authzen",
        value=value,
        unit="1/s",
        reference=reference,
        targets={"ratio": RATIO},
        met=value / reference >= RATIO,
        reference_is="the same listener, TLS and core, with an empty handler",
        decision_log="one fsync a group at least, before the answer",
        identities=IDENTITIES,
        connections=CONNECTIONS,
        runs=[round(rate, 1) for rate in rates],
        references=[round(rate, 1) for rate in references],
        ratio_by_cpu=round(statistics.median(bare) / statistics.median(costs), 4),
        server_cpu_us_each=round(statistics.median(costs) * 1e6, 1),
        empty_cpu_us_each=round(statistics.median(bare) * 1e6, 1),
        p50_ms=round(quantile(times, 0.5) * 1e3, 2),
        p99_ms=round(quantile(times, 0.99) * 1e3, 2),
        evaluations_of_20={
            "decisions_per_s": round(statistics.median(many), 1),
            "server_cpu_us_each": round(statistics.median(many_costs) * 1e6, 1),
        },
    )


def _run(
    server: Installation | EmptyServer,
    lines: list[Line],
    batches: Batches,
    expect: bytes,
    times: list[float] | None = None,
) -> tuple[float, float]:
    """Requests a second, and the server's processor seconds for each."""
    before, began = server.measure_cpu(), time.perf_counter()
    ask_all(lines, batches, expect, times)
    seconds, count = time.perf_counter() - began, sum(map(len, batches))
    return count / seconds, (server.measure_cpu() - before) / count


def make_single(origin: str, run: int, each: int) -> list[list[bytes]]:
    """Evaluations for every connection: all by other identities, about other things."""
    return [
        [
            _post(origin, PATH, _ask((connection + number * CONNECTIONS) % IDENTITIES, run, number))
            for number in range(each)
        ]
        for connection in range(CONNECTIONS)
    ]


def make_many(origin: str, run: int, each: int) -> list[list[bytes]]:
    """The same, 20 in each request."""
    return [
        [
            _post(
                origin,
                "/access/v1/evaluations",
                {
                    "evaluations": [
                        _ask((connection * each + number * BATCH + n) % IDENTITIES, run + 100, n)
                        for n in range(BATCH)
                    ]
                },
            )
            for number in range(each)
        ]
        for connection in range(CONNECTIONS)
    ]


def _ask(which: int, run: int, number: int) -> dict[str, object]:
    return {
        "subject": {"type": "identity", "id": make_id(name_client(which))},
        "action": {"name": "read"},
        "resource": {"type": "bench", "id": f"{run}-{number}"},
        "context": {"ip": f"10.0.{run}.{number % 250}"},
    }


def _post(origin: str, path: str, body: object) -> bytes:
    host = origin.removeprefix("https://")
    return make_post(host, path, json.dumps(body).encode(), _JSON)


if __name__ == "__main__":
    main()
