"""Bad tokens at each place that takes them: the standard's answer, a sentence, a journal entry."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.clients import LEDGER, ORIGIN, FakeClient, apply, render_identity, show_token
from tests.fakes.delegation import RESOURCES, ROLES, Company, found_company
from tests.fakes.forgers import FAULTS, KEY_IN_HEADER, WITHOUT_EXP, Original, take_apart
from tests.fakes.house import FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from tests.unit.operations.test_dpop import KEY as PROOF_KEY
from tests.unit.operations.test_dpop import URL, learn_nonce, prove
from tests.unit.operations.test_svid_clients import ask_with, fetch_jwt
from tests.unit.operations.test_token_exchange import find
from troth.core.errors import TrothError
from troth.issuance.authorities import TOKEN_ALGORITHMS, Use
from troth.operations.call import ANONYMOUS
from troth.operations.exchange import ACCESS_TOKEN
from troth.operations.feed import read_seed
from troth.wire.api.authorities import ForceAuthority, MoveAuthority, PrepareAuthority
from troth.wire.oauth.errors import name_error
from troth.wire.oauth.form import Form
from troth.wire.oauth.introspection import INACTIVE
from troth.wire.oauth.metadata import JWT_BEARER, TOKEN_EXCHANGE
from troth.wire.oauth.request import OAuthRequest


@dataclass
class World:
    """A company whose tokens are forged."""

    house: FakeHouse
    company: Company
    count: int = 0

    async def call(self, name: str, request: OAuthRequest) -> Any:
        """What comes of a request: the answer, or the standard's code. Each is from elsewhere, so
        that no brake keeps one from the journal."""
        self.count += 1
        self.house.clock.advance(timedelta(seconds=3))
        self.house.parts.snapshot.hear()
        caller = replace(ANONYMOUS, source=f"192.0.2.{self.count}")
        try:
            return await self.house.call(name, request, caller)
        except TrothError as error:
            return check_sentence(error)

    async def fetch(self, who: str) -> Original:
        """A fresh access token, and the key of the server that signed it."""
        text = (await self.company.request(who)).access_token
        (authority,) = await self.house.parts.store.read(lambda tx: tx.authorities.list(Use.TOKEN))
        key: Any = self.house.keystore._find(authority.key_ref)
        return take_apart(text, key)

    def assert_identity(self, who: str) -> Original:
        client = self.company.clients[who]
        return take_apart(client.assert_identity(), client.key)


def check_sentence(error: TrothError) -> str:
    """The standard's code of a refusal that says in a sentence what is wrong."""
    assert error.detail.endswith("."), error.detail
    return name_error(error)


Place = Callable[[World], Awaitable[tuple[Original, Callable[[str], Awaitable[Any]]]]]


async def at_token_endpoint(world: World) -> Any:
    client = world.company.clients["billing"]

    def send(text: str) -> Any:
        return world.call("token.request", client.ask(text))

    return world.assert_identity("billing"), send


async def at_jwt_bearer(world: World) -> Any:
    def send(text: str) -> Any:
        fields = {"grant_type": (JWT_BEARER,), "resource": (LEDGER,), "assertion": (text,)}
        return world.call("token.request", OAuthRequest(Form(fields)))

    return world.assert_identity("billing"), send


async def at_introspection(world: World) -> Any:
    server = world.company.clients["ledger-api"]

    def send(text: str) -> Any:
        return world.call("token.introspect", show_token(server, text))

    return await world.fetch("billing"), send


async def at_revocation(world: World) -> Any:
    client = world.company.clients["billing"]

    def send(text: str) -> Any:
        return world.call("token.surrender", show_token(client, text))

    return await world.fetch("billing"), send


def ask_exchange(client: FakeClient, text: str, **fields: str) -> OAuthRequest:
    wanted: dict[str, Any] = {"grant_type": TOKEN_EXCHANGE, "resource": None, **fields}
    return client.ask(**{"subject_token": text, "subject_token_type": ACCESS_TOKEN, **wanted})


async def at_exchange_subject(world: World) -> Any:
    client = world.company.clients["ledger-api"]

    def send(text: str) -> Any:
        return world.call("token.exchange", ask_exchange(client, text))

    return await world.fetch("billing"), send


async def at_exchange_actor(world: World) -> Any:
    client = world.company.clients["ledger-api"]
    good = (await world.fetch("billing")).sign()

    def send(text: str) -> Any:
        actor = {"actor_token": text, "actor_token_type": ACCESS_TOKEN}
        return world.call("token.exchange", ask_exchange(client, good, **actor))

    text = (await world.company.request("ledger-api", scope="read")).access_token
    return take_apart(text, (await world.fetch("billing")).key), send


async def at_dpop(world: World) -> Any:
    client = world.company.clients["billing"]
    nonce = await learn_nonce(world.house, client)

    def send(text: str) -> Any:
        return world.call("token.request", replace(client.ask(), dpop=text, url=URL))

    text = prove(world.house.clock.now(), nonce=nonce)
    return take_apart(text, PROOF_KEY), send


