from __future__ import annotations

import asyncio
import os
import sys
import threading
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.fakes.procfs import PEER, UID, FakeProc
from tests.fakes.server import make_entry, make_process, name_instance, run_node
from tests.fakes.source import in_loop, until
from troth.agent.attestation import Attestation, derive_key
from troth.agent.source import NodeSource
from troth.agent.tokens import PARALLEL_PER_UID, Tokens
from troth.agent.view import Caller, Stale
from troth.core.errors import Denied, Internal, Invalid, Unavailable
from troth.drivers.attestors import Peer, load_attestors

WEB = "spiffe://example.org/web"
ME = Peer(os.getpid(), os.getuid(), os.getgid())
MINE = f"unix:uid:{os.getuid()}"


class FixedAttestor:
    name = "fixed"

    def __init__(self, *texts, error=None):
        self.texts = texts or (MINE,)
        self.error = error

    def examine(self, peer):
        if self.error is not None:
            raise self.error
        yield
        return self.texts

    def attest(self, peer):
        raise AssertionError("the agent looks with all attestors at once")


def make_source(node, *attestors, patience=5.0):
    attestation = Attestation(attestors or (FixedAttestor(),))
    return NodeSource(
        attestation=attestation,
        sync=node.sync,
        cache=node.cache,
        workloads=node.workloads,
        tokens=Tokens(node.jwt_svids, node.time.clock, node.entropy),
        refusals=node.refusals,
        clock=node.time.clock,
        patience=patience,
    )


async def fetch(node, source, caller, spiffe_id=None, audiences=("ledger",)):
    return await source.fetch_jwt_svids(caller, audiences, spiffe_id)


@in_loop
async def test_a_registered_process_is_attested_and_watched():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        assert caller.selectors == (MINE,)
        stream = source.watch(caller)
        first = asyncio.ensure_future(anext(stream))
        await node.settle()
        assert (await first).svids[0].spiffe_id == WEB
        await stream.aclose()
        (request,) = node.server.requests("certificate.issue")[0].requests
        assert request.instance.pid == os.getpid()
        assert request.instance.selectors == [MINE]
        assert len(request.instance.key) == 32


@in_loop
async def test_the_same_process_keeps_its_name_and_another_has_its_own():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=-1)
        try:
            one, again = await source.attest(ME), await source.attest(ME)
            other = await source.attest(Peer(child.pid, os.getuid(), os.getgid()))
        finally:
            child.kill()
            await child.wait()
        assert one.process.instance_key == again.process.instance_key
        assert one.process.instance_key != other.process.instance_key
        assert one.process.is_alive()
        assert not other.process.is_alive()


@in_loop
async def test_a_process_that_is_gone_is_denied():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
        await child.wait()
        with pytest.raises(Denied):
            await source.attest(Peer(child.pid, os.getuid(), os.getgid()))


@in_loop
async def test_processes_that_cannot_be_seen_share_an_instance_by_user():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        one = await source.attest(Peer(0, 1, 1))
        same = await source.attest(Peer(0, 1, 1))
        other = await source.attest(Peer(0, 2, 1))
        assert one.process.instance_key == same.process.instance_key
        assert one.process.instance_key != other.process.instance_key
        assert one.process.pid == 0


@in_loop
async def test_an_unregistered_process_learns_about_itself_and_nothing_about_others():
    secret = make_entry("secret-service", "unix:uid:4242", "unix:path:/opt/hidden")
    async with run_node(secret) as node:
        source = make_source(node, FixedAttestor(MINE, "unix:path:/bin/x"))
        with pytest.raises(Denied) as refusal:
            await source.attest(ME)
        detail = refusal.value.detail
        assert MINE in detail
        assert "unix:path:/bin/x" in detail
        assert f"troth doctor --pid {os.getpid()}" in detail
        for leak in ("secret", "4242", "hidden"):
            assert leak not in detail


@in_loop
async def test_before_the_first_snapshot_callers_are_asked_to_come_back():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        node.sync.snapshot = None
        with pytest.raises(Unavailable):
            await source.attest(ME)


