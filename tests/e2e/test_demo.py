"""The demo as a user starts it: every step holds, and nothing of it stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.processes import TROTH, make_environ, wait_for
from tests.fakes.postgres import find_programs

STEPS = [
    "ready",
    "identities",
    "services",
    "reporter",
    "impostor",
    "rotation",
    "quarantine",
    "release",
    "instance",
    "roles",
    "token",
    "delegation",
    "cutoff",
    "readmission",
    "policy",
    "change",
    "trust",
    "evidence",
    "trace",
    "proof",
    "tampering",
    "crash",
]

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="a-user-each"),
        pytest.param(["--single-user"], id="one-user-for-all"),
        pytest.param(["--single-user", "--database", "postgresql"], id="on-postgresql"),
    ],
)
def test_every_step_of_the_demo_holds(folder, options):
    if not options and os.geteuid() != 0:
        pytest.skip("only root can start workloads as users of their own")
    if "postgresql" in options and find_programs() is None:
        pytest.skip("Debian's package postgresql is not installed")
    data = folder / "d"
    done = subprocess.run(
        [TROTH, "--json", "demo", "--once", "--data", data, *options],
        capture_output=True,
        text=True,
        env=make_environ(),
        timeout=220,
    )

    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    *steps, end = map(json.loads, done.stdout.splitlines())
    assert [step["name"] for step in steps] == STEPS
    assert [step["name"] for step in steps if not step["ok"]] == []
    assert (end["steps"], end["failed"]) == (len(STEPS), 0)
    facts = {step["name"]: step["facts"] for step in steps}
    assert facts["ready"]["users"] is not bool(options)
    assert facts["ready"]["database"] == ("postgresql" if "postgresql" in options else "sqlite")
    assert facts["impostor"]["code"] == "PERMISSION_DENIED"
    assert all(len(set(serials)) >= 3 for serials in facts["rotation"]["serials"].values())
    assert facts["rotation"]["failed"] == 0
    assert facts["rotation"]["answered"] > 500
    assert facts["quarantine"]["new"] <= 1
    assert max(facts["quarantine"]["kept"], facts["quarantine"]["through_envoy"]) <= 5
    cutoff = facts["cutoff"]
    assert set(cutoff) == {"orders", "payments", "introspection"}
    assert max(cutoff.values()) <= 0.25
    assert facts["delegation"]["subject"] == "spiffe://troth.local/reporter"
    (actor,) = facts["delegation"]["actors"]
    assert actor == "spiffe://troth.local/orders" + ("-worker" if options else "")
    assert facts["policy"]["missing"] == "identity.kind being service"
    assert facts["change"]["seconds"] <= 1
    assert max(facts["trust"].values()) <= 0.25
    assert "eyJ" not in told  # no token, nor a part of one that could be put together
    assert find_processes(data) == []


def test_a_demo_that_is_interrupted_leaves_no_process_behind(folder):
    data = folder / "d"
    output = folder / "output"
    with output.open("wb") as file:
        demo = subprocess.Popen(
            [TROTH, "demo", "--data", data],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=make_environ(),
        )
    try:
        wait_for(lambda: "6. Certificates" in output.read_text(), "the sixth step", 60)
        assert len(find_processes(data)) > 8
        demo.send_signal(signal.SIGINT)
        code = demo.wait(30)
    finally:
        demo.kill()
        demo.wait()

    told = output.read_text()
    assert code == 1, told
    assert told.splitlines()[-1] == f"demo: {len(STEPS)} steps, {len(STEPS) - 5} failed", told
    assert "Stopped by you" in told
    assert find_processes(data) == []


def test_the_demo_keeps_out_of_a_directory_that_is_in_use(folder):
    (folder / "precious").write_text("mine")

    done = subprocess.run(
        [TROTH, "demo", "--once", "--data", folder],
        capture_output=True,
        text=True,
        env=make_environ(),
        timeout=60,
    )

    assert done.returncode == 1
    assert "isn't empty" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["precious"]


def find_processes(data: Path) -> list[str]:
    """Command lines of living processes that name the demo's directory."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if f"{data}/" in f"{line}/" or f"{data} " in line:
                found.append(line)
    return found