PLACES: dict[str, tuple[Place, Any, str]] = {
    "token endpoint": (at_token_endpoint, "invalid_client", "token.refused"),
    "JWT bearer": (at_jwt_bearer, "invalid_grant", "token.refused"),
    "introspection": (at_introspection, INACTIVE, "token.rejected"),
    "revocation": (at_revocation, None, "token.rejected"),
    "subject_token": (at_exchange_subject, "invalid_request", "token.refused"),
    "actor_token": (at_exchange_actor, "invalid_request", "token.refused"),
    "DPoP": (at_dpop, "invalid_dpop_proof", "token.refused"),
}
"""How a bad token is shown, what is answered, and the entry in the journal."""


def in_world(test: Callable[[World], Awaitable[None]], folder: Any) -> None:
    async def run(house: FakeHouse) -> None:
        await test(World(house, await found_company(house)))

    in_house(run)(folder)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_forged_gets_the_standard_s_answer_and_an_entry(place: str, tmp_path: Any) -> None:
    """Whatever is wrong with it; and after all of that a good one is still taken."""
    prepare, expected, entry = PLACES[place]
    left_out = (*WITHOUT_EXP, *KEY_IN_HEADER) if place == "DPoP" else ()

    async def run(world: World) -> None:
        for fault, forge in FAULTS.items():
            if fault in left_out:
                continue
            original, send = await prepare(world)
            before = len(await world.house.events(entry))
            answer = await send(forge(original))
            if answer == "unsupported_token_type":  # it says itself that it is no access token
                assert (place, fault) == ("revocation", "another typ")
                assert await world.house.events("token.refused")
                continue
            assert answer == expected, fault
            told = (await world.house.events(entry))[before:]
            assert len(told) == 1, fault
            assert told[0].body["reason"], fault
            assert told[0].body["source"] == f"192.0.2.{world.count}"
        original, send = await prepare(world)
        good = await send(original.sign())
        assert good is None if place == "revocation" else good not in (expected, None)
        assert not [one for one in world.house.meter.seen if one[1] == "internal"]

    in_world(run, tmp_path)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("claim", ["aud", "act", "x"])
def test_very_many_of_anything_take_no_time_to_speak_of(
    place: str, claim: str, tmp_path: Any
) -> None:
    """As many as a token may have: none of the audiences is looked at more than once."""
    prepare, expected, _ = PLACES[place]
    many: dict[str, Any] = {
        "aud": [f"{n:x}" for n in range(1_700)],
        "act": "x" * 11_000,
        "x": list(range(2_000)),
    }

    async def run(world: World) -> None:
        original, send = await prepare(world)
        value = many[claim]
        text = original.sign(None, **{claim: value})
        gc.disable()  # it would walk over all that other tests have left: half a second
        try:
            started = time.process_time()
            answer = await send(text)
            assert time.process_time() - started < 0.5
        finally:
            gc.enable()
        if claim == "aud" and place != "DPoP":
            assert answer == expected or place == "revocation"

    in_world(run, tmp_path)


# Clocks

SKEWS: list[tuple[str, str, int, bool]] = [
    *(
        (place, claim, offset, good)
        for place in ("token endpoint", "JWT bearer")
        for claim, offset, good in (
            ("exp", -29, True),
            ("exp", -31, False),
            ("nbf", 29, True),
            ("nbf", 31, False),
            ("iat", 29, True),
            ("iat", 31, False),
        )
    ),
    *(
        (place, claim, offset, good)
        for place in ("introspection", "subject_token", "actor_token")
        for claim, offset, good in (
            # Our own tokens: we know our own clock, and that of another server beside us less.
            ("exp", 1, True),
            ("exp", 0, False),
            ("iat", 29, True),
            ("iat", 31, False),
        )
    ),
    ("DPoP", "iat", 29, True),
    ("DPoP", "iat", 31, False),
    ("DPoP", "iat", -299, True),
    ("DPoP", "iat", -301, False),
]


@pytest.mark.parametrize(("place", "claim", "offset", "good"), SKEWS)
def test_clocks_may_differ_by_thirty_seconds(
    place: str, claim: str, offset: int, good: bool, tmp_path: Any
) -> None:
    prepare, expected, _ = PLACES[place]

    async def run(world: World) -> None:
        original, send = await prepare(world)
        # `call` advances the clock by three seconds.
        moment = int(world.house.clock.now().timestamp()) + 3 + offset
        assert (await send(original.sign(None, **{claim: moment})) != expected) == good

    in_world(run, tmp_path)


# Proofs of possession


@pytest.mark.parametrize(
    "claims",
    [
        {"htm": "GET"},
        {"htu": "https://other.example.org/oauth/token"},
        {"htu": f"{ORIGIN}/oauth/introspect"},
        {"htu": "https://localhost:8444/oauth/token"},
    ],
)
def test_a_proof_for_another_request_is_refused(claims: dict[str, str], tmp_path: Any) -> None:
    async def run(world: World) -> None:
        original, send = await at_dpop(world)
        assert await send(original.sign(None, **claims)) == "invalid_dpop_proof"
        told = (await world.house.events("token.refused"))[-1]
        assert told.body["error"] == "invalid_dpop_proof"

    in_world(run, tmp_path)