@in_loop
async def test_a_caller_right_after_start_up_waits_for_the_first_snapshot():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        first, node.sync.snapshot = node.sync.snapshot, None
        waiting = asyncio.ensure_future(source.wait_until_ready())
        await asyncio.sleep(0)
        assert not waiting.done()
        node.sync.snapshot = first
        node.sync.changes.announce()
        await waiting
        assert (await source.attest(ME)).selectors == (MINE,)


@in_loop
async def test_a_caller_does_not_wait_for_a_server_that_stays_away():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node, patience=0.01)
        node.sync.snapshot = None
        with pytest.raises(Unavailable, match="has not heard"):
            await source.wait_until_ready()


@in_loop
async def test_all_attestors_share_one_pause_and_no_thread_waits():
    naps = []

    async def nap(seconds):
        naps.append(seconds)

    attestation = Attestation(load_attestors(), sleep=nap)
    process = await attestation.examine(ME)
    assert MINE in process.selectors
    assert naps == [0.02]
    attestation.close()


@in_loop
async def test_a_process_with_another_program_or_user_is_not_alive_any_more(tmp_path):
    proc = FakeProc(tmp_path)

    async def examine():
        return await Attestation([FixedAttestor()], proc.root).examine(PEER)

    process = await examine()
    assert process.is_alive()
    other = tmp_path / "other"
    other.write_bytes(b"other")
    proc.run(other)
    assert not process.is_alive()
    process = await examine()
    proc.run("/nowhere")  # it may not be looked at any more, which proves nothing
    assert process.is_alive()
    proc.set_uid(0)
    assert not process.is_alive()
    with pytest.raises(Stale, match="changed its user"):
        await examine()
    proc.set_uid(UID)
    process = await examine()
    (proc.folder / "stat").unlink()
    (proc.folder / "stat").mkdir()  # reading it fails with EISDIR: look again
    assert process.is_alive()
    proc.exit()
    assert not process.is_alive()


@in_loop
async def test_one_uid_does_not_take_every_thread():
    slow, fast = threading.Event(), threading.Event()

    class Reading(FixedAttestor):
        def examine(self, peer):
            assert (slow if peer.uid == 1 else fast).wait(20)
            return (yield from super().examine(peer))

    fast.set()
    attestation = Attestation([Reading("unix:uid:1")])
    flood = [asyncio.ensure_future(attestation.examine(Peer(0, 1, 1))) for _ in range(100)]
    try:
        await asyncio.sleep(0)
        assert (await attestation.examine(Peer(0, 2, 2))).uid == 2
        assert not any(one.done() for one in flood)
    finally:
        slow.set()
        await asyncio.gather(*flood)
        attestation.close()


@in_loop
async def test_tokens_for_one_uid_do_not_keep_another_waiting():
    async with run_node(make_entry("web", MINE)) as node:
        tokens = Tokens(node.jwt_svids, node.time.clock, node.entropy)
        snapshot = node.sync.require_snapshot()
        registration = snapshot.registrations["idn_web"]
        node.server.holding = asyncio.Event()

        def ask(number, uid):
            workload = node.cache.admit(make_process(number, MINE, uid=uid), 0.0)
            issue = tokens.issue(workload, registration, (f"a{number}",), snapshot)
            return asyncio.ensure_future(issue)

        asked = [ask(number, uid=1) for number in range(100)]
        await node.time.settle()
        asked.append(ask(100, uid=2))
        await node.time.settle()
        first, second = node.server.requests("jwtsvid.issue")
        assert len(first.requests) == PARALLEL_PER_UID
        assert [r.audiences for r in second.requests] == [["a100"]]
        node.server.holding.set()
        assert len(await asyncio.gather(*asked)) == 101


@in_loop
async def test_tokens_asked_for_together_share_a_call_and_a_refusal_concerns_its_own():
    entries = [make_entry(name, MINE) for name in ("web", "api", "batch")]
    async with run_node(*entries) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        svids = await fetch(node, source, caller)
        assert len({svid.token for svid in svids}) == 3
        assert node.server.count()["jwtsvid.issue"] == 1
        node.server.refusals["idn_api"] = Denied("Not this one.")
        api = WEB.replace("web", "api")
        asked = [source.fetch_jwt_svids(caller, ("other",), name) for name in (WEB, api)]
        answers: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
        assert [svid.spiffe_id for svid in answers[0]] == [WEB]
        assert isinstance(answers[1], Denied)
        assert node.server.count()["jwtsvid.issue"] == 2


