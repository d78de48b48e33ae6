"""Random exchanges in a whole server: what the tokens say, seen as a resource sees them."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

import pytest

from tests.fakes.clients import LEDGER
from tests.fakes.delegation import ARCHIVE, PEOPLE, VAULT, Company, found_company
from tests.fakes.house import FakeHouse, in_house
from tests.unit.operations.test_token_request import validate
from troth.core.errors import TrothError
from troth.issuance.accesstoken import list_actors
from troth.operations.declaration import read_bundle
from troth.policy.delegation import MAX_ACTORS
from troth.wire.oauth.errors import name_error

PLACES = (LEDGER, ARCHIVE, VAULT)
STEPS = 40
EXPECTED = {"invalid_request", "invalid_target", "invalid_scope"}


def check(
    claims: dict[str, Any], old: dict[str, Any], permitted: dict[str, frozenset[str]]
) -> None:
    actors, scopes = list_actors(claims), set(claims["scope"].split())
    assert claims["sub"] == old["sub"]
    assert claims["exp"] <= old["exp"]
    assert scopes <= permitted[claims["sub"].rpartition("/")[2]]
    assert scopes <= permitted[claims["client_id"].rpartition("/")[2]]
    if claims["aud"] == old["aud"]:
        assert scopes <= set(old["scope"].split())
    assert len(actors) <= MAX_ACTORS
    assert len({claims["sub"], *actors}) == 1 + len(actors)
    assert actors in (list_actors(old), (claims["client_id"], *list_actors(old)))
    assert actors or claims["client_id"] == claims["sub"]
    assert claims["aud"] not in claims.get("troth_passed", [])


async def walk(company: Company, random: Random) -> int:
    """Exchange at random for a while; how often that went well."""
    house = company.house
    bundle = await read_bundle(house.parts.store, house.parts.snapshot)
    permitted = {
        place: {
            name: bundle.find_actions(tuple(spec["roles"]), bundle.by_identifier[place])
            for name, spec in PEOPLE.items()
        }
        for place in PLACES
    }
    held = []
    for name in ("billing", "shipping", "ledger-api"):
        text = (await company.request(name, resource=LEDGER)).access_token
        held.append((text, await validate(house, text, LEDGER)))
    given, refused = 0, set[str]()
    for _ in range(STEPS):
        text, old = random.choice(held[-6:] if random.random() < 0.6 else held)
        place, who = random.choice((None, *PLACES)), random.choice(list(PEOPLE))
        scope = random.choice((None, None, "read fetch open", "write purge", "close"))
        house.clock.advance(timedelta(seconds=random.choice((0, 2))))
        house.parts.snapshot.hear()
        try:
            answer = await company.exchange(who, text, resource=place, scope=scope)
        except TrothError as error:
            refused.add(name_error(error))
            continue
        claims = await validate(house, answer.access_token, place or old["aud"])
        check(claims, old, permitted[claims["aud"]])
        held.append((answer.access_token, claims))
        given += 1
    assert refused <= EXPECTED
    return given


@pytest.mark.parametrize("seed", range(4))
def test_random_exchanges_only_narrow(seed: int, tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        company = await found_company(house)
        assert await walk(company, Random(seed))
        told = await house.events("token.exchanged")
        assert all(event.body["from_jti"] for event in told)

    in_house(run)(tmp_path)