def test_a_proof_for_somebody_else_is_none_under_a_borrowed_name(tmp_path: Any) -> None:
    """Who was shown a proof for their own URL can send it here with their own Host."""

    async def run(world: World) -> None:
        client = world.company.clients["billing"]
        nonce = await learn_nonce(world.house, client)
        for url in ("https://thief.example/oauth/token", "https:///oauth/token", "https://[/"):
            proof = prove(world.house.clock.now(), nonce=nonce, htu=url)
            request = replace(client.ask(), dpop=proof, url=url)
            assert await world.call("token.request", request) == "invalid_dpop_proof"
        mutual = "https://localhost:8444/oauth/token"
        proof = prove(world.house.clock.now(), nonce=nonce, htu=mutual)
        request = replace(client.ask(), dpop=proof, url=mutual)
        assert (await world.call("token.request", request)).token_type == "DPoP"

    in_world(run, tmp_path)


# Keys that nobody trusts any more


@pytest.mark.parametrize("use", TOKEN_ALGORITHMS)
def test_a_token_of_a_tainted_key_counts_nowhere(use: Use, tmp_path: Any) -> None:
    """And whoever follows revocations learns of it, also from a server that starts afterwards."""

    async def run(world: World) -> None:
        house = world.house
        ledger = {**RESOURCES[0]["spec"], "token": {"algorithm": TOKEN_ALGORITHMS[use]}}
        await apply(house, {**RESOURCES[0], "spec": ledger}, *ROLES)
        await house.prepare()
        await house.settle()
        token = (await world.company.request("billing")).access_token
        made = await house.call("authority.prepare", PrepareAuthority(use=use.value, reason="test"))
        found = await house.parts.store.read(lambda tx: tx.authorities.list(use))
        old = next(one for one in found if one.id != made.id)
        force = ForceAuthority(id=made.id, reason="test", force=True)
        await house.call("authority.activate", force)
        await house.settle()
        server = world.company.clients["ledger-api"]
        answer = await world.call("token.introspect", show_token(server, token))
        assert answer.active
        await house.call("authority.taint", MoveAuthority(id=old.id, reason="copied"))
        await house.settle()
        answer = await world.call("token.introspect", show_token(server, token))
        assert answer == INACTIVE
        assert await world.call("token.exchange", ask_exchange(server, token)) == "invalid_request"
        kid = str(take_apart(token, PROOF_KEY).header["kid"])
        assert kid in house.parts.snapshot.list_refused().distrusted
        assert kid in (await read_seed(house.parts.store, house.clock.now())).distrusted

    in_world(run, tmp_path)


def test_a_jwt_svid_of_a_tainted_key_is_no_proof(tmp_path: Any) -> None:
    """Somebody else may hold that key, and could be any client."""

    async def run(world: World) -> None:
        house = world.house
        node, identity = await house.join(), await find(house, "billing")
        await house.settle()
        svid = await fetch_jwt(house, node, identity)
        assert (await world.call("token.request", ask_with(svid))).access_token
        (old,) = await house.parts.store.read(lambda tx: tx.authorities.list(Use.JWT))
        made = await house.call("authority.prepare", PrepareAuthority(use="jwt-svid", reason="t"))
        force = ForceAuthority(id=made.id, reason="test", force=True)
        await house.call("authority.activate", force)
        await house.settle()
        assert (await world.call("token.request", ask_with(svid))).access_token
        await house.call("authority.taint", MoveAuthority(id=old.id, reason="copied"))
        await house.settle()
        assert await world.call("token.request", ask_with(svid)) == "invalid_client"
        assert (await house.events("token.refused"))[-1].body["reason"]

    in_world(run, tmp_path)


def test_a_signed_assertion_of_another_type_is_none(tmp_path: Any) -> None:
    """An access token or a proof that the client's own key signed isn't meant as one."""

    async def run(world: World) -> None:
        for typ, good in (
            ("JWT", True),
            ("client-authentication+jwt", True),
            ("application/JWT", True),
            ("at+jwt", False),
            ("dpop+jwt", False),
        ):
            original, send = await at_token_endpoint(world)
            answer = await send(original.sign({"typ": typ}))
            assert (answer != "invalid_client") == good, typ

    in_world(run, tmp_path)


def test_a_key_in_the_header_is_looked_at_by_nobody(tmp_path: Any) -> None:
    """An assertion is verified with the registered key, whatever else it brings."""

    async def run(world: World) -> None:
        key = make_private_key(12)
        await apply(world.house, render_identity("newcomer", key))
        for place in ("token endpoint", "JWT bearer"):
            prepare, expected, _ = PLACES[place]
            original, send = await prepare(world)
            assert await send(FAULTS["another key in the header"](original)) == expected

    in_world(run, tmp_path)
