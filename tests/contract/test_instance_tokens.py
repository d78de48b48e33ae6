"""One running copy is cut off: what it obtained ends on every server and at whoever follows
revocations, and its siblings go on."""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from tests.contract.test_token_revocation import BILLING, WORKLOAD, Town, in_town, read_jti
from tests.fakes.copies import Copy, start_copy
from tests.fakes.house import ADMIN
from tests.fakes.stores import ENGINES
from troth.core.errors import NotFound, TrothError, Unavailable
from troth.core.ids import RequestId
from troth.core.jose.jws import parse_token
from troth.issuance.instance import INSTANCES
from troth.issuance.profiles import TOKENS_OVER
from troth.live.revocations import Revocations
from troth.operations.purge import PurgeRecords
from troth.wire.api.identities import ListInstances, MoveInstance
from troth.wire.api.revocations import FollowRevocations
from troth.wire.oauth.errors import name_error


async def start_two(town: Town) -> tuple[Copy, Copy]:
    node = await town.one.join()
    return (
        await start_copy(town.one, node, "billing", 1),
        await start_copy(town.one, node, "billing", 2),
    )


async def move(town: Town, verb: str, copy: Copy) -> None:
    await town.one.call(f"instance.{verb}", MoveInstance(id=copy.id, reason="odd"), ADMIN)
    await town.settle()


def says(token: str) -> dict[str, Any]:
    return dict(parse_token(token).claims)


@in_town(*ENGINES)
async def test_a_lock_ends_what_that_copy_obtained_and_nothing_else(town: Town) -> None:
    bad, good = await start_two(town)
    tokens = {copy.id: await copy.request(town.two) for copy in (bad, good)}
    for id_, token in tokens.items():
        assert says(token)[INSTANCES] == [id_]
    own = await town.fetch()  # by a key of its own: of no copy
    assert INSTANCES not in says(own)
    await move(town, "lock", bad)
    assert not await town.is_active(tokens[bad.id])
    assert await town.is_active(tokens[good.id])
    assert await town.is_active(own)
    (event,) = await town.one.events("token.revoked")
    assert (event.subject, event.body["instance"], event.body["reason"]) == (BILLING, bad.id, "odd")
    assert "spiffe_id" not in event.body
    for house in (town.one, town.two):
        with pytest.raises(TrothError, match="counts no more") as caught:
            await bad.request(house)
        assert name_error(caught.value) == "invalid_client"
    assert await town.is_active(await good.request(town.two))


@in_town(*ENGINES)
async def test_an_unlock_brings_no_token_back_not_even_after_a_restart(town: Town) -> None:
    bad, good = await start_two(town)
    token, sibling = await bad.request(), await good.request()
    kept = bad.svid
    await move(town, "lock", bad)
    assert await bad.fetch_svid() == ""  # locked
    await town.wait(0.3)
    await move(town, "unlock", bad)
    assert await bad.fetch_svid() == ""  # it would be as dead as the tokens of this second
    assert not await town.is_active(token)
    anew = (await town.start_anew()).tokens
    issued_at = says(token)["iat"]
    assert anew.find_ended([bad.id], issued_at) == bad.id
    assert anew.find_ended([good.id, BILLING], issued_at) is None
    assert anew.list_issued_until() == town.two.parts.snapshot.tokens.list_issued_until()
    await town.wait(2)
    assert await bad.fetch_svid()
    fresh = await bad.request(town.two)
    assert await town.is_active(fresh)
    assert not await town.is_active(token)
    assert await town.is_active(sibling)
    bad.svid = kept
    with pytest.raises(TrothError, match="counts no more"):
        await bad.request(town.two)


