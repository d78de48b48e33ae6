"""Refused processes: what is reported of them, how often, and how much."""

from __future__ import annotations

from dataclasses import replace

from tests.fakes.server import make_entry, make_process, name_instance, run_node
from tests.fakes.source import in_loop
from troth.agent.refusals import (
    MAX_KNOWN_PER_UID,
    MAX_REASON,
    MAX_REFUSALS,
    Refusals,
    explain_mismatch,
)
from troth.agent.reporting import Reporter
from troth.core.errors import Unavailable
from troth.identity.selectors import Selector


@in_loop
async def test_a_refused_process_is_reported_once_then_as_a_count_every_ten_minutes():
    async with run_node(make_entry("web")) as node:
        snapshot = node.sync.require_snapshot()
        process = make_process(1, "unix:uid:5")
        news = 0
        reports = []
        for second in range(1300):
            news += node.refusals.note(process, snapshot, float(second))
            reports += node.refusals.take()
        assert news == 3
        assert [report.count for report in reports] == [1, 600, 600]


@in_loop
async def test_a_uid_that_thinks_of_ever_new_programs_is_reported_only_so_often():
    async with run_node(make_entry("web")) as node:
        snapshot = node.sync.require_snapshot()
        reports = []
        for number in range(500):
            node.refusals.note(make_process(number, f"unix:path:/{number}", uid=5), snapshot, 0.0)
            reports += node.refusals.take()
        assert len(reports) == MAX_KNOWN_PER_UID
        assert node.refusals.note(make_process(1, "unix:uid:6", uid=6), snapshot, 0.0)


@in_loop
async def test_explaining_a_refusal_compares_so_many_and_finds_the_likely_ones():
    entries = [make_entry(f"far{n}", f"unix:uid:{n}") for n in range(30)]
    near = make_entry("near", "unix:gid:7", "unix:uid:29")
    async with run_node(*entries, near) as node:
        snapshot = node.sync.require_snapshot()
        attested = frozenset({Selector("unix:gid", "7")})
        ranked = snapshot.rank_nearest(attested, 3, 10)
        assert ranked[0][0].name == "near"
        assert len(snapshot.rank_nearest(attested, 100, 10)) == 10


@in_loop
async def test_refusals_are_bounded_and_long_reasons_cut():
    entries = [
        make_entry(f"i{n}", *[f"unix:path:/{'x' * 500}{n}{m}" for m in range(9)]) for n in "abc"
    ]
    async with run_node(*entries) as node:
        snapshot = node.sync.require_snapshot()
        refusals = Refusals()
        for number in range(MAX_REFUSALS + 50):
            refusals.note(make_process(number, f"unix:uid:{number}", uid=number), snapshot, 0.0)
        taken = refusals.take()
        assert len(taken) == MAX_REFUSALS
        assert all(len(entry.reason) <= MAX_REASON for entry in taken)
        refusals.put_back(taken)
        refusals.note(make_process(0, "unix:uid:0"), snapshot, 0.0)
        again = refusals.take()
        assert len(again) == MAX_REFUSALS
        assert again[0].count == 2


@in_loop
async def test_a_node_without_identities_explains_itself():
    async with run_node(make_entry("none", selectors=[])) as node:
        snapshot = node.sync.require_snapshot()
        assert "no selectors" in explain_mismatch(frozenset(), snapshot)
        empty = replace(snapshot, registrations={})
        assert explain_mismatch(frozenset(), empty) == "No identity is registered for this node."


@in_loop
async def test_reports_carry_instances_and_refusals_and_survive_an_outage():
    async with run_node(make_entry("web")) as node:
        node.start(Reporter(node.server, node.workloads, node.refusals, node.time.sleep).run())
        node.watch(make_process(1))
        await node.time.advance(31)
        (report,) = node.server.requests("node.report")
        key = make_process(1).instance_key
        assert [seen.instance_id for seen in report.seen] == [name_instance("idn_web", key)]
        node.server.failure = Unavailable("away")
        node.refusals.note(make_process(2, "unix:uid:5"), node.sync.require_snapshot(), 0.0)
        await node.time.advance(2)
        assert len(node.refusals) == 1
        node.server.failure = None
        await node.time.advance(30)
        report = node.server.requests("node.report")[-1]
        assert [refused.pid for refused in report.refused] == [2]
        assert len(node.refusals) == 0


@in_loop
async def test_a_flood_of_refusals_makes_one_report_a_second():
    async with run_node(make_entry("web")) as node:
        node.start(Reporter(node.server, node.workloads, node.refusals, node.time.sleep).run())
        snapshot = node.sync.require_snapshot()
        for number in range(200):
            node.refusals.note(
                make_process(number, f"unix:uid:{number}", uid=number), snapshot, 0.0
            )
            await node.time.advance(0.05)
        assert node.server.count()["node.report"] <= 11
