from __future__ import annotations

import asyncio

import pytest
from msgspec import json

from tests.fakes.issuer import NOW
from tests.fakes.server import FakeServer, make_entry, make_process, run_node
from tests.fakes.source import in_loop
from tests.fakes.virtualtime import VirtualTime
from troth.agent.batches import CERTIFICATES, MAX_PARALLEL, MAX_WEIGHT, Batches
from troth.agent.cache import (
    MAX_TOKENS,
    NEW_BURST,
    NEW_PER_SECOND,
    NOBODY,
    Cache,
    Token,
)
from troth.agent.credential import generate_key, make_csr
from troth.agent.snapshot import read_snapshot
from troth.core.errors import Denied, Internal, Limited, TooLarge, Unavailable
from troth.wire.api.certificates import CertificateRequest, InstanceClaim, IssuedCertificates

KEY = generate_key()
CSR = make_csr(KEY)


def request(number, name="web", selectors=("unix:uid:1001",)):
    claim = InstanceClaim(key=f"{number:032x}", pid=number, selectors=list(selectors))
    return CertificateRequest(identity_id=f"idn_{name}", csr=CSR, instance=claim)


def setup_batches():
    time = VirtualTime(NOW)
    server = FakeServer(time)
    server.entries["idn_web"] = make_entry("web")
    return time, server, Batches(server, time.sleep, CERTIFICATES)


async def gather(time, waits):
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await time.advance(0.01)
    return await asyncio.gather(*tasks, return_exceptions=True)


@in_loop
async def test_requests_within_five_milliseconds_share_a_call_and_get_their_own_answers():
    time, server, batches = setup_batches()
    server.entries["idn_api"] = make_entry("api")
    answers = await gather(
        time,
        [batches.issue(request(1)), batches.issue(request(2, "api")), batches.issue(request(3))],
    )
    assert server.count() == {"certificate.issue": 1}
    assert [answer.identity_id for answer in answers] == ["idn_web", "idn_api", "idn_web"]
    assert len({answer.instance_id for answer in answers}) == 3


@in_loop
async def test_a_refusal_concerns_its_own_request_alone():
    time, _server, batches = setup_batches()
    good, bad = await gather(time, [batches.issue(request(1)), batches.issue(request(2, "none"))])
    assert good.chain
    assert isinstance(bad, Denied)


@in_loop
async def test_a_full_batch_leaves_at_once_and_few_are_under_way():
    time, server, batches = setup_batches()
    server.holding = asyncio.Event()
    tasks = [asyncio.ensure_future(batches.issue(request(n))) for n in range(256 * 6 + 1)]
    await time.settle()
    assert server.count()["certificate.issue"] == MAX_PARALLEL
    server.failure = Unavailable("away")
    server.holding.set()
    await time.advance(0.01)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert [len(r.requests) for r in server.requests("certificate.issue")] == [256] * 6 + [1]


@in_loop
async def test_heavy_requests_are_split_over_calls():
    time, server, batches = setup_batches()
    heavy = tuple(f"unix:path:/{n:04000d}" for n in range(50))
    answers = await gather(time, [batches.issue(request(n, selectors=heavy)) for n in range(3)])
    assert server.count()["certificate.issue"] == 3
    assert all(answer.chain for answer in answers)


@in_loop
async def test_a_request_that_spoils_a_batch_spoils_only_itself():
    time, server, batches = setup_batches()
    real, sizes = server.call, []

    async def refuse_the_fifth(name, asked):
        sizes.append(len(asked.requests))
        if any(one.instance.pid == 5 for one in asked.requests):
            raise TooLarge("The request is too large.")
        return await real(name, asked)

    server.call = refuse_the_fifth
    answers = await gather(time, [batches.issue(request(n)) for n in range(1, 17)])
    assert [n for n, one in enumerate(answers, 1) if isinstance(one, TooLarge)] == [5]
    assert len(sizes) == 9

    sizes.clear()

    async def refuse_the_node(name, asked):
        sizes.append(len(asked.requests))
        raise Denied("This node was evicted.")

    server.call = refuse_the_node
    await gather(time, [batches.issue(request(n)) for n in range(3)])
    assert sizes == [3]


@in_loop
async def test_requests_weigh_what_they_take_as_json():
    time, server, batches = setup_batches()
    heavy = tuple("unix:path:/" + "\x01" * 4000 for _ in range(10))
    await gather(time, [batches.issue(request(n, selectors=heavy)) for n in range(3)])
    sizes = [len(json.encode(sent)) for sent in server.requests("certificate.issue")]
    assert len(sizes) == 3
    assert max(sizes) < MAX_WEIGHT


