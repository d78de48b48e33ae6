"""A process that nobody registered, met by the agent: asked once, and refused for a while."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta

import pytest

from tests.fakes.procfs import PEER, FakeProc
from tests.fakes.server import make_entry, make_process, run_node
from tests.fakes.source import in_loop
from troth.agent import sightings as module
from troth.agent.attestation import Attestation
from troth.agent.sightings import REFUSED_FOR, Sightings
from troth.agent.source import NodeSource
from troth.agent.tokens import Tokens
from troth.core.errors import Denied, Limited, Refused, Unavailable
from troth.drivers.attestors import Peer, load_attestors
from troth.wire.api.nodes import TemplateEntry

UID = os.getuid()
ME = Peer(os.getpid(), UID, os.getgid())
MINE = f"unix:uid:{UID}"
SEEN = f"spiffe://example.org/seen-{UID}"
OFFER = TemplateEntry(name="batch", match=[MINE])


class FixedAttestor:
    name = "fixed"

    def __init__(self, *texts):
        self.texts = texts or (MINE,)

    def examine(self, peer):
        yield
        return self.texts

    def attest(self, peer):
        raise AssertionError("the agent looks with all attestors at once")


def make_source(node, *attestors, patience=5.0):
    return NodeSource(
        attestation=Attestation(attestors or (FixedAttestor(),)),
        sync=node.sync,
        cache=node.cache,
        workloads=node.workloads,
        tokens=Tokens(node.jwt_svids, node.time.clock, node.entropy),
        refusals=node.refusals,
        clock=node.time.clock,
        sightings=Sightings(node.server, node.sync, node.time.clock, patience),
    )


async def offer(node, *templates):
    node.server.templates = list(templates or (OFFER,))
    node.server.publish()
    await node.settle()


@in_loop
async def test_the_first_call_waits_for_the_identity_and_gets_its_certificate():
    async with run_node() as node:
        await offer(node)
        source = make_source(node)
        caller = await source.attest(ME)
        stream = source.watch(caller)
        first = asyncio.ensure_future(anext(stream))
        await node.settle()
        assert [svid.spiffe_id for svid in (await first).svids] == [SEEN]
        await stream.aclose()
        (request,) = node.server.requests("identity.sight")
        assert request.selectors == [MINE]
        assert request.pid == os.getpid()
        # Known from now on: nobody is asked again.
        await source.attest(ME)
        assert node.server.count()["identity.sight"] == 1
        assert not len(node.refusals)


@in_loop
async def test_many_calls_at_once_are_one_question():
    async with run_node() as node:
        await offer(node)
        source = make_source(node)
        callers = await asyncio.gather(*(source.attest(ME) for _ in range(20)))
        assert {caller.key for caller in callers} == {callers[0].key}
        assert node.server.count()["identity.sight"] == 1


@in_loop
async def test_without_a_fitting_template_nobody_is_asked():
    async with run_node() as node:
        await offer(node, TemplateEntry(name="far", match=["unix:uid:4000000000"]))
        source = make_source(node)
        with pytest.raises(Denied, match="No identity is registered"):
            await source.attest(ME)
        assert node.server.count()["identity.sight"] == 0
        (refused,) = node.refusals.take()
        assert "template far: wants unix:uid:4000000000" in refused.reason


@in_loop
async def test_equally_special_templates_are_refused_with_their_names():
    async with run_node() as node:
        await offer(node, OFFER, TemplateEntry(name="twin", match=[MINE]))
        source = make_source(node)
        with pytest.raises(Denied) as told:
            await source.attest(ME)
        assert "twin" not in told.value.detail
        assert "batch, twin fit alike" in node.refusals.take()[0].reason
        assert node.server.count()["identity.sight"] == 0


@in_loop
async def test_what_is_registered_goes_before_templates():
    async with run_node(make_entry("web", MINE, state="quarantined")) as node:
        await offer(node)
        source = make_source(node)
        caller = await source.attest(ME)
        assert node.server.count()["identity.sight"] == 0
        with pytest.raises(Denied, match="cut off"):
            await source.fetch_jwt_svids(caller, ("ledger",), None)


@in_loop
async def test_a_registration_takes_over_from_what_a_template_made():
    async with run_node() as node:
        await offer(node)
        source = make_source(node)
        caller = await source.attest(ME)
        node.server.put(make_entry("web", MINE))
        await node.settle()
        (token,) = await source.fetch_jwt_svids(caller, ("ledger",), None)
        assert token.spiffe_id == "spiffe://example.org/web"


@in_loop
async def test_a_refusal_is_reported_with_its_reason_and_believed_for_a_while():
    async with run_node() as node:
        await offer(node)
        source = make_source(node)
        node.server.sighting = Refused("'seen' was retired by an administrator (incident 42).")
        for _ in range(3):
            with pytest.raises(Denied) as told:
                await source.attest(ME)
            assert "incident" not in told.value.detail
        assert node.server.count()["identity.sight"] == 1
        (refused,) = node.refusals.take()
        assert "incident 42" in refused.reason
        node.server.sighting = None
        await node.time.advance(REFUSED_FOR)
        await source.attest(ME)


@in_loop
async def test_a_proposed_identity_is_refused_until_it_is_approved():
    async with run_node() as node:
        await offer(node)
        source = make_source(node)
        node.server.sighted_state = "proposed"
        with pytest.raises(Denied):
            await source.attest(ME)
        assert "troth identity activate" in node.refusals.take()[0].reason
        node.server.put(make_entry(f"seen-{UID}", MINE, template="batch"))
        await node.settle()
        assert (await source.attest(ME)).selectors == (MINE,)


@in_loop
async def test_an_absent_server_is_no_refusal():
    async with run_node() as node:
        await offer(node)
        source = make_source(node)
        node.server.sighting = Unavailable("The server is away.")
        with pytest.raises(Unavailable, match="away"):
            await source.attest(ME)
        assert not len(node.refusals)
        node.server.sighting = None
        await source.attest(ME)


@in_loop
async def test_a_full_node_is_told_to_come_back_and_the_administrator_why():
    async with run_node() as node:
        await offer(node)
        source = make_source(node)
        node.server.sighting = Limited("Node local has met 300 new workloads.")
        with pytest.raises(Unavailable):
            await source.attest(ME)
        assert "300 new workloads" in node.refusals.take()[0].reason


@in_loop
async def test_an_identity_that_does_not_come_is_waited_for_only_so_long():
    async with run_node() as node:
        await offer(node)
        source = make_source(node, patience=0.01)
        put, node.server.put = node.server.put, lambda *entries: None
        with pytest.raises(Unavailable, match="has not sent it yet"):
            await source.attest(ME)
        node.server.put = put
        await source.attest(ME)


@in_loop
async def test_an_expired_identity_lives_again_when_its_workload_is_back():
    async with run_node() as node:
        await offer(node)
        past = node.time.clock.now() - timedelta(seconds=1)
        node.server.put(make_entry(f"seen-{UID}", MINE, template="batch", expires_at=past))
        await node.settle()
        source = make_source(node)
        caller = await source.attest(ME)
        assert node.server.count()["identity.sight"] == 1
        (token,) = await source.fetch_jwt_svids(caller, ("ledger",), None)
        assert token.spiffe_id == SEEN


@in_loop
async def test_one_uid_cannot_ask_for_ever_new_identities(monkeypatch):
    monkeypatch.setattr(module, "BURST", 2)
    async with run_node() as node:
        await offer(node, TemplateEntry(name="batch", match=[MINE, "unix:path:/home/**"]))
        node.server.sighting = Refused("no")
        asked = Sightings(node.server, node.sync, node.time.clock)
        for name in "abc":
            process = make_process(1, MINE, f"unix:path:/home/{name}", uid=UID)
            with pytest.raises(Unavailable if name == "c" else Denied):
                await asked.introduce(process)
        other = make_process(2, "unix:uid:7", uid=UID + 1)
        with pytest.raises(Denied):
            await asked.introduce(other)
        assert node.server.count()["identity.sight"] == 3


@in_loop
async def test_a_unit_is_met_by_its_control_group(tmp_path):
    proc = FakeProc(tmp_path)
    proc.set_cgroup("0::/system.slice/payments.service\n")
    async with run_node() as node:
        await offer(node, TemplateEntry(name="units", match=["systemd:unit:pay*.service"]))
        source = make_source(node)
        source._attestation = Attestation(load_attestors(proc=proc.root), proc.root)
        await source.attest(PEER)
        (request,) = node.server.requests("identity.sight")
        assert "systemd:unit:payments.service" in request.selectors
        proc.set_cgroup("0::/user.slice/user@1001.service/payments.service\n")
        node.server.remove("seen-1001")
        await node.settle()
        with pytest.raises(Denied):
            await source.attest(PEER)


@in_loop
async def test_patterns_of_a_newer_server_are_left_out():
    async with run_node() as node:
        await offer(node, TemplateEntry(name="new", match=["tpm:key:*"]), OFFER)
        assert len(node.sync.require_snapshot().offers) == 1
