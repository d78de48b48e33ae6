"""Tokens end before their time: by hand, by their holder, with their identity; on every server, and
at whoever follows revocations."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.clients import (
    FakeClient,
    add_client,
    apply,
    introspect,
    render_identity,
    request_token,
    show_token,
    surrender,
)
from tests.fakes.house import ADMIN, LEASE, FakeHouse, open_house
from tests.fakes.issuer import make_private_key
from tests.fakes.stores import ENGINES, NOW, SECOND, make_named, make_url, read, transact
from troth.core.clock import VirtualClock
from troth.core.errors import Denied, Invalid, Limited, Refused, TrothError, Unavailable
from troth.core.ids import IdentityId, RequestId
from troth.core.jose.jws import parse_token
from troth.identity.identity import State
from troth.issuance.profiles import TOKENS_OVER
from troth.live.revocations import Revocations
from troth.live.snapshot import Snapshot
from troth.operations.call import ANONYMOUS, Caller
from troth.operations.feed import FollowJournal, read_seed
from troth.operations.publication import StoredPublication
from troth.operations.table import list_operations, list_subscriptions
from troth.store.engine import open_store
from troth.store.sealer import Sealer
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.revocations import FollowRevocations
from troth.wire.api.tokens import RevokeTokens
from troth.wire.oauth.errors import name_error

BILLING = "spiffe://example.org/billing"
WORKLOAD = Caller("spiffe://example.org/ledger-api", frozenset({"workload"}))
Test = Callable[["Town"], Coroutine[Any, Any, None]]


@dataclass
class Town:
    """Two servers on one database, a client, and the API that it calls."""

    one: FakeHouse
    two: FakeHouse
    client: FakeClient
    server: FakeClient

    async def settle(self) -> None:
        """What is committed is known by both after one run of each feed."""
        await self.one.feed()
        await self.two.feed()

    async def wait(self, seconds: float) -> None:
        self.one.clock.advance(timedelta(seconds=seconds))
        await self.settle()

    async def fetch(self, house: FakeHouse | None = None) -> str:
        return (await request_token(house or self.one, self.client.ask())).access_token

    async def move(self, verb: str) -> None:
        body = MoveIdentity(name="billing", reason="a test")
        await self.one.call(f"identity.{verb}", body, ADMIN)
        await self.settle()

    async def revoke(self, **fields: str) -> Any:
        made = await self.one.call("token.revoke", RevokeTokens(reason="a test", **fields), ADMIN)
        await self.settle()
        return made

    async def is_active(self, token: str) -> bool:
        """As both servers say, in whose snapshots it must be the same."""
        found = [await introspect(house, self.server, token) for house in (self.one, self.two)]
        assert found[0] == found[1]
        return bool(found[0]["active"])

    async def start_anew(self) -> Snapshot:
        """What a server that starts now reads from the database."""
        snapshot = Snapshot(self.one.clock, LEASE)
        snapshot.load(await read_seed(self.one.parts.store, self.one.clock.now()))
        return snapshot


def make_second(house: FakeHouse) -> FakeHouse:
    """Another server on the database of `house`."""
    parts, clock = house.parts, house.clock
    snapshot = Snapshot(clock, LEASE)
    publication = StoredPublication(parts.store, snapshot, clock, parts.publication.origin, "x")
    mine = replace(parts, snapshot=snapshot, publication=publication)
    return replace(
        house,
        parts=mine,
        dispatcher=replace(
            house.dispatcher,
            operations=list_operations(mine),
            subscriptions=list_subscriptions(mine),
        ),
        feed=FollowJournal(parts.store, Sealer(parts.store, clock=clock, holder="two"), snapshot),
    )


def in_town(*engines: str) -> Callable[[Test], Callable[[Path, str], None]]:
    def wrap(test: Test) -> Callable[[Path, str], None]:
        @pytest.mark.parametrize("engine", engines or ["sqlite"])
        def run(tmp_path: Path, engine: str) -> None:
            async def main() -> None:
                async with open_house(tmp_path, url=make_url(engine, tmp_path)) as one:
                    two = make_second(one)
                    two.parts.snapshot.load(await read_seed(one.parts.store, one.clock.now()))
                    client = await add_client(one)
                    key = make_private_key(51)
                    await apply(one, render_identity("ledger-api", key, roles=[]))
                    name = "spiffe://example.org/ledger-api"
                    town = Town(one, two, client, FakeClient(name, key, one.clock.now))
                    await town.settle()
                    await test(town)

            asyncio.run(main())

        run.__doc__ = test.__doc__
        return run

    return wrap


def read_jti(token: str) -> str:
    return str(parse_token(token).claims["jti"])


@in_town(*ENGINES)
async def test_a_revoked_token_is_dead_on_every_server(town: Town) -> None:
    token, other = await town.fetch(), await town.fetch()
    made = await town.revoke(jti=read_jti(token))
    assert made.expires_at == town.one.clock.now() + TOKENS_OVER
    assert (await town.is_active(token), await town.is_active(other)) == (False, True)
    (event,) = await town.one.events("token.revoked")
    assert (event.subject, event.actor) == (read_jti(token), "uid:0")
    assert event.body["reason"] == "a test"
    with pytest.raises(Refused, match="revoked before"):
        await town.revoke(jti=read_jti(token))
    assert (await town.start_anew()).tokens.is_revoked(read_jti(token))


@in_town(*ENGINES)
async def test_all_tokens_of_an_identity_end_and_it_goes_on_with_new_ones(town: Town) -> None:
    token = await town.fetch(town.two)
    await town.revoke(identity="billing")
    assert not await town.is_active(token)
    with pytest.raises(Unavailable):
        await town.fetch(town.two)
    await town.wait(2)
    fresh = await town.fetch(town.two)
    assert (await town.is_active(token), await town.is_active(fresh)) == (False, True)
    (event,) = await town.one.events("token.revoked")
    assert event.subject == event.body["spiffe_id"] == BILLING
    await town.revoke(identity="billing")  # as often as one likes
    assert not await town.is_active(fresh)
    anew = (await town.start_anew()).tokens
    assert anew.list_issued_until() == town.two.parts.snapshot.tokens.list_issued_until()


@in_town()
async def test_a_server_that_learns_late_gives_nothing_out_that_lives(town: Town) -> None:
    """Until it knows, it may take a token that ended for a good one and exchange it."""
    await town.one.call("token.revoke", RevokeTokens(identity="billing", reason="x"), ADMIN)
    town.one.clock.advance(timedelta(seconds=0.9))
    late = await town.fetch(town.two)
    await town.settle()
    assert not await town.is_active(late)


@in_town(*ENGINES)
async def test_a_client_gives_up_its_own_token_and_no_other(town: Town) -> None:
    token, other = await town.fetch(), await town.fetch()
    await surrender(town.one, town.client, token, token_type_hint="refresh_token")
    await town.settle()
    assert (await town.is_active(token), await town.is_active(other)) == (False, True)
    (event,) = await town.one.events("token.revoked")
    assert (event.actor, event.subject) == (BILLING, BILLING)
    assert (event.body["jti"], event.body["reason"]) == (read_jti(token), "surrendered")
    await surrender(town.one, town.client, token)  # again: that is no error, and nothing new
    await surrender(town.two, town.server, other)  # somebody else's
    await surrender(town.one, town.client, "unknown")
    await town.settle()
    assert len(await town.one.events("token.revoked")) == 1
    assert await town.is_active(other)
    (foreign,) = [e for e in await town.one.events("token.rejected") if "surrender" in str(e)]
    assert (foreign.actor, foreign.body["jti"]) == (town.server.spiffe_id, read_jti(other))
    await town.wait(300)
    await surrender(town.one, town.client, other)  # expired by now
    assert len(await town.one.events("token.revoked")) == 1


@in_town()
async def test_who_gives_up_a_token_must_prove_who_it_is_once_each(town: Town) -> None:
    token = await town.fetch()
    forger = FakeClient(BILLING, make_private_key(9), town.one.clock.now)
    with pytest.raises(TrothError) as caught:
        await surrender(town.one, forger, token)
    assert name_error(caught.value) == "invalid_client"
    assertion = town.client.assert_identity()
    await surrender(town.one, town.client, "unknown", client_assertion=assertion)
    with pytest.raises(TrothError, match="used before"):
        await surrender(town.one, town.client, token, client_assertion=assertion)
    await town.settle()
    assert await town.is_active(token)


@in_town()
async def test_what_is_another_kind_of_token_is_not_revoked_here(town: Town) -> None:
    request = show_token(town.client, town.client.assert_identity())
    with pytest.raises(TrothError) as caught:
        await town.one.call("token.surrender", request, ANONYMOUS)
    assert name_error(caught.value) == "unsupported_token_type"


@in_town()
async def test_a_client_can_not_fill_every_servers_memory(town: Town) -> None:
    tokens = [await town.fetch() for _ in range(202)]
    for token in tokens[:200]:
        await town.one.call("token.surrender", show_token(town.client, token), ANONYMOUS)
    with pytest.raises(Limited):
        await surrender(town.one, town.client, tokens[200])
    await town.wait(1)
    await surrender(town.one, town.client, tokens[201])


@in_town()
async def test_only_who_operates_revokes_what_others_hold(town: Town) -> None:
    for role in ("auditor", "node", "workload", "device"):
        caller = Caller("spiffe://example.org/x", frozenset({role}), source="test")
        with pytest.raises(Denied):
            await town.one.call(
                "token.revoke", RevokeTokens(identity="billing", reason="x"), caller
            )
    named = {"identity": "billing", "jti": "tok_00", "instance": "ins_00"}
    pairs = [{k: v for k, v in named.items() if k != left_out} for left_out in named]
    for fields in ({}, named, *pairs):
        with pytest.raises(Invalid, match="Name either"):
            await town.one.call("token.revoke", RevokeTokens(reason="x", **fields), ADMIN)
    operator = Caller("uid:7", frozenset({"operator"}), source="test")
    await town.one.call("token.revoke", RevokeTokens(identity="billing", reason="x"), operator)


@in_town(*ENGINES)
async def test_a_release_brings_no_token_back_not_even_after_a_restart(town: Town) -> None:
    token = await town.fetch()
    await town.move("quarantine")
    await town.wait(3)
    await town.move("release")
    assert not await town.is_active(token)
    issued_at = parse_token(token).claims["iat"]
    anew = await town.start_anew()
    assert anew.find_cut_off(BILLING) is None
    assert anew.tokens.find_ended([BILLING], issued_at) == BILLING
    await town.wait(1)
    assert await town.is_active(await town.fetch(town.two))


@in_town(*ENGINES)
async def test_a_server_that_starts_after_a_name_was_given_again_knows_the_old_end(
    town: Town,
) -> None:
    token = await town.fetch()
    issued_at = parse_token(token).claims["iat"]
    await town.move("retire")
    await town.wait(2)
    await apply(town.one, render_identity("billing", make_private_key(46), roles=["clerk"]))
    await town.settle()
    anew = await town.start_anew()
    for snapshot in (anew, town.one.parts.snapshot, town.two.parts.snapshot):
        assert snapshot.find_cut_off(BILLING) is None
        assert snapshot.tokens.find_ended([BILLING], issued_at) == BILLING
        assert snapshot.tokens.find_ended([BILLING], issued_at + 2) is None


@in_town()
async def test_who_follows_revocations_refuses_the_same_tokens(town: Town) -> None:
    """From the complete value, from changes, and from what was missed meanwhile."""
    known = Revocations(town.one.clock)

    async def follow(last: Any = None) -> Any:
        body = FollowRevocations()
        if last is not None:
            body = FollowRevocations(after=last.epoch, mark=last.mark)
        values = town.two.dispatcher.open("revocation.follow", WORKLOAD, RequestId("r"), body)
        return aclosing(values)

    def objects(token: str) -> list[str]:
        parsed = parse_token(token)
        claims, kid = parsed.claims, parsed.header["kid"]
        return known.find_token_objections(claims["jti"], [claims["sub"]], claims["iat"], kid)

    def take(value: Any) -> Any:
        known.take(value, town.one.clock.monotonic())
        return value

    first, second, third = [await town.fetch() for _ in range(3)]
    assert objects(first) == ["Nothing was heard from a troth server yet, so nobody is accepted."]
    await town.revoke(jti=read_jti(first))
    async with await follow() as values:
        last = take(await anext(values))
        assert (objects(first), objects(second)) == (["The token was revoked."], [])
        await town.revoke(jti=read_jti(second))
        last = take(await anext(values))
        assert (objects(second), objects(third)) == (["The token was revoked."], [])
        await town.move("quarantine")
        last = take(await anext(values))
        assert objects(third) == [f"{BILLING} is quarantined."]
    await town.wait(1)
    await town.move("release")
    await town.wait(1)
    fresh = await town.fetch()
    await add_client(town.one, purpose="Something new")  # a change after it, of no consequence
    await town.settle()
    async with await follow(last) as values:
        missed = take(await anext(values))
        assert (missed.restored, list(missed.issued_until)) == ([BILLING], [BILLING])
    assert (len(objects(third)), objects(fresh)) == (1, [])
    known.forget_place()
    async with await follow() as values:
        take(await anext(values))
    assert (len(objects(third)), objects(fresh)) == (1, [])
    town.one.clock.advance(LEASE + SECOND)
    assert "longer than the lease" in objects(fresh)[0]


class Model:
    """What should be true, as simply as it can be said."""

    def __init__(self) -> None:
        self.tokens: dict[str, Any] = {}
        self.revoked: set[str] = set()
        self.state = State.ACTIVE
        self.ended = NOW - timedelta(days=10_000)

    def is_active(self, token: str, now: Any) -> bool:
        issued = self.tokens[token]
        alive = now < issued.replace(microsecond=0) + timedelta(minutes=5)
        after = issued.timestamp() // 1 > self.ended.timestamp() // 1
        return token not in self.revoked and alive and after and self.state is State.ACTIVE


MOVES = {
    "quarantine": (State.ACTIVE, State.QUARANTINED),
    "release": (State.QUARANTINED, State.ACTIVE),
    "suspend": (State.ACTIVE, State.SUSPENDED),
    "resume": (State.SUSPENDED, State.ACTIVE),
}


async def step(town: Town, model: Model, choice: random.Random) -> None:
    clock = town.one.clock
    verb = choice.choice([*MOVES, "fetch", "fetch", "fetch", "revoke", "surrender", "end", "wait"])
    if verb in MOVES:
        source, target = MOVES[verb]
        if model.state is source:
            await town.move(verb)
            model.state = target
            if target is State.ACTIVE:
                model.ended = max(model.ended, clock.now())
    elif verb == "fetch":
        try:
            token = await town.fetch(choice.choice([town.one, town.two]))
        except TrothError:
            just_ended = clock.now().timestamp() // 1 <= model.ended.timestamp() // 1
            assert model.state is not State.ACTIVE or just_ended
        else:
            model.tokens[token] = clock.now()
    elif verb == "wait":
        await town.wait(choice.choice([0.3, 0.7, 1, 5, 150]))
    elif verb == "end":
        await town.revoke(identity="billing")
        model.ended = max(model.ended, clock.now() + SECOND)
    elif model.tokens:
        token = choice.choice(list(model.tokens))
        if verb == "surrender" and model.state is State.ACTIVE:
            await surrender(choice.choice([town.one, town.two]), town.client, token)
            model.revoked.add(token)
        elif verb == "revoke" and token not in model.revoked:
            await town.revoke(jti=read_jti(token))
            model.revoked.add(token)
    await town.settle()


@pytest.mark.parametrize("seed", range(6))
def test_a_token_is_active_exactly_while_nothing_ended_it(seed: int, tmp_path: Path) -> None:
    """Issued, not revoked, not expired, whoever it is for active since before it was issued."""

    @in_town()
    async def live(town: Town) -> None:
        choice, model = random.Random(seed), Model()
        for _ in range(60):
            await step(town, model, choice)
            for token in choice.sample(list(model.tokens), min(3, len(model.tokens))):
                wanted = model.is_active(token, town.one.clock.now())
                assert await town.is_active(token) == wanted, (seed, token)
        anew = (await town.start_anew()).tokens
        now = town.one.clock.now().timestamp()
        ended = {n: s for n, s in anew.list_issued_until().items() if s > now - 3600}
        assert town.two.parts.snapshot.tokens.list_issued_until() == ended
        for token in model.tokens:
            if model.tokens[token].timestamp() > now - 300:
                assert anew.is_revoked(read_jti(token)) >= (token in model.revoked)

    live(tmp_path, "sqlite")


@pytest.fixture(params=ENGINES)
def store(request, tmp_path):
    store = open_store(make_url(request.param, tmp_path), clock=VirtualClock(NOW))
    yield store
    store.close()


def test_the_store_keeps_what_ended_until_it_would_be_over(store):
    api, web = "spiffe://example.org/api", "ins_00ff"
    assert transact(store, lambda tx: tx.token_revocations.add("tok_1", NOW + SECOND))
    assert not transact(store, lambda tx: tx.token_revocations.add("tok_1", NOW + 9 * SECOND))
    transact(store, lambda tx: tx.token_revocations.end_issued(api, NOW))
    transact(store, lambda tx: tx.token_revocations.end_issued(api, NOW + 2 * SECOND))
    transact(store, lambda tx: tx.token_revocations.end_issued(api, NOW + SECOND))
    transact(store, lambda tx: tx.token_revocations.end_issued(web, NOW - TOKENS_OVER))
    assert read(store, lambda tx: tx.token_revocations.list_tokens(NOW)) == [
        ("tok_1", NOW + SECOND)
    ]
    assert read(store, lambda tx: tx.token_revocations.list_issued_until(NOW)) == [
        (api, NOW + 2 * SECOND)
    ]
    assert transact(store, lambda tx: tx.token_revocations.purge(NOW, 10)) == 1
    later = NOW + SECOND
    assert transact(store, lambda tx: tx.token_revocations.purge(later, 10)) == 1
    assert read(store, lambda tx: tx.token_revocations.list_tokens(NOW)) == []
    assert transact(store, lambda tx: tx.token_revocations.purge(NOW + 2 * TOKENS_OVER, 1)) == 1
    assert read(store, lambda tx: tx.token_revocations.list_issued_until(NOW)) == []


def test_the_store_tells_who_retired_of_late_and_whose_name_lives_again(store):
    def fill(tx):
        tx.identities.add(make_named("old", state=State.RETIRED, updated_at=NOW - 2 * SECOND))
        tx.identities.add(make_named("gone", state=State.RETIRED, updated_at=NOW))
        twice = make_named("twice", id="idn_t1", state=State.RETIRED, updated_at=NOW)
        tx.identities.add(twice)
        later = replace(twice, id=IdentityId("idn_t2"), updated_at=NOW + SECOND)
        tx.identities.add(later)
        tx.identities.add(replace(twice, id=IdentityId("idn_t3"), state=State.ACTIVE))

    transact(store, fill)
    found = read(store, lambda tx: tx.identities.list_retired_since(NOW - SECOND))
    assert sorted((str(name), at, held) for name, at, held in found) == [
        ("spiffe://example.org/gone", NOW, False),
        ("spiffe://example.org/twice", NOW + SECOND, True),
    ]


def test_names_at_a_spiffe_id_are_those_of_the_living_and_the_retired(store):
    at = make_named("now").spiffe_id

    def fill(tx):
        tx.identities.add(make_named("now"))
        for number in range(6):
            gone = make_named(
                f"was-{number // 2}", id=f"idn_r{number}", state=State.RETIRED, spiffe_id=at
            )
            tx.identities.add(gone)
        tx.identities.add(make_named("other"))

    transact(store, fill)
    names = ["now", "was-0", "was-1", "was-2"]
    assert read(store, lambda tx: tx.identities.list_names_at(at, 9)) == names
    assert len(read(store, lambda tx: tx.identities.list_names_at(at, 2))) == 3
