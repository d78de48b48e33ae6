from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from datetime import timedelta

from cryptography import x509

from tests.fakes.issuer import NOW
from tests.fakes.server import make_entry, make_process, name_instance, read_serial, run_node
from tests.fakes.source import in_loop
from troth.agent.view import Stale
from troth.core.errors import Denied, Invalid, Unavailable
from troth.wire.api.certificates import IssuedCertificate

WEB = "spiffe://example.org/web"


def serials(watcher):
    return [read_serial(view.svids[0].chain[0]) for view in watcher.views if view.svids]


@in_loop
async def test_a_process_gets_what_it_matches_and_nothing_else():
    web = make_entry("web", hint="front")
    other = make_entry("other", "unix:uid:2000")
    async with run_node(web, other) as node:
        watcher = node.watch()
        await node.settle()
        assert [svid.spiffe_id for svid in watcher.last.svids] == [WEB]
        svid = watcher.last.svids[0]
        assert svid.hint == "front"
        assert svid.not_after == NOW.replace(microsecond=0) + timedelta(hours=1)
        assert watcher.last.bundles[0].trust_domain == "spiffe://example.org"
        assert watcher.last.bundles[0].x509_authorities == (node.server.issuer.x509.certificate,)
        assert len(watcher.views) == 1


@in_loop
async def test_the_most_demanding_registration_comes_first():
    broad = make_entry("all", "unix:uid:1001")
    narrow = make_entry("web", "unix:uid:1001", "unix:gid:7")
    async with run_node(broad, narrow) as node:
        watcher = node.watch(make_process(1, "unix:uid:1001", "unix:gid:7"))
        await node.settle()
        assert [svid.spiffe_id for svid in watcher.last.svids] == [WEB, "spiffe://example.org/all"]


@in_loop
async def test_rotation_at_half_life_on_the_open_stream():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        await node.time.advance(1800 * 0.9 - 1)
        assert len(watcher.views) == 1
        await node.time.advance(1800 * 0.2 + 2)
        assert len(watcher.views) == 2
        first, second = (view.svids[0] for view in watcher.views)
        assert first.private_key != second.private_key
        assert second.not_after > first.not_after
        await node.time.advance(10 * 3600)
        assert 20 <= len(watcher.views) <= 26
        assert node.server.count()["certificate.issue"] == len(watcher.views)


@in_loop
async def test_nobody_watching_means_no_renewal():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        await watcher.close()
        await node.time.advance(3 * 3600)
        assert node.server.count()["certificate.issue"] == 1


@in_loop
async def test_quarantine_withdraws_at_once_and_release_brings_a_new_key_on_the_same_stream():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.quarantine("web")
        await node.time.settle()
        assert watcher.last.svids == ()
        assert watcher.last.withdrawn == (WEB,)
        node.server.change("web", state="active")
        await node.settle()
        assert not watcher.ended
        assert watcher.last.withdrawn == ()
        old, new = watcher.views[0].svids[0], watcher.last.svids[0]
        assert old.private_key != new.private_key
        assert old.chain != new.chain


