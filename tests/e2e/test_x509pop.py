"""A machine that joins by the certificate it was made with: the whole life, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.processes import TROTH, Daemon, Server, open_folder, run_troth, wait_for
from tests.fakes.machines import Machine, Maker
from troth.wire.api.nodes import EvictNode, ListNodes
from troth.wire.api.readmission import ReadmitNode

pytest.importorskip("spiffe", reason="the PyPI package 'spiffe' isn't installed")
pytestmark = pytest.mark.e2e
LATER = datetime.now(UTC) + timedelta(days=30)


class Plant:
    """A server that trusts one manufacturer, and machines around it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.maker = Maker("Acme root", end=LATER)
        self.folder = folder
        self._stack = stack
        (folder / "makers.pem").write_bytes(self.maker.pem)
        self.troth = Server(folder)
        stack.callback(self.troth.stop)
        self.troth.write_settings(
            f'[x509pop]\nauthorities = "{folder}/makers.pem"\nname = "common_name"\n'
        )
        self.troth.start()

    def command(self, machine: Machine, name: str) -> list[str]:
        """`troth agent` for a machine, whose files are put into a folder of its own."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        (place / "device.pem").write_bytes(machine.pem)
        (place / "device.key").touch(mode=0o600)
        (place / "device.key").write_bytes(machine.key_pem)
        return [
            *("agent", "--server", self.troth.url, "--mtls-url", self.troth.mutual),
            *("--ca", str(self.troth.data / "ca.pem"), "--data", str(place / "data")),
            *("--x509pop", str(place / "device.pem"), str(place / "device.key")),
        ]

    def start(self, machine: Machine, name: str) -> Daemon:
        agent = Daemon(self.folder, name, [str(TROTH), *self.command(machine, name)])
        self._stack.callback(lambda: print(agent.log))
        self._stack.callback(agent.stop)
        agent.wait_for_event("agent.ready")
        return agent

    def states(self) -> dict[str, str]:
        return {n.name: n.state for n in self.troth.call("node.ls", ListNodes()).items}


@pytest.fixture
def plant() -> Iterator[Plant]:
    with open_folder() as folder, ExitStack() as stack:
        yield Plant(folder, stack)


def test_a_machine_joins_is_evicted_and_readmitted(plant, programs, run_program):
    line = plant.maker.make_maker("Acme line 3", end=LATER)
    press = line.make("press-4", end=LATER)
    machine = Machine(press.certificate, press.key, (line.certificate,))
    plant.troth.register("press", *programs.selectors("press"), nodes=["press-4"])
    agent = plant.start(machine, "first")
    assert plant.states() == {"local": "active", "press-4": "active"}
    workload = run_program("press", f"unix://{plant.folder}/first/data/agent.sock")
    wait_for(lambda: "svids" in workload.ask("fetch"), "the identity on the machine")

    plant.troth.call("node.evict", EvictNode(name="press-4", reason="stolen"))
    agent.wait_for_event("node.renewal_failed")  # it tries to come back, and may not
    assert agent.events("node.expired") == []
    refused = run_troth(*plant.command(machine, "second"))
    assert refused.returncode == 1
    assert "troth node readmit press-4" in refused.stderr
    assert plant.states()["press-4"] == "evicted"

    joined = len(agent.events("node.joined"))
    plant.troth.call("node.readmit", ReadmitNode(name="press-4", reason="found again"))
    wait_for(lambda: len(agent.events("node.joined")) > joined, "it comes back by itself", 40)
    assert "active" in [
        n.state for n in plant.troth.call("node.ls", ListNodes()).items if n.name == "press-4"
    ]
    wait_for(lambda: "svids" in workload.ask("fetch"), "the identity, again")


def test_other_machines_stay_outside(plant):
    stranger = Maker("Acme root", end=LATER).make("press-5", end=LATER)
    expired = plant.maker.make("press-6", end=datetime.now(UTC) - timedelta(seconds=1))
    taken = plant.maker.make("local", end=LATER)
    for number, (machine, reason) in enumerate(
        ((stranger, "doesn't lead to"), (expired, "not valid"), (taken, "can't be a node's name"))
    ):
        done = run_troth(*plant.command(machine, f"other{number}"))
        assert done.returncode == 1, done.stderr
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
    assert plant.states() == {"local": "active"}
