"""Reports of decisions: gathered, kept, sent in batches, and sent again where nobody answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.fakes.enforcers import TILL, make_enforcer
from troth.core.errors import Invalid, Unavailable
from troth.sdk import reporting
from troth.sdk.enforcer import Enforcer
from troth.wire.api.rules import DecisionRefusal, DecisionsReported, ReportDecisions


class FakeServer:
    """Takes reports, unless it is told to refuse."""

    def __init__(self) -> None:
        self.away = False
        self.hates = ""
        self.refuses = ""
        self.calls: list[int] = []
        self.ids: list[str] = []
        self.lost = 0

    async def __call__(self, report: ReportDecisions) -> DecisionsReported:
        self.calls.append(len(report.decisions))
        if self.away:
            raise Unavailable("Away.")
        if any(one.id == self.hates for one in report.decisions):
            raise Invalid("Not understood.")
        self.lost += report.lost
        refused = [one.id for one in report.decisions if one.id == self.refuses]
        self.ids += [one.id for one in report.decisions if one.id not in refused]
        return DecisionsReported(
            kept=len(report.decisions) - len(refused),
            known=0,
            refused=[DecisionRefusal(id=one, reason="No.") for one in refused],
        )


def ask(enforcer: Enforcer, count: int) -> list[str]:
    told = {"request": {"transport": "mtls", "scopes": ("a", "b")}}
    return [
        enforcer.decide(TILL, "read", "ledger", f"b{number}", told, request_id="req_1").id
        for number in range(count)
    ]


def run(test: Callable[[Enforcer, FakeServer], Awaitable[None]]) -> None:
    asyncio.run(_run(test))


async def _run(test: Callable[[Enforcer, FakeServer], Awaitable[None]]) -> None:
    await test(make_enforcer(), FakeServer())


def test_all_is_sent_in_batches_with_what_was_read() -> None:
    async def check(enforcer: Enforcer, server: FakeServer) -> None:
        ids = ask(enforcer, 1200)
        await enforcer.reporter.finish(server)
        assert server.ids == ids
        assert server.calls == [500, 500, 200]
        assert (enforcer.reporter.reported, enforcer.reporter.lost) == (1200, 0)

    run(check)


def test_what_is_reported_says_all_that_it_depended_on() -> None:
    enforcer = make_enforcer()
    ask(enforcer, 1)
    (made,) = enforcer.reporter._waiting
    report = reporting._decode(reporting.encode_made(made))
    assert report is not None
    assert (report.subject_type, report.subject, report.action) == ("identity", "till", "read")
    assert (report.resource, report.resource_type, report.resource_id) == ("ledger",) * 2 + ("b0",)
    assert (report.allowed, list(report.policies)) == (True, ["role/clerk/1"])
    assert report.facts == {"request.transport": "mtls"}
    assert (report.epoch, report.request_id) == (7, "req_1")


def test_what_nobody_takes_waits() -> None:
    async def check(enforcer: Enforcer, server: FakeServer) -> None:
        server.away = True
        ids = ask(enforcer, 3)
        await enforcer.reporter.keep()
        assert not await enforcer.reporter._send_all(server)
        server.away = False
        ids += ask(enforcer, 2)
        await enforcer.reporter.finish(server)
        assert server.ids == ids

    run(check)


def test_one_that_is_not_understood_does_not_keep_the_others() -> None:
    async def check(enforcer: Enforcer, server: FakeServer) -> None:
        ids = ask(enforcer, 40)
        server.hates, server.refuses = ids[17], ids[20]
        await enforcer.reporter.finish(server)
        assert server.ids == [one for one in ids if one not in (server.hates, server.refuses)]
        assert server.lost == 1

    run(check)


def test_more_than_can_wait_is_lost_and_told() -> None:
    async def check(enforcer: Enforcer, server: FakeServer) -> None:
        most, reporting.MOST_WAITING = reporting.MOST_WAITING, 10
        try:
            ids = ask(enforcer, 15)
        finally:
            reporting.MOST_WAITING = most
        await enforcer.reporter.finish(server)
        assert server.ids == ids[:10]
        assert server.lost == enforcer.reporter.lost == 5

    run(check)


def test_facts_that_are_no_json_are_left_out() -> None:
    enforcer = make_enforcer()
    enforcer.decide(TILL, "read", "ledger", "b\ud800", {"request": {"transport": "\ud800"}})
    (made,) = enforcer.reporter._waiting
    line = reporting.encode_made(made)
    assert reporting._decode(line) is not None
    assert b"\n" not in line
    assert reporting._decode(b"{}") is None
