"""An agent that is killed and started again while there is no server, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.processes import open_folder, wait_for
from tests.e2e.test_remote_agent import Edge, make_token
from troth.wire.api.nodes import EvictNode

pytest.importorskip("spiffe", reason="the PyPI package 'spiffe' isn't installed")
pytestmark = pytest.mark.e2e


@pytest.fixture
def edge(lone_troth) -> Iterator[Edge]:
    lone_troth.start("--no-agent")
    with open_folder() as folder, ExitStack() as stack:
        yield Edge(folder, lone_troth, stack)


def is_gone(path: Path) -> bool:
    return not path.exists()


def serve(troth, edge, programs, run_program):
    """An agent that serves one workload; its cache is on disk."""
    agent = edge.start("--join-token", edge.bring_token(make_token(troth, "edge")))
    sealed = edge.data / "agent" / "cache.sealed"
    empty = wait_for(lambda: sealed.exists() and sealed.stat().st_size, "the sealed cache")
    troth.register("there", *programs.selectors("there"), nodes=["edge"])
    workload = run_program("there", edge.endpoint)
    wait_for(lambda: "svids" in workload.ask("fetch"), "the identity")
    # The registration takes some 300 bytes, the certificate and its key more than 700.
    wait_for(lambda: sealed.stat().st_size > empty + 800, "the certificate in the sealed cache")
    return agent, workload


def test_a_process_keeps_its_identity_through_the_agents_crash(
    lone_troth, edge, programs, run_program
):
    agent, workload = serve(lone_troth, edge, programs, run_program)
    before = workload.ask("fetch")["svids"]
    lone_troth.daemon.kill()
    agent.kill()
    agent = edge.start()
    assert agent.events("sync.restored")
    told = workload.ask("fetch")
    assert told["svids"] == before  # the very certificate, and with it the trust bundle
    assert told["lists"] == 1
    newcomer = run_program("there", edge.endpoint)
    assert newcomer.ask("fetch")["status"] == "UNAVAILABLE"
    lone_troth.start("--no-agent")
    wait_for(lambda: "svids" in newcomer.ask("fetch"), "an identity for the new process")
    agent.kill()
    sealed = edge.data / "agent" / "cache.sealed"
    sealed.write_bytes(sealed.read_bytes()[:-1])
    lone_troth.daemon.kill()
    agent = edge.start_unready()
    agent.wait_for_event("cache.ignored")
    assert workload.ask("fetch")["status"] == "UNAVAILABLE"


def test_an_evicted_node_has_nothing_left(lone_troth, edge, programs, run_program):
    agent, workload = serve(lone_troth, edge, programs, run_program)
    lone_troth.call("node.evict", EvictNode(name="edge", reason="stolen"))
    agent.wait_for_event("sync.cut_off")
    for name in ("cache.sealed", "cachekey.bin"):
        path = edge.data / "agent" / name
        wait_for(partial(is_gone, path), f"the end of {name}")
    assert workload.ask("fetch")["status"] == "PERMISSION_DENIED"
