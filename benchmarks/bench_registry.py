"""What an issuance costs with a million registered identities, and what it costs with a thousand.

One server, one process, one database. A thousand identities are registered and issued for; then
the rest is registered in the same server, by `manifest.apply` as `troth apply` sends it, a few
thousand documents at a time; then it is issued for the same thousand identities again, and for
others all over the registry. Every node hosts a thousand identities; the agent that asks is one of
them. At last the server is started anew on what is there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec

from benchmarks.installation import (
    Installation,
    leave_server_cores,
    make_csr,
    run_server,
    weigh,
)
from benchmarks.report import print_result, say
from troth.wire.api.certificates import (
    CertificateRequest,
    InstanceClaim,
    IssueCertificates,
    IssuedCertificates,
)
from troth.wire.api.client import ApiClient
from troth.wire.api.identities import ListIdentities
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.api.status import GetStatus

FIRST = 1000
ALL = 1_000_000
PER_NODE = 1000
PORTION = 5000
SAMPLES = 400
PAGE = 100
RATIO = 1.3
SERVER_MB = 300
ROUTE = "/v1/certificates/issue"


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--identities", type=int, default=ALL, help="fewer, for a quick look")
    count = parser.parse_args().identities
    with run_server() as server:
        leave_server_cores()
        register(server, 0, FIRST)
        mine = list_ids(server, "", FIRST)
        with server.join("node-0") as client:
            issue_all(client, mine, SAMPLES)  # warm
            few = issue_all(client, mine, SAMPLES)
            small_mb = weigh(server.process.pid) / 1e6
            rate = register(server, FIRST, count)
            wait_sealed(server)
            many = issue_all(client, mine, SAMPLES)
        last = count // PER_NODE - 1
        others = list_ids(server, name(last * PER_NODE - 1), PER_NODE)
        with server.join(f"node-{last}") as client:
            elsewhere = issue_all(client, others, SAMPLES)
        detail = measure_rest(server, count)
        full_mb = weigh(server.process.pid) / 1e6
        start = server.restart()
        with server.join("node-7") as client:
            detail["sync_s"] = measure_sync(client)
        idle_mb = weigh(server.process.pid) / 1e6
    value, reference = statistics.median(many), statistics.median(few)
    print_result(
        "registry",
        value=value * 1e3,
        unit="ms",
        reference=reference * 1e3,
        digits=3,
        targets={"ratio": RATIO, "server_rss_mb": SERVER_MB},
        met=value / reference <= RATIO and full_mb <= SERVER_MB,
        identities=count,
        reference_is=f"the same with {FIRST} identities, same process: median of {SAMPLES}",
        elsewhere_ms=round(statistics.median(elsewhere) * 1e3, 3),
        p99_ms=[round(quantile(times) * 1e3, 3) for times in (few, many, elsewhere)],
        server_rss_mb=round(full_mb, 1),
        server_rss_small_mb=round(small_mb, 1),
        server_rss_started_mb=round(idle_mb, 1),
        start_s=round(start, 3),
        registered_per_s=round(rate, 1),
        registered_by=f"manifest.apply over the admin socket, {PORTION} documents a call",
        **detail,
    )


def name(number: int) -> str:
    """Names sort as their numbers."""
    return f"svc-{number:07d}"


def register(server: Installation, first: int, end: int) -> float:
    """Apply the manifests of these identities; how many a second."""
    began = time.perf_counter()
    with server.open_admin() as admin:
        for start in range(first, end, PORTION):
            numbers = range(start, min(start + PORTION, end))
            documents = [ManifestDocument(value=make_manifest(number)) for number in numbers]
            plan = admin.call("manifest.apply", SubmitManifests(documents=documents))
            added = sum(change.action == "add" for change in plan.changes)
            if added != len(numbers):
                raise RuntimeError(f"{added} of {len(numbers)} were added")
            if start % 100_000 < PORTION:
                say(f"{numbers.stop} registered after {time.perf_counter() - began:.0f} s")
    return (end - first) / (time.perf_counter() - began)


def make_manifest(number: int) -> dict[str, Any]:
    """A service for a uid of its own on one node."""
    return {
        "apiVersion": "troth/v1",
        "kind": "Identity",
        "metadata": {"name": name(number), "labels": {"team": f"team-{number % 200}"}},
        "spec": {
            "kind": "service",
            "owner": f"team-{number % 200}@example.org",
            "purpose": "Is one of many",
            "environment": "prod",
            "expires": "365d",
            "nodes": [f"node-{number // PER_NODE}"],
            "selectors": [f"unix:uid:{1000 + number % PER_NODE}"],
        },
    }


def list_ids(server: Installation, after: str, count: int) -> list[tuple[str, str]]:
    """Id and selector of the identities whose names follow `after`."""
    found: list[tuple[str, str]] = []
    with server.open_admin() as admin:
        while len(found) < count:
            page = admin.call("identity.ls", ListIdentities(after=after or None, limit=PAGE))
            found += [(view.id, view.selectors[0]) for view in page.items]
            after = page.items[-1].name
    return found[:count]


def issue_all(client: httpx.Client, ids: list[tuple[str, str]], count: int) -> list[float]:
    """Seconds of each of `count` issuances, one certificate a call, over the identities in turn."""
    times = []
    csr = make_csr()
    for number in range(count):
        identity_id, selector = ids[number * 7 % len(ids)]
        claim = InstanceClaim(key=f"{number:032x}", pid=1000 + number, selectors=[selector])
        request = CertificateRequest(identity_id=identity_id, csr=csr, instance=claim)
        body = msgspec.json.encode(IssueCertificates(requests=[request]))
        began = time.perf_counter()
        answer = client.post(ROUTE, content=body)
        times.append(time.perf_counter() - began)
        (result,) = msgspec.json.decode(answer.content, type=IssuedCertificates).results
        if result.error:
            raise RuntimeError(result.error.detail)
    return times


def measure_rest(server: Installation, count: int) -> dict[str, Any]:
    """Pages, status and a plan of one change, in milliseconds, and the size on disk."""
    with server.open_admin() as admin:
        middle = name(count // 2)
        return {
            "page_ms": measure_call(admin, "identity.ls", ListIdentities(after=middle, limit=PAGE)),
            "page_quarantined_ms": measure_call(
                admin, "identity.ls", ListIdentities(state="quarantined", limit=PAGE)
            ),
            "page_active_ms": measure_call(
                admin, "identity.ls", ListIdentities(state="active", after=middle, limit=PAGE)
            ),
            "search_ms": measure_call(
                admin, "identity.ls", ListIdentities(text=name(count - 1), limit=PAGE)
            ),
            "status_ms": measure_call(admin, "status.show", GetStatus()),
            "plan_ms": measure_call(
                admin,
                "manifest.plan",
                SubmitManifests(documents=[ManifestDocument(value=make_manifest(count))]),
            ),
            "database_mb": round(sum(map(size, server.folder.glob("*.db*"))) / 1e6, 1),
        }


def measure_call(admin: ApiClient, operation: str, request: msgspec.Struct) -> float:
    """The median of five calls in milliseconds."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        admin.call(operation, request)
        times.append((time.perf_counter() - began) * 1e3)
    return round(statistics.median(times), 2)


def measure_sync(client: httpx.Client) -> float:
    """Seconds until a node that follows has its thousand identities."""
    began = time.perf_counter()
    with client.stream("GET", "/v1/nodes/sync") as answer:
        line = next(answer.iter_lines())
    entries = msgspec.json.decode(line)["entries"]
    if len(entries) != PER_NODE:
        raise RuntimeError(f"a node was sent {len(entries)} identities")
    return round(time.perf_counter() - began, 3)


def wait_sealed(server: Installation) -> None:
    """Wait until the server has taken in its own journal."""
    with server.open_admin() as admin:
        while (status := admin.call("status.show", GetStatus())).epoch < status.journal_head:
            time.sleep(0.1)


def size(path: Path) -> int:
    """Bytes of a file."""
    return path.stat().st_size


def quantile(times: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(times, n=100)[98]


if __name__ == "__main__":
    main()
