"""How long `troth up` takes from an empty directory to /readyz, and what it weighs when idle.

The reference, from the same run and alternating with it, is what an interpreter needs to start
and import the libraries that any server of this kind is made of: the time below which no Python
server on this machine can get. The ratio is what troth adds: keys, database, certificates, doors.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.report import print_result, say

RUNS = 7
READY_SECONDS = 2.0
SERVER_MB = 150
AGENT_MB = 90
SETTLE_SECONDS = 5.0
PATIENCE = 60.0
LIBRARIES = "cryptography.x509, httpx, litestar, msgspec, sqlalchemy, uvicorn, uvloop"


@dataclass(frozen=True, slots=True)
class Run:
    """One start: seconds to readiness and to the agent's socket, resident megabytes when idle."""

    ready: float
    agent: float
    server_mb: float
    agent_mb: float


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    measure_reference()  # the files are in the page cache for both from here on
    runs, references = [], []
    for number in range(RUNS):
        references.append(measure_reference())
        runs.append(measure_start(settle=number == RUNS - 1))
        say(
            f"run {number + 1}: ready in {runs[-1].ready:.3f} s, agent in {runs[-1].agent:.3f} s, "
            f"reference {references[-1]:.3f} s"
        )
    value, reference = statistics.median(run.ready for run in runs), statistics.median(references)
    server_mb, agent_mb = runs[-1].server_mb, runs[-1].agent_mb
    print_result(
        "startup",
        value=value,
        unit="s",
        reference=reference,
        digits=3,
        targets={
            "seconds": READY_SECONDS,
            "server_rss_mb": SERVER_MB,
            "agent_rss_mb": AGENT_MB,
        },
        met=value <= READY_SECONDS and server_mb <= SERVER_MB and agent_mb <= AGENT_MB,
        runs=[round(run.ready, 3) for run in runs],
        reference_is=f"a Python process that imports {LIBRARIES} and ends",
        agent_ready_s=round(statistics.median(run.agent for run in runs), 3),
        server_rss_mb=round(server_mb, 1),
        agent_rss_mb=round(agent_mb, 1),
    )


def measure_reference() -> float:
    """Seconds for an interpreter to import the libraries alone."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", f"import {LIBRARIES}"], check=True)
    return time.perf_counter() - began


def measure_start(*, settle: bool) -> Run:
    """Start in an empty directory; with `settle`, wait and weigh the idle processes."""
    with tempfile.TemporaryDirectory(prefix="troth-bench-") as folder:
        data = Path(folder)
        environment = {name: value for name, value in os.environ.items() if "TROTH" not in name}
        command = [sys.executable, "-P", "-m", "troth", "--json", "up"]
        began = time.perf_counter()
        server = subprocess.Popen(
            [*command, "--data", folder, "--listen", "localhost:0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            url = read_url(server)
            wait_ready(url, data / "ca.pem")
            ready = time.perf_counter() - began
            agent = wait_agent(data)
            agent_seconds = time.perf_counter() - began
            if settle:
                time.sleep(SETTLE_SECONDS)
            return Run(ready, agent_seconds, read_resident(server.pid), read_resident(agent))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(PATIENCE)


def read_url(server: subprocess.Popen[str]) -> str:
    """The URL that the server announces on its standard output, as one JSON document."""
    assert server.stdout is not None
    text = ""
    for line in server.stdout:
        text += line
        if line.rstrip() == "}":
            return str(json.loads(text)["url"])
    raise RuntimeError(f"the server ended with {server.wait()} before it was ready")


def wait_ready(url: str, roots: Path) -> None:
    """Ask /readyz over TLS until it answers 200."""
    context = ssl.create_default_context(cafile=roots)
    with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE) as client:
        deadline = time.perf_counter() + PATIENCE
        while client.get(f"{url}/readyz").status_code != 200:
            if time.perf_counter() > deadline:
                raise RuntimeError("the server never became ready")
            time.sleep(0.01)


def wait_agent(data: Path) -> int:
    """Wait for the agent's socket; returns the agent's pid."""
    deadline = time.perf_counter() + PATIENCE
    while not (data / "agent.sock").exists():
        if time.perf_counter() > deadline:
            raise RuntimeError("the agent never became ready")
        time.sleep(0.01)
    return int((data / "agent" / "agent.lock").read_text().split()[0])


def read_resident(pid: int) -> float:
    """Resident memory in megabytes (10^6 bytes), as proc_pid_status(5) tells it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no resident memory")


if __name__ == "__main__":
    main()