@in_loop
async def test_attestors_that_fail_or_prove_nothing_give_nothing():
    async with run_node(make_entry("web", MINE)) as node:
        with pytest.raises(Internal):
            await make_source(node, FixedAttestor(error=ZeroDivisionError())).attest(ME)
        with pytest.raises(Denied, match="changed"):
            await make_source(node, FixedAttestor(error=Denied("It changed."))).attest(ME)
        with pytest.raises(Denied, match="Nothing could be proved"):
            await make_source(node, FixedAttestor("rubbish", "unix:uid:x")).attest(ME)


def test_attestors_are_loaded_by_name():
    assert [attestor.name for attestor in load_attestors(("unix", "cgroup"))] == ["unix", "cgroup"]
    with pytest.raises(Invalid, match="known: unix, cgroup"):
        load_attestors(("os",))


def test_derived_keys_keep_their_parts_apart():
    assert derive_key("ab", "c") != derive_key("a", "bc")


@in_loop
async def test_refusals_tell_the_server_which_selector_failed():
    near = make_entry("near", MINE, "unix:path:/usr/bin/right")
    far = make_entry("far", "unix:uid:4242")
    async with run_node(near, far) as node:
        source = make_source(node, FixedAttestor(MINE, "unix:path:/tmp/wrong"))
        for _ in range(3):
            with pytest.raises(Denied):
                await source.attest(ME)
        (refused,) = node.refusals.take()
        assert refused.count == 3
        assert refused.pid == os.getpid()
        near_at, far_at = refused.reason.index("near:"), refused.reason.index("far:")
        assert near_at < far_at
        assert "unix:path:/usr/bin/right (attested /tmp/wrong)" in refused.reason
        assert node.refusals.take() == []


@in_loop
async def test_tokens_are_kept_until_half_their_life():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        (first,) = await fetch(node, source, caller)
        assert first.spiffe_id == WEB
        assert await fetch(node, source, caller) == (first,)
        assert await fetch(node, source, caller, audiences=("other",)) != (first,)
        assert node.server.count()["jwtsvid.issue"] == 2
        await node.time.advance(166)
        (second,) = await fetch(node, source, caller)
        assert second.token != first.token


@in_loop
async def test_a_kept_token_bridges_an_outage_until_it_expires():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        (first,) = await fetch(node, source, caller)
        node.server.go_away()
        await node.time.advance(200)
        assert await fetch(node, source, caller) == (first,)
        await node.time.advance(101)
        with pytest.raises(Unavailable):
            await fetch(node, source, caller)


@in_loop
async def test_quarantine_and_locks_end_kept_tokens():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        (first,) = await fetch(node, source, caller)
        node.server.quarantine("web")
        await node.settle()
        with pytest.raises(Denied, match="cut off"):
            await fetch(node, source, caller)
        node.server.change("web", state="active")
        await node.settle()
        (second,) = await fetch(node, source, caller)
        assert second.token != first.token
        node.server.locked.add(name_instance("idn_web", caller.process.instance_key))
        node.server.publish()
        await node.settle()
        with pytest.raises(Denied, match="locked"):
            await fetch(node, source, caller)


@in_loop
async def test_a_token_that_arrives_after_quarantine_is_not_handed_out():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        real = node.server.call

        async def quarantine_meanwhile(name, request):
            answer = await real(name, request)
            node.server.quarantine("web")
            await until(
                lambda: node.sync.require_snapshot().registrations["idn_web"].state != "active"
            )
            return answer

        node.server.call = quarantine_meanwhile
        with pytest.raises(Denied, match="cut off"):
            await fetch(node, source, caller)