@in_loop
async def test_the_default_identity_stays_the_first_matched_through_quarantine_and_release():
    async with run_node(make_entry("web"), make_entry("zeta")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.quarantine("web")
        await node.time.settle()
        newcomer, again = node.watch(make_process(2)), node.watch()
        await node.settle()
        for one in (watcher, newcomer, again):
            assert [svid.spiffe_id for svid in one.last.svids] == ["spiffe://example.org/zeta"]
            assert one.last.withdrawn == (WEB,)
        node.server.holding = asyncio.Event()
        node.server.change("web", state="active")
        await node.time.advance(1)
        assert watcher.last.withdrawn == ()
        assert len(watcher.last.svids) == 1
        node.server.holding.set()
        await node.settle()
        assert len(watcher.last.svids) == len(newcomer.last.svids) == 2
        assert {v.default for one in (watcher, newcomer, again) for v in one.views} == {WEB}


@in_loop
async def test_a_retired_default_has_no_successor_while_its_certificate_would_hold():
    async with run_node(make_entry("web"), make_entry("zeta")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.remove("web")
        await node.settle()
        again = node.watch()
        await node.settle()
        assert watcher.last.default == again.last.default == WEB
        await node.time.advance(3600)
        node.server.publish()
        await node.settle()
        assert watcher.last.default == "spiffe://example.org/zeta"


@in_loop
async def test_a_long_quarantine_keeps_the_tombstone_and_the_stream():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.quarantine("web")
        await node.time.advance(5 * 3600)
        assert not watcher.ended
        assert watcher.last.withdrawn == (WEB,)


@in_loop
async def test_quarantine_during_issuance_discards_the_answer():
    async with run_node(make_entry("web")) as node:
        node.server.holding = asyncio.Event()
        watcher = node.watch()
        await node.settle()
        node.server.quarantine("web")
        await node.time.settle()
        node.server.holding.set()
        await node.settle()
        assert all(not view.svids for view in watcher.views)


@in_loop
async def test_a_process_that_comes_during_quarantine_waits_for_release():
    async with run_node(make_entry("web", state="quarantined")) as node:
        watcher = node.watch()
        await node.settle()
        assert watcher.last.svids == ()
        assert watcher.last.withdrawn == (WEB,)
        assert watcher.last.reasons == {WEB: "quarantined"}
        node.server.change("web", state="active")
        await node.settle()
        assert watcher.last.svids[0].spiffe_id == WEB
        assert watcher.last.withdrawn == ()


@in_loop
async def test_an_outage_is_not_told_as_a_quarantine():
    async with run_node(make_entry("web", state="quarantined"), make_entry("api")) as node:
        node.server.failure = Unavailable("away")
        watcher = node.watch()
        await node.settle()
        assert isinstance(watcher.error, Unavailable)


@in_loop
async def test_quarantine_and_release_missed_while_disconnected_still_bring_a_new_certificate():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.go_away()
        node.server.quarantine("web")
        node.server.change("web", state="active")
        node.server.come_back()
        await node.time.advance(1)
        assert len(set(serials(watcher))) == 2
        assert watcher.last.withdrawn == ()


@in_loop
async def test_locking_one_instance_leaves_its_sibling_alone():
    async with run_node(make_entry("web")) as node:
        one, two = node.watch(make_process(1)), node.watch(make_process(2))
        await node.settle()
        assert one.last.svids[0].private_key != two.last.svids[0].private_key
        before = two.last.svids
        node.server.locked.add(name_instance("idn_web", make_process(1).instance_key))
        node.server.publish()
        await node.settle()
        assert one.last.svids == ()
        assert one.last.withdrawn == (WEB,)
        assert two.last.svids == before
        asked = node.server.count()["certificate.issue"]
        await node.time.advance(600)
        assert node.server.count()["certificate.issue"] == asked
        node.server.locked.clear()
        node.server.publish()
        await node.settle()
        assert one.last.svids[0].spiffe_id == WEB
        assert len(set(serials(one))) == 2


@in_loop
async def test_a_lock_that_only_the_server_knows_ends_with_the_unlock():
    async with run_node(make_entry("web")) as node:
        node.server.refusals["idn_web"] = Denied("The instance is locked.")
        watcher = node.watch()
        await node.settle()
        assert isinstance(watcher.error, Denied)
        assert watcher.error.detail == "The instance is locked."
        del node.server.refusals["idn_web"]
        node.server.change("web", revision=9)
        again = node.watch()
        await node.settle()
        assert again.last.svids[0].spiffe_id == WEB


@in_loop
async def test_a_refused_renewal_keeps_the_old_certificate_while_it_holds():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.refusals["idn_web"] = Denied("No more for now.")
        await node.time.advance(3599)
        assert len(watcher.views) == 1
        assert not watcher.ended
        await node.time.advance(2)
        assert isinstance(watcher.error, Denied)
        assert node.server.count()["certificate.issue"] < 120


@in_loop
async def test_an_invalid_request_reaches_the_client_as_denied():
    async with run_node(make_entry("web")) as node:
        node.server.refusals["idn_web"] = Invalid("The TTL is above the ceiling.")
        watcher = node.watch()
        await node.settle()
        assert isinstance(watcher.error, Denied)


@in_loop
async def test_new_names_bring_a_new_certificate_and_other_changes_do_not():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.change("web", hint="other")
        await node.settle()
        assert watcher.last.svids[0].hint == "other"
        assert len(set(serials(watcher))) == 1
        node.server.change("web", dns_names=["web.example.org"])
        await node.settle()
        assert len(set(serials(watcher))) == 2
        leaf = x509.load_der_x509_certificate(watcher.last.svids[0].chain[0])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["web.example.org"]


@in_loop
async def test_selectors_that_no_longer_match_drop_the_identity():
    async with run_node(make_entry("web"), make_entry("rest")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.change("web", selectors=["unix:uid:1001", "unix:gid:7"])
        await node.settle()
        assert [svid.spiffe_id for svid in watcher.last.svids] == ["spiffe://example.org/rest"]
        assert watcher.last.withdrawn == (WEB,)


@in_loop
async def test_a_retired_identity_leaves_a_tombstone_then_a_denial():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.remove("web")
        await node.settle()
        assert watcher.last.withdrawn == (WEB,)
        assert not watcher.ended
        await node.time.advance(3600)
        node.server.publish()
        await node.settle()
        assert isinstance(watcher.error, Denied)


@in_loop
async def test_an_identity_past_its_end_is_withdrawn_without_word_from_the_server():
    async with run_node(make_entry("web", expires_at=NOW + timedelta(seconds=60))) as node:
        watcher = node.watch()
        await node.settle()
        assert watcher.last.svids
        await node.time.advance(61)
        assert watcher.last.svids == ()
        assert watcher.last.withdrawn == (WEB,)


@in_loop
async def test_an_identity_registered_later_joins_the_open_stream():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.put(make_entry("late"))
        await node.settle()
        assert len(watcher.last.svids) == 2


@in_loop
async def test_a_bundle_change_reaches_the_stream():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.revoke("nobody")
        node.server.publish()
        await node.time.settle()
        assert len(watcher.views) == 2
        assert watcher.views[0].bundles[0].crls != watcher.last.bundles[0].crls
        assert watcher.views[0].svids == watcher.last.svids


@in_loop
async def test_a_snapshot_that_changes_nothing_says_nothing():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.publish()
        node.server.heartbeat()
        await node.settle()
        assert len(watcher.views) == 1


@in_loop
async def test_two_streams_of_one_process_share_a_certificate():
    async with run_node(make_entry("web")) as node:
        one, two = node.watch(), node.watch()
        await node.settle()
        assert one.last.svids == two.last.svids
        assert node.server.count()["certificate.issue"] == 1


@in_loop
async def test_another_program_in_the_same_process_gets_another_key():
    async with run_node(make_entry("web")) as node:
        one = node.watch(make_process(1, "unix:uid:1001", "unix:path:/a"))
        two = node.watch(make_process(1, "unix:uid:1001", "unix:path:/b"))
        await node.settle()
        assert one.last.svids[0].private_key != two.last.svids[0].private_key


@in_loop
async def test_a_server_that_answers_rubbish_is_an_outage():
    async with run_node(make_entry("web")) as node:
        other = node.server.issuer.plan("/web", now=NOW)
        node.server._issue = lambda request: _answer(request, [node.server.issuer.issue(other)])
        watcher = node.watch()
        await node.settle()
        assert isinstance(watcher.error, Unavailable)
        assert "another key" in watcher.error.detail
        node.server._issue = lambda request: _answer(request, [b"\x30\x00"])
        node.server.publish()
        watcher = node.watch()
        await node.settle()
        assert isinstance(watcher.error, Unavailable)


def _answer(request, chain):
    return IssuedCertificate(identity_id=request.identity_id, instance_id="ins_1", chain=chain)


@in_loop
async def test_processes_that_are_gone_are_forgotten():
    alive = [1, 2]
    async with run_node(make_entry("web")) as node:
        one, two = (node.watch(make_process(n, alive=alive)) for n in alive)
        await node.settle()
        assert len(node.workloads.list_instances()) == 2
        await one.close()
        await two.close()
        alive.remove(1)
        await node.workloads.purge()
        assert [workload.process.pid for workload in node.cache] == [2]
        assert len(node.workloads.list_instances()) == 1
        await node.time.advance(3601)
        await node.workloads.purge()
        assert len(node.cache) == 0


@in_loop
async def test_streams_of_a_process_that_became_another_end_within_seconds():
    alive = [1, 2]
    async with run_node(make_entry("web")) as node:
        one, two = (node.watch(make_process(n, alive=alive)) for n in alive)
        await node.settle()
        alive.remove(1)
        await node.workloads.purge()
        await node.settle()
        assert isinstance(one.error, Stale)
        assert not two.ended
        assert len(node.cache) == 1
        again = node.watch(make_process(1))
        await node.settle()
        assert again.last.svids


@in_loop
async def test_looking_at_all_processes_survives_what_the_kernel_refuses():
    def fail():
        raise OSError(errno.EMFILE, "Too many open files")

    async with run_node(make_entry("web")) as node:
        watcher = node.watch(replace(make_process(1), is_alive=fail))
        await node.settle()
        await node.workloads.purge()
        assert not watcher.ended
        assert len(node.cache) == 1
