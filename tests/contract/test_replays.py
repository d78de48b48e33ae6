"""What may be used once is used once, whichever server on one database it is shown to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.contract.test_token_revocation import make_second
from tests.fakes.clients import (
    LEDGER,
    FakeClient,
    add_client,
    apply,
    render_identity,
    show_token,
)
from tests.fakes.house import FakeHouse, open_house
from tests.fakes.issuer import make_private_key
from tests.unit.operations.test_dpop import URL, learn_nonce, prove
from troth.core.errors import TrothError
from troth.operations.call import ANONYMOUS
from troth.operations.feed import read_seed
from troth.store.engine import Store
from troth.wire.oauth.errors import name_error
from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import JWT_BEARER
from troth.wire.oauth.request import OAuthRequest


@dataclass
class Pair:
    """Two servers, each with a store of its own on one PostgreSQL database."""

    one: FakeHouse
    two: FakeHouse
    client: FakeClient
    server: FakeClient

    async def send(self, house: FakeHouse, request: OAuthRequest, name: str) -> str:
        """The standard's code, or ok."""
        try:
            await house.call(name, request, ANONYMOUS)
        except TrothError as error:
            return name_error(error) if "used before" in error.detail else error.detail
        return "ok"

    async def send_twice(self, request: OAuthRequest, name: str = "token.request") -> list[str]:
        """To one and then to the other."""
        return [await self.send(house, request, name) for house in (self.one, self.two)]

    async def send_at_once(self, request: OAuthRequest, name: str = "token.request") -> list[str]:
        """To both at the same time, three times each."""
        houses = [self.one, self.two] * 3
        return sorted(await asyncio.gather(*(self.send(house, request, name) for house in houses)))


def run_pair(
    test: Callable[[Pair], Any], url: str, open_node: Callable[..., Store], folder: Path
) -> None:
    async def main() -> None:
        async with open_house(folder, url=url) as one:
            store = open_node(one.clock)
            two = make_second(replace(one, parts=replace(one.parts, store=store)))
            client = await add_client(one)
            key = make_private_key(51)
            await apply(one, render_identity("ledger-api", key, roles=[]))
            two.parts.snapshot.load(await read_seed(store, one.clock.now()))
            server = FakeClient("spiffe://example.org/ledger-api", key, one.clock.now)
            await test(Pair(one, two, client, server))

    asyncio.run(main())


def ask_as_bearer(client: FakeClient) -> OAuthRequest:
    fields = {"grant_type": JWT_BEARER, "resource": LEDGER, "assertion": client.assert_identity()}
    return OAuthRequest(Form({name: (value,) for name, value in fields.items()}))


def test_an_assertion_is_taken_by_one_server(
    url: str, open_node: Callable[..., Store], tmp_path: Path
) -> None:
    async def run(pair: Pair) -> None:
        client = pair.client
        assert await pair.send_twice(client.ask()) == ["ok", "invalid_client"]
        assert await pair.send_twice(ask_as_bearer(client)) == ["ok", "invalid_grant"]
        shown = show_token(pair.server, "a.b.c")
        assert await pair.send_twice(shown, "token.introspect") == ["ok", "invalid_client"]
        given_up = show_token(client, "a.b.c")
        assert await pair.send_twice(given_up, "token.surrender") == ["ok", "invalid_client"]

    run_pair(run, url, open_node, tmp_path)


def test_of_two_servers_at_once_one_takes_it(
    url: str, open_node: Callable[..., Store], tmp_path: Path
) -> None:
    async def run(pair: Pair) -> None:
        refused = ["invalid_client"] * 5
        assert await pair.send_at_once(pair.client.ask()) == [*refused, "ok"]
        assert (await pair.send_at_once(ask_as_bearer(pair.client))).count("ok") == 1
        shown = show_token(pair.server, "a.b.c")
        assert await pair.send_at_once(shown, "token.introspect") == [*refused, "ok"]

    run_pair(run, url, open_node, tmp_path)


def test_a_proof_of_possession_is_taken_by_one_server(
    url: str, open_node: Callable[..., Store], tmp_path: Path
) -> None:
    async def run(pair: Pair) -> None:
        nonce = await learn_nonce(pair.one, pair.client)
        proof = prove(pair.one.clock.now(), nonce=nonce)
        codes = []
        for house in (pair.one, pair.two):
            request = replace(pair.client.ask(), dpop=proof, url=URL)
            codes.append(await pair.send(house, request, "token.request"))
        assert codes == ["ok", "invalid_dpop_proof"]

    run_pair(run, url, open_node, tmp_path)