@in_loop
async def test_one_identity_can_be_chosen_and_a_strange_one_is_denied():
    async with run_node(make_entry("web", MINE), make_entry("api", MINE)) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        assert len(await fetch(node, source, caller)) == 2
        (chosen,) = await fetch(node, source, caller, spiffe_id=WEB)
        assert chosen.spiffe_id == WEB
        with pytest.raises(Denied, match="doesn't hold"):
            await fetch(node, source, caller, spiffe_id="spiffe://example.org/root")
        with pytest.raises(Invalid):
            await fetch(node, source, caller, audiences=())


@pytest.mark.parametrize("audiences", [(), tuple(map(str, range(17))), ("\x01",), ("x" * 2049,)])
@in_loop
async def test_audiences_that_no_token_may_have_are_refused_before_they_go_with_others(audiences):
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        with pytest.raises(Invalid, match="audience"):
            await fetch(node, source, caller, audiences=audiences)
        assert node.server.count()["jwtsvid.issue"] == 0


@in_loop
async def test_a_token_for_another_identity_is_refused():
    async with run_node(make_entry("web", MINE), make_entry("api", "unix:uid:9")) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        real = node.server._issue_token

        def confuse(request: Any) -> Any:
            other = real(msgspec.structs.replace(request, identity_id="idn_api"))
            return msgspec.structs.replace(other, identity_id=claimed)

        node.server._issue_token = confuse
        claimed = "idn_web"
        with pytest.raises(Unavailable, match="not what was asked for"):
            await fetch(node, source, caller)
        claimed = "idn_api"
        with pytest.raises(Unavailable, match="another identity"):
            await fetch(node, source, caller)


@in_loop
async def test_tokens_of_identities_elsewhere_are_refused_once_cut_off():
    """Retired, or hosted on other nodes alone: the server tells every node."""
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        (svid,) = await fetch(node, source, caller)
        node.server.cut_off_elsewhere.add(WEB)
        node.server.remove("web")
        await node.settle()
        with pytest.raises(Invalid, match="cut off"):
            await source.validate_jwt_svid(caller, "ledger", svid.token)


@in_loop
async def test_a_disconnected_agent_validates_by_what_it_knew_until_the_end():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        (svid,) = await fetch(node, source, caller)
        node.server.go_away()
        await node.settle()
        subject, _ = await source.validate_jwt_svid(caller, "ledger", svid.token)
        assert subject == WEB
        node.time.clock.advance(timedelta(hours=1))
        with pytest.raises(Invalid):
            await source.validate_jwt_svid(caller, "ledger", svid.token)


@in_loop
async def test_a_token_from_before_a_quarantine_counts_again_after_the_release():
    """What revocation-reach.md says: certificates stay revoked, tokens end by themselves."""
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        (svid,) = await fetch(node, source, caller)
        node.server.quarantine("web")
        await node.settle()
        with pytest.raises(Invalid, match="cut off"):
            await source.validate_jwt_svid(caller, "ledger", svid.token)
        node.server.change("web", state="active")
        await node.settle()
        assert (await source.validate_jwt_svid(caller, "ledger", svid.token))[0] == WEB


@in_loop
async def test_tokens_are_validated_against_the_bundle_and_the_state():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        caller = await source.attest(ME)
        (svid,) = await fetch(node, source, caller)
        subject, claims = await source.validate_jwt_svid(caller, "ledger", svid.token)
        assert subject == WEB
        assert claims["aud"] == ["ledger"]
        with pytest.raises(Invalid):
            await source.validate_jwt_svid(caller, "other", svid.token)
        with pytest.raises(Invalid):
            await source.validate_jwt_svid(caller, "ledger", svid.token[:-4])
        node.server.quarantine("web")
        await node.settle()
        with pytest.raises(Invalid, match="cut off"):
            await source.validate_jwt_svid(caller, "ledger", svid.token)
        node.time.clock.advance(timedelta(hours=1))
        with pytest.raises(Invalid):
            await source.validate_jwt_svid(caller, "ledger", svid.token)


@in_loop
async def test_a_caller_that_this_source_did_not_attest_is_a_broken_promise():
    async with run_node(make_entry("web", MINE)) as node:
        source = make_source(node)
        with pytest.raises(Internal):
            source.watch(Caller(ME, (MINE,), "key"))
