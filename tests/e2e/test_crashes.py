"""kill -9 in the worst moments: what goes on meanwhile, and what is there afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509

from tests.e2e.processes import Server, wait_for
from troth.core.clock import SystemClock, VirtualClock
from troth.operations.leaf import STRANDED_AFTER, ReconcileIssuance
from troth.store.engine import open_store
from troth.wire.api.nodes import ListNodes

pytest.importorskip("spiffe", reason="the PyPI package 'spiffe' isn't installed")
pytestmark = pytest.mark.e2e

IDENTITIES = 40
PROCESSES = 6


def query(troth: Server, sql: str) -> list[tuple]:
    """Rows of the server's database, read beside it."""
    with closing(sqlite3.connect(f"file:{troth.data}/troth.db?mode=ro", uri=True)) as database:
        return database.execute(sql).fetchall()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def fetch_serial(workload):
    answer = workload.ask("fetch")
    assert "svids" in answer, answer
    return answer["svids"][0]["serial"]


def test_the_agent_outlives_the_server_and_is_adopted(lone_troth, programs, run_program):
    troth = lone_troth.start()
    agent = troth.agent_pid
    for name in ("holder", "late"):
        troth.register(name, *programs.selectors(name))
    holder = run_program("holder", troth.endpoint)
    serial = fetch_serial(holder)
    holder.ask("follow")
    holder.expect(lambda told: told["event"] == "update", "the first update")

    troth.daemon.kill()
    wait_for(
        lambda: troth.daemon.events("sync.interrupted"), "the agent notices that the server is gone"
    )
    assert is_alive(agent)
    assert fetch_serial(holder) == serial, "what the agent holds is served"
    late = run_program("late", troth.endpoint)
    refused = late.ask("fetch")
    assert refused["status"] == "UNAVAILABLE", "who holds nothing yet is told to come back"

    troth.start()
    assert troth.daemon.events("agent.adopted")
    assert troth.agent_pid == agent
    assert fetch_serial(holder) == serial
    wait_for(lambda: "svids" in late.ask("fetch"), "the newcomer gets its identity")
    # The stream was open all the time and is still the one that brings the news.
    assert not [told for told in holder.told if told["event"] == "end"]
    troth.move("holder", "quarantine")
    end = holder.expect(lambda told: told["event"] == "end", "the end of the stream")
    assert end["status"] == "PERMISSION_DENIED"
    assert len(troth.read_journal("node.attested")) == 1

    # Told to stop, the server ends the agent that it didn't start.
    troth.daemon.stop()
    assert not is_alive(agent)


def test_an_agent_left_behind_is_replaced_when_the_server_moves(lone_troth, programs, run_program):
    troth = lone_troth.start()
    troth.register("mover", *programs.selectors("mover"))
    agent, before = troth.agent_pid, urlsplit(troth.url).port
    troth.daemon.kill()
    troth.ready.clear()  # so that it gets other ports
    troth.start()
    assert urlsplit(troth.url).port != before
    wait_for(lambda: not is_alive(agent), "the end of the agent that knows the old ports only")
    workload = run_program("mover", troth.endpoint)
    wait_for(lambda: "svids" in workload.ask("fetch"), "the identity through the new agent")
    assert troth.agent_pid != agent
    assert len(troth.read_journal("node.attested")) == 1, "with the credential of the old one"


def test_a_killed_agent_is_back_by_itself(lone_troth, programs, run_program):
    troth = lone_troth.start()
    agent = troth.agent_pid
    troth.register("survivor", *programs.selectors("survivor"))
    workload = run_program("survivor", troth.endpoint)
    serial = fetch_serial(workload)
    workload.ask("follow")
    workload.expect(lambda told: told["event"] == "update", "the first update")

    os.kill(agent, signal.SIGKILL)
    end = workload.expect(lambda told: told["event"] == "end", "the end of the stream")
    assert end["status"] == "UNAVAILABLE", "clients come back after this one"
    wait_for(lambda: troth.agent_pid != agent, "another agent")
    wait_for(lambda: "svids" in workload.ask("fetch"), "the identity from the new agent")
    assert fetch_serial(workload) != serial, "keys die with the agent"
    assert troth.daemon.events("node.renewed"), "it came back with its kept credential"
    assert len(troth.read_journal("node.attested")) == 1
    (node,) = troth.call("node.ls", ListNodes()).items
    assert (node.name, node.state) == ("local", "active")
    assert troth.daemon.process.poll() is None