@in_town(*ENGINES)
async def test_by_hand_a_copy_s_tokens_end_and_it_goes_on_with_new_ones(town: Town) -> None:
    one, two = await start_two(town)
    await one.fetch_certificate()
    token, sibling = await one.request(town.two), await two.request(town.two)
    assert says(token)[INSTANCES] == [one.id]
    made = await town.revoke(instance=one.id)
    assert (made.instance, made.spiffe_id, made.jti) == (one.id, None, None)
    assert made.expires_at == made.issued_until + TOKENS_OVER
    assert (await town.is_active(token), await town.is_active(sibling)) == (False, True)
    with pytest.raises(Unavailable):
        await one.request(town.two)
    await town.wait(2)
    fresh = await one.request(town.two)  # the certificate stands
    assert (await town.is_active(token), await town.is_active(fresh)) == (False, True)
    with pytest.raises(NotFound, match="no instance"):
        await town.revoke(instance="ins_none")


@in_town()
async def test_a_server_that_learns_late_gives_nothing_out_that_lives(town: Town) -> None:
    bad, _ = await start_two(town)
    body = MoveInstance(id=bad.id, reason="odd")
    await town.one.call("instance.lock", body, ADMIN)
    town.one.clock.advance(timedelta(seconds=0.9))
    late = await bad.request(town.two)
    await town.settle()
    assert not await town.is_active(late)


@in_town()
async def test_who_follows_revocations_refuses_the_same_tokens(town: Town) -> None:
    bad, good = await start_two(town)
    tokens = {copy.id: await copy.request() for copy in (bad, good)}
    known = Revocations(town.one.clock)

    def objects(copy: Copy) -> list[str]:
        claims, kid = says(tokens[copy.id]), parse_token(tokens[copy.id]).header["kid"]
        parties = [claims["sub"], *claims[INSTANCES]]
        return known.find_token_objections(claims["jti"], parties, claims["iat"], kid)

    async def follow() -> Any:
        dispatcher = town.two.dispatcher
        return aclosing(
            dispatcher.open("revocation.follow", WORKLOAD, RequestId("r"), FollowRevocations())
        )

    async with await follow() as values:
        known.take(await anext(values), town.one.clock.monotonic())
        assert (objects(bad), objects(good)) == ([], [])
        await move(town, "lock", bad)
        change = await anext(values)
        assert list(change.issued_until) == [bad.id]
        known.take(change, town.one.clock.monotonic())
    assert (len(objects(bad)), objects(good)) == (1, [])
    known.forget_place()
    async with await follow() as values:
        whole = await anext(values)
        assert whole.issued_until == change.issued_until
        known.take(whole, town.one.clock.monotonic())
    assert (len(objects(bad)), objects(good)) == (1, [])


@in_town(*ENGINES)
async def test_an_end_is_forgotten_when_no_token_of_before_can_live(town: Town) -> None:
    bad, _ = await start_two(town)
    await move(town, "lock", bad)
    assert bad.id in town.two.parts.snapshot.list_refused().issued_until
    for house in (town.one, town.two):
        purge = PurgeRecords(house.parts.store, house.clock, house.parts.snapshot, "test")
        await purge()
        assert bad.id in house.parts.snapshot.list_refused().issued_until
    await town.wait(TOKENS_OVER.total_seconds() + 2)
    for house in (town.one, town.two):
        purge = PurgeRecords(house.parts.store, house.clock, house.parts.snapshot, "test")
        await purge()
        assert not house.parts.snapshot.list_refused().issued_until
    before = town.one.clock.now() - timedelta(days=1)
    store = town.one.parts.store
    assert not await store.read(lambda tx: tx.token_revocations.list_issued_until(before))
    listed = await town.one.call("instance.ls", ListInstances(name="billing"))
    assert {one.id: one.locked for one in listed.items}[bad.id]  # and locked it stays


@in_town()
async def test_the_journal_names_the_copies_of_a_token(town: Town) -> None:
    bad, _ = await start_two(town)
    token = await bad.request()
    own = await town.fetch()
    events = {event.body["jti"]: event.body for event in await town.one.events("token.issued")}
    assert events[read_jti(token)][INSTANCES] == [bad.id]
    assert INSTANCES not in events[read_jti(own)]
