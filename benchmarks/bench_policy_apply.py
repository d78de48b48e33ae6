"""How long from `troth apply` of a changed policy until the last of 8 services decides by it.

A real server holds 10,000 policies about 1,000 resources, and roles and identities to match. Eight
processes with the SDK follow the rules about what their service serves, and decide again and again
in their own memory. A round flips one of the policies: its file is given to `troth apply`, as a
process of its own. It ends when the last of the eight decides by the new rule; the time counts from
the start of that process.

`detail.whole` is the same with `troth apply` of all 10,000 manifests, of which one has changed:
then reading YAML is most of it. The reference is `troth apply` alone, from its start to its end.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from benchmarks.installation import Installation, run_server
from benchmarks.report import print_result, say

POLICIES = int(os.environ.get("POLICIES", "10000"))
RESOURCES = 1_000
ROLES = 500
IDENTITIES = 1_000
SERVICES = 8
ROUNDS = int(os.environ.get("ROUNDS", "20"))
WHOLE_ROUNDS = int(os.environ.get("WHOLE_ROUNDS", "3"))
WARM_UP = 2
TARGET = 1.0
A_FILE = 500
SERVED = 10
"""Resources that the services serve, the first ones."""

SERVICE = """
import sys, time
from troth.sdk.enforcer import Enforcer
from troth.sdk.guard import PeerGuard
server, endpoint = sys.argv[1:]
with Enforcer(PeerGuard([server], endpoint)) as enforcer:
    enforcer.wait_ready(120)
    may = lambda: enforcer.decide("caller-0", "read", "resource-0").allowed
    known = may()
    print("ready", known, flush=True)
    for line in sys.stdin:
        wanted = line.strip() == "True"
        while may() is not wanted:
            time.sleep(0.004)
        print(time.monotonic(), flush=True)
"""


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    with run_server(agent=True, pinned=False) as server:
        manifests = server.folder / "manifests"
        declare(server, manifests)
        services = [start_service(server) for _ in range(SERVICES)]
        try:
            report(server, manifests, services)
        finally:
            for service in services:
                service.kill()
                service.wait()


def report(server: Installation, manifests: Path, services: list[subprocess.Popen[str]]) -> None:
    """Some rounds of each sort, and what they come to."""
    policy = manifests / "one.yaml"
    before = server.measure_cpu()
    one = run_rounds(server, services, policy, [policy], ROUNDS + WARM_UP)
    used = (server.measure_cpu() - before) / (ROUNDS + WARM_UP)
    one = one[WARM_UP:]
    whole = run_rounds(server, services, policy, [policy, manifests / "rest"], WHOLE_ROUNDS)
    taken, alone = [last for last, _ in one], [end for _, end in one]
    value = max(taken)
    print_result(
        "policy-apply",
        value=value,
        unit="s",
        reference=statistics.median(alone),
        targets={"seconds": TARGET},
        met=value <= TARGET,
        digits=3,
        policies=POLICIES,
        services=SERVICES,
        rounds=len(taken),
        value_is="worst of all rounds, from the start of troth apply to the last service",
        median=round(statistics.median(taken), 3),
        reference_is="median of troth apply alone, from its start to its end",
        server_cpu=round(used, 3),
        whole={
            "median": round(statistics.median(last for last, _ in whole), 3),
            "apply_alone": round(statistics.median(end for _, end in whole), 3),
        },
    )


def run_rounds(
    server: Installation,
    services: list[subprocess.Popen[str]],
    policy: Path,
    paths: list[Path],
    count: int,
) -> list[tuple[float, float]]:
    """Seconds until the last service decided anew, and until `troth apply` ended, of each round."""
    taken = []
    for _ in range(count):
        permitted = "effect: forbid" in policy.read_text()
        policy.write_text(render_policy(0, permit=permitted))
        for service in services:
            write(service, f"{permitted}\n")
        began = time.monotonic()
        apply(server, paths)
        ended = time.monotonic()
        last = max(float(read(service)) for service in services)
        taken.append((last - began, ended - began))
        say(f"{last - began:.3f} s, apply {ended - began:.3f} s")
    return taken


def apply(server: Installation, paths: list[Path]) -> None:
    """`troth apply`, as a process of its own."""
    command = [sys.executable, "-P", "-m", "troth", "--json"]
    command += ["--data", str(server.folder)]
    done = subprocess.run(
        [*command, "apply", *map(str, paths), "--yes"], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def start_service(server: Installation) -> subprocess.Popen[str]:
    """A service that decides; ready."""
    endpoint = f"unix://{server.folder / 'agent.sock'}"
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE, server.mutual, endpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if read(service).split()[0] != "ready":
        raise RuntimeError("a service doesn't get ready")
    return service


def write(service: subprocess.Popen[str], text: str) -> None:
    """Tell a service something."""
    stream: IO[str] | None = service.stdin
    assert stream is not None
    stream.write(text)
    stream.flush()


def read(service: subprocess.Popen[str]) -> str:
    """The next line of a service."""
    stream: IO[str] | None = service.stdout
    assert stream is not None
    line = stream.readline()
    if not line:
        raise RuntimeError("a service has ended")
    return line


def declare(server: Installation, manifests: Path) -> None:
    """Everything, applied in parts that the server takes."""
    rest, base = manifests / "rest", manifests / "base"
    rest.mkdir(parents=True)
    base.mkdir()
    keep(base, "resources", [render_resource(number) for number in range(RESOURCES)])
    keep(base, "roles", [render_role(number) for number in range(ROLES)])
    keep(base, "identities", [render_identity(number) for number in range(IDENTITIES)])
    keep(base, "services", [render_service()])
    keep(rest, "policies", [render_policy(number) for number in range(1, POLICIES)])
    (manifests / "one.yaml").write_text(render_policy(0, permit=False))
    began = time.monotonic()
    for paths in ([base], [rest], [manifests / "one.yaml"]):
        apply(server, paths)
    say(f"declared within {time.monotonic() - began:.1f} s")


def keep(folder: Path, name: str, documents: list[str]) -> None:
    """Some documents in files of a size that people have."""
    for start in range(0, len(documents), A_FILE):
        path = folder / f"{name}-{start:06}.yaml"
        path.write_text("---\n".join(documents[start : start + A_FILE]))


def render_resource(number: int) -> str:
    """One of a thousand APIs."""
    servers = "[services]" if number < SERVED else f"[server-{number}]"
    return f"""apiVersion: troth/v1