def test_a_server_killed_in_a_burst_of_issuances_loses_nothing(lone_troth, programs, run_program):
    troth = lone_troth.start()
    for index in range(IDENTITIES):
        troth.register(f"burst-{index}", *programs.selectors("burst"))
    workloads = [run_program("burst", troth.endpoint) for _ in range(PROCESSES)]

    def count(state: str):
        sql = f"select count(*) from certificates where kind = 'workload' and state = '{state}'"
        return query(troth, sql)[0][0]

    stranded: set[str] = set()
    while not stranded:
        # The result may be there by the time the kill arrives: then it is done again.
        assert count("issued") < IDENTITIES * PROCESSES, "the burst wasn't over"
        for workload in workloads:
            workload.say("fetch")
        with closing(sqlite3.connect(f"file:{troth.data}/troth.db?mode=ro", uri=True)) as database:
            sql = "select 1 from certificates where kind = 'workload' and state = 'intended'"
            wait_for(lambda: database.execute(sql).fetchone(), "an intent without its result")  # noqa: B023
            troth.daemon.kill()
        stranded = {serial for (serial,) in query(
            troth, "select serial from certificates where kind = 'workload' and state = 'intended'"
        )}  # fmt: skip
        troth.start()

    for workload in workloads:
        workload.expect(lambda told: told["event"] == "fetch", "the first answer, of any kind")
        wait_for(
            lambda: len(workload.ask("fetch").get("svids", ())) == IDENTITIES,  # noqa: B023
            "all identities",
        )
    served = [
        svid["serial"]
        for workload in workloads
        for told in workload.told
        for svid in told.get("svids", ())
    ]
    last = [svid["serial"] for w in workloads for svid in w.told[-1]["svids"]]
    assert len(set(last)) == IDENTITIES * PROCESSES, "each copy of each identity has its own"
    troth.daemon.stop()
    check_records(troth, set(served), stranded)


def check_records(troth: Server, served: set[str], stranded: set[str]) -> None:
    """What must hold of the database that the crash left, before and after reconciling."""
    rows = query(troth, "select serial, state, der from certificates")
    states = {serial: state for serial, state, _ in rows}
    signed = [x509.load_der_x509_certificate(der) for _, _, der in rows if der is not None]
    serials = [f"{one.serial_number:040x}" for one in signed]
    assert len(set(serials)) == len(serials)
    assert {serial for serial, _, der in rows if der is not None} == set(serials)
    assert {states[serial] for serial in served} == {"issued"}, "nothing else was handed out"
    assert not served & stranded

    async def reconcile() -> None:
        store = open_store(f"sqlite:///{troth.data}/troth.db", clock=SystemClock())
        try:
            # A minute later, which the reconciler waits lest it takes away what is under way.
            later = SystemClock().now() + STRANDED_AFTER + timedelta(seconds=1)
            await ReconcileIssuance(store, VirtualClock(later), store.holder)()
        finally:
            store.close()

    asyncio.run(reconcile())
    after = query(troth, "select serial, state, revoked_at from certificates")
    assert {state for _, state, _ in after} == {"issued", "abandoned"}
    abandoned = {serial for serial, state, _ in after if state == "abandoned"}
    assert stranded <= abandoned
    assert all(revoked for serial, _, revoked in after if serial in stranded)

    positions = [position for (position,) in query(
        troth, "select position from journal where position is not null order by position"
    )]  # fmt: skip
    assert positions == list(range(1, len(positions) + 1)), "no gap, no number twice"
    fates = query(
        troth,
        "select json_extract(body, '$.serial'), group_concat(type) from journal "
        "where type in ('certificate.issued', 'certificate.abandoned') group by 1",
    )
    intended = query(
        troth,
        "select json_extract(body, '$.serial') from journal where type = 'certificate.intended'",
    )
    assert {serial for (serial,) in intended} <= {serial for serial, _ in fates}
    assert not [fate for _, fate in fates if "," in fate], "each has one fate, once"
