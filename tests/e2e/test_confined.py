"""The server and the agent behind the walls of their systemd units, but for the file system."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.processes import NOBODY, START_SECONDS, TROTH, Daemon, Server, open_folder, wait_for
from tests.e2e.programs.confined import read_unit

pytest.importorskip("spiffe", reason="the PyPI package 'spiffe' isn't installed")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become the unit's user"),
    pytest.mark.skipif(not shutil.which("setpriv"), reason="there is no setpriv"),
    pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze"),
    pytest.mark.skipif(not ctypes.util.find_library("seccomp"), reason="there is no libseccomp"),
]

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"
CONFINED = Path(__file__).parent / "programs" / "confined.py"


def choose_user() -> int:
    """Somebody unprivileged, or root without its privileges if only root reaches this Python."""
    path = Path(sys.executable).resolve()
    reachable = all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))
    return NOBODY if reachable else 0


USER = choose_user()


def wrap(unit: str, command: list[str]) -> list[str]:
    """`command` as the unit's user, with its capabilities and its system call filter."""
    options = read_unit(str(UNITS / unit))
    names = options["CapabilityBoundingSet"][0].lower().replace("cap_", "").split()
    kept = ",".join(["-all", *(f"+{name}" for name in names)])
    return [
        *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
        *(f"--bounding-set={kept}", f"--inh-caps={kept}", f"--ambient-caps={kept}"),
        *(sys.executable, str(CONFINED), str(UNITS / unit), *command),
    ]


@pytest.fixture
def behind() -> Iterator[tuple[Path, ExitStack]]:
    with open_folder() as folder, ExitStack() as stack:
        os.chown(folder, USER, USER)
        yield folder, stack


def start(stack: ExitStack, folder: Path, name: str, command: list[str], **environ: str) -> Daemon:
    daemon = Daemon(folder, name, command, **environ)
    stack.callback(lambda: print(daemon.log))
    stack.callback(daemon.stop)
    return daemon


def test_the_filter_holds():
    # Otherwise the other test would prove nothing.
    tries = (
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)",
        "os.sched_setaffinity(0, {0})",
        "os.setuid(os.getuid())",
        "os.chown('.', os.getuid(), -1)",
    )
    for code in tries:
        program = [sys.executable, "-c", f"import mmap, os, socket; {code}"]
        done = subprocess.run(
            wrap("troth.service", program), capture_output=True, text=True, timeout=30
        )
        assert "Operation not permitted" in done.stderr, (code, done.stderr)


def check_health(data: Path) -> None:
    """What the image's HEALTHCHECK says, of the server and of none."""
    found = re.search(r'CMD (\["python".*\])$', (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    for where, code in ((data, 0), (data.parent, 1)):
        command = [sys.executable, *json.loads(found[1])[1:]]
        environ = {"TROTH_DATA": str(where)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)
        assert done.returncode == code, done.stderr


def test_server_and_agent_work_behind_their_walls(behind, programs, run_program):
    folder, stack = behind
    server = Server(folder)  # only to talk to it
    up = [str(TROTH), "up", "--no-agent", "--data", str(server.data), "--json"]
    daemon = start(stack, folder, "server", wrap("troth.service", [*up, "--listen", "localhost:0"]))
    wait_for(lambda: daemon.output.strip() or None, "the server is ready", START_SECONDS)
    where = {event["listener"]: event["where"] for event in daemon.events("listener.started")}
    check_health(server.data)
    made = subprocess.run(
        [str(TROTH), "token", "join", "--node", "edge", "--data", str(server.data)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    token = folder / "join-token"
    token.touch(mode=0o600)
    token.write_text(made.stdout)
    os.chown(token, USER, USER)
    data = folder / "agent"
    agent = [
        *(str(TROTH), "agent", "--server", f"https://{where['public']}"),
        *("--mtls-url", f"https://{where['mutual']}", "--ca", str(server.data / "ca.pem")),
        *("--data", str(data), "--join-token", f"@{token}"),
    ]
    start(stack, folder, "agent", wrap("troth-agent.service", agent)).wait_for_event("agent.ready")

    # A process with all privileges, whose program its owner alone may read: each takes one of
    # the agent's capabilities.
    program = programs.find("secretive")
    program.chmod(0o711)
    os.chown(program, NOBODY - 1, -1)
    digest = subprocess.run(["sha256sum", program], capture_output=True, text=True, check=True)
    proof = f"unix:sha256:{digest.stdout.split()[0]}"
    server.register("seen", *programs.selectors("secretive"), proof, nodes=["edge"])
    caller = run_program("secretive", f"unix://{data}/agent.sock")
    wait_for(lambda: "svids" in caller.ask("fetch"), "the identity of a process of root")