@in_loop
async def test_one_who_gave_up_disturbs_nobody():
    time, server, batches = setup_batches()
    gone = asyncio.ensure_future(batches.issue(request(1)))
    await time.settle()
    gone.cancel()
    (answer,) = await gather(time, [batches.issue(request(2))])
    assert answer.chain
    assert [len(r.requests) for r in server.requests("certificate.issue")] == [1]


@in_loop
async def test_answers_that_do_not_fit_the_questions_are_refused():
    time, server, batches = setup_batches()
    real = server._issue
    server._issue = lambda one: real(request(1))
    server.entries["idn_api"] = make_entry("api")
    (swapped,) = await gather(time, [batches.issue(request(2, "api"))])
    assert isinstance(swapped, Internal)

    async def answer_nothing(name, asked):
        return IssuedCertificates(results=[])

    server.call = answer_nothing
    (short,) = await gather(time, [batches.issue(request(1))])
    assert isinstance(short, Internal)

    async def break_down(name, asked):
        raise ZeroDivisionError

    server.call = break_down
    (broken,) = await gather(time, [batches.issue(request(1))])
    assert isinstance(broken, Internal)


def test_newcomers_take_the_place_of_who_does_not_watch():
    cache = Cache(limit=2)
    idle, busy = cache.admit(make_process(1), 0.0), cache.admit(make_process(2), 0.0)
    busy.watchers = 1
    cache.admit(make_process(3), 0.0).watchers = 1
    assert cache.find(idle.process.key) is None
    with pytest.raises(Limited, match="serves 2 processes"):
        cache.admit(make_process(4), 0.0)
    assert cache.admit(make_process(2), 0.0) is busy


def test_a_crowded_uid_makes_room_by_itself():
    cache = Cache(limit=4, limit_per_uid=2)
    other = cache.admit(make_process(1, uid=1), 0.0)
    idle, busy = (cache.admit(make_process(n, uid=2), 0.0) for n in (2, 3))
    busy.watchers = 1
    newest = cache.admit(make_process(4, uid=2), 0.0)
    assert cache.find(idle.process.key) is None
    assert cache.find(other.process.key) is other
    newest.watchers = 1
    with pytest.raises(Limited, match="2 processes of uid 2"):
        cache.admit(make_process(5, uid=2), 0.0)
    cache.admit(make_process(6, uid=3), 0.0)
    cache.admit(make_process(7, uid=3), 0.0)  # the node is full: its own idle one goes first
    cache.admit(make_process(8, uid=3), 0.0)
    assert cache.find(other.process.key) is other


def test_a_uid_that_crashes_and_restarts_for_ever_is_slowed_down():
    cache = Cache()
    for number in range(NEW_BURST):
        cache.admit(make_process(number), 0.0)
    with pytest.raises(Unavailable, match="crashing"):
        cache.admit(make_process(NEW_BURST), 0.0)
    cache.admit(make_process(NEW_BURST - 1), 0.0)  # known
    cache.admit(make_process(NEW_BURST, uid=1002), 0.0)  # somebody else
    cache.admit(make_process(NEW_BURST, uid=NOBODY), 0.0)  # the agent itself
    admitted = 0
    for number in range(100):
        try:
            cache.admit(make_process(10_000 + number), 2.0)
            admitted += 1
        except Unavailable:
            pass
    assert admitted == 2 * NEW_PER_SECOND


def test_an_old_workload_does_not_take_its_successor_along():
    cache = Cache()
    old = cache.admit(make_process(1), 0.0)
    cache.remove(old)
    new = cache.admit(make_process(1), 0.0)
    cache.remove(old)
    assert cache.find(new.process.key) is new
    assert len(cache) == 1


@in_loop
async def test_a_full_node_says_so():
    async with run_node(make_entry("web"), limit=1) as node:
        node.watch(make_process(1))
        await node.settle()
        late = node.watch(make_process(2))
        await node.settle()
        assert isinstance(late.error, Limited)


def test_tokens_of_one_process_are_bounded():
    workload = Cache().admit(make_process(1), 0.0)
    server = FakeServer(VirtualTime(NOW))
    server.entries["idn_web"] = make_entry("web")
    registration = read_snapshot(server.snapshot(), None).registrations["idn_web"]
    for number in range(MAX_TOKENS + 5):
        token = Token(
            token="t", renew_at=NOW, expires_at=NOW, registration=registration, locked=frozenset()
        )
        workload.keep_token(("idn_web", (str(number),)), token)
    assert len(workload.tokens) == MAX_TOKENS
    assert ("idn_web", ("0",)) not in workload.tokens