kind: Resource
metadata: {{name: resource-{number}}}
spec:
  owner: team@example.org
  purpose: One of many
  servers: {servers}
  actions: {{read: Read it, write: Write it}}
"""


def render_role(number: int) -> str:
    """Some of what can be done."""
    return f"""apiVersion: troth/v1
kind: Role
metadata: {{name: role-{number}}}
spec:
  owner: team@example.org
  purpose: One of many
  permissions:
    - {{resource: resource-{number % RESOURCES}, actions: [write]}}
"""


def render_identity(number: int) -> str:
    """Somebody who calls."""
    return f"""apiVersion: troth/v1
kind: Identity
metadata: {{name: caller-{number}, labels: {{team: team-{number % 20}}}}}
spec:
  kind: service
  owner: team@example.org
  purpose: One of many
  environment: prod
  selectors: ["unix:uid:{100_000 + number}"]
  roles: [role-{number % ROLES}, role-{(number + 7) % ROLES}]
"""


def render_service() -> str:
    """The identity of the eight."""
    return f"""apiVersion: troth/v1
kind: Identity
metadata: {{name: services}}
spec:
  kind: service
  owner: team@example.org
  purpose: Decides
  selectors: ["unix:uid:{os.getuid()}"]
"""


def render_policy(number: int, *, permit: bool | None = None) -> str:
    """One of ten thousand rules; the first one is about the first caller alone."""
    effect = ("permit" if number % 5 else "forbid") if permit is None else "permit"
    effect = "forbid" if permit is False else effect
    subjects = f"roles: [role-{number % ROLES}]" if permit is None else "identities: [caller-0]"
    return f"""apiVersion: troth/v1
kind: Policy
metadata: {{name: policy-{number}}}
spec:
  owner: team@example.org
  purpose: One of many
  effect: {effect}
  subjects: {{{subjects}}}
  actions: [{"write" if permit is None else "read"}]
  resources: [resource-{number % RESOURCES}]
""" + (
        f"""  when:
    - trust.score: {{atLeast: {number % 60}}}
    - identity.environment: prod
"""
        if permit is None
        else ""
    )


if __name__ == "__main__":
    main()
