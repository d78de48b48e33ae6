"""Which running copy a client is, and what becomes of the tokens that a copy's tokens came to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.clients import LEDGER, ORIGIN, introspect
from tests.fakes.copies import Copy, start_copy
from tests.fakes.delegation import ARCHIVE, VAULT, Company, found_company
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.transactions import begin, found_transactions, replace_token
from tests.unit.operations.test_introspection import forge, reasons
from tests.unit.operations.test_token_exchange import refuse
from troth.core.errors import TrothError, Unavailable
from troth.core.jose.jws import parse_token
from troth.issuance.authorities import Use
from troth.issuance.instance import INSTANCE, INSTANCES
from troth.operations import client as module
from troth.operations.exchange import JWT
from troth.wire.api.identities import MoveInstance
from troth.wire.api.tokens import RevokeTokens
from troth.wire.oauth.errors import name_error


async def lock(house: FakeHouse, copy: Copy) -> None:
    await house.call("instance.lock", MoveInstance(id=copy.id, reason="odd"), ADMIN)
    await house.settle()


async def wait(house: FakeHouse, seconds: float) -> None:
    house.clock.advance(timedelta(seconds=seconds))
    await house.settle()


def list_copies(token: str) -> Any:
    return parse_token(token).claims.get(INSTANCES)


async def start(house: FakeHouse, *names: str) -> tuple[Company, list[Copy]]:
    """The company, and running copies of these identities, on one node."""
    company, node = await found_company(house), await house.join()
    copies = [await start_copy(house, node, name, n) for n, name in enumerate(names, 1)]
    return company, copies


async def is_active(company: Company, who: str, token: str) -> bool:
    return bool((await introspect(company.house, company.clients[who], token))["active"])


# Which copy a client is


@in_house
async def test_a_jwt_svid_names_the_copy_it_was_issued_to(house: FakeHouse) -> None:
    _, (one, two) = await start(house, "billing", "billing")
    assert parse_token(one.svid).claims[INSTANCE] == one.id
    assert parse_token(two.svid).claims[INSTANCE] == two.id != one.id
    assert list_copies(await one.request()) == [one.id]


def find_authenticator(house: FakeHouse) -> Any:
    journaled: Any = house.dispatcher.operations["token.request"]
    return journaled.operation.authenticator


class CountingStore:
    """A store that counts what is read from it."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.reads = 0

    async def read(self, look: Any) -> Any:
        self.reads += 1
        return await self.store.read(look)


@in_house
async def test_a_certificate_s_copy_is_looked_for_once(house: FakeHouse) -> None:
    _, (one, two) = await start(house, "billing", "billing")
    authenticator = find_authenticator(house)
    await one.fetch_certificate()
    await two.fetch_certificate()
    assert list_copies(await one.request()) == [one.id]
    counting = authenticator._store = CountingStore(house.parts.store)
    for copy in (one, one, two, two, one):
        assert list_copies(await copy.request()) == [copy.id]
    assert counting.reads == 1


@in_house
async def test_the_memory_of_certificates_is_bounded(house: FakeHouse) -> None:
    _, (one, two) = await start(house, "billing", "billing")
    authenticator = find_authenticator(house)
    authenticator._instances.update({str(n): "" for n in range(module.SERIALS_KNOWN)})
    for copy in (one, two):
        await copy.fetch_certificate()
        assert list_copies(await copy.request()) == [copy.id]
    assert len(authenticator._instances) == module.SERIALS_KNOWN
    assert list(authenticator._instances.values())[-2:] == [one.id, two.id]


@in_house
async def test_a_client_with_a_key_of_its_own_is_no_copy(house: FakeHouse) -> None:
    company, _ = await start(house)
    mine = (await company.request("billing")).access_token
    acting = (await company.exchange("ledger-api", mine, resource=ARCHIVE)).access_token
    assert list_copies(mine) is list_copies(acting) is None
    for event in await house.events("token."):
        assert INSTANCES not in event.body


# A copy that is cut off


@in_house
async def test_a_locked_copy_can_t_go_on_with_the_jwt_svid_it_kept(house: FakeHouse) -> None:
    company, (bad, good) = await start(house, "billing", "billing")
    helper = company.clients["helper"]
    given = [await copy.fetch_svid(f"{ORIGIN}/exchange") for copy in (bad, good)]
    await lock(house, bad)
    with pytest.raises(TrothError, match="counts no more") as caught:
        await bad.request()
    assert name_error(caught.value) == "invalid_client"
    kind: dict[str, Any] = {"subject_token_type": JWT, "resource": LEDGER}
    assert "not live" in (await refuse(company, "helper", given[0], **kind)).detail
    with pytest.raises(TrothError, match="counts no more"):
        await bad.exchange(good.svid, **kind)
    answer = await company.exchange("helper", given[1], **kind)
    assert list_copies(answer.access_token) == [good.id]
    assert parse_token(answer.access_token).claims["act"] == {"sub": helper.spiffe_id}
    await wait(house, 2)
    await house.call("instance.unlock", MoveInstance(id=bad.id, reason="fine"), ADMIN)
    await house.settle()
    with pytest.raises(TrothError, match="counts no more"):
        await bad.request()
    assert await bad.fetch_svid()
    assert list_copies(await bad.request()) == [bad.id]


@in_house
async def test_a_locked_copy_s_certificate_is_no_proof(house: FakeHouse) -> None:
    company, (bad, good) = await start(house, "billing", "billing")
    for copy in (bad, good):
        await copy.fetch_certificate()
    token = await bad.request()
    assert await is_active(company, "ledger-api", token)
    await lock(house, bad)
    assert not await is_active(company, "ledger-api", token)
    assert f"All tokens of {bad.id} up to then were revoked." in await reasons(house)
    with pytest.raises(TrothError, match="revoked"):
        await bad.request()
    assert await is_active(company, "ledger-api", await good.request())


@in_house
async def test_a_copy_that_isn_t_locked_goes_on_with_its_certificate(house: FakeHouse) -> None:
    company, (one,) = await start(house, "billing")
    await one.fetch_certificate()
    await one.request()
    body = RevokeTokens(instance=one.id, reason="stolen")
    await house.call("token.revoke", body, ADMIN)
    await house.settle()
    with pytest.raises(Unavailable, match="ask again"):
        await one.request()
    await wait(house, 2)
    assert await is_active(company, "ledger-api", await one.request())


# Exchanges


@in_house
async def test_a_token_remembers_every_copy_that_it_came_through(house: FakeHouse) -> None:
    _, (billing, ledger, archive) = await start(house, "billing", "ledger-api", "archive-api")
    first = await billing.request(scope="read")
    second = await ledger.exchange(first, resource=ARCHIVE)
    third = await archive.exchange(second, resource=VAULT)
    assert list_copies(third) == [archive.id, ledger.id, billing.id]
    again = await archive.exchange(third, resource=VAULT)
    assert list_copies(again) == [archive.id, ledger.id, billing.id]  # each once
    (exchanged, *_) = await house.events("token.exchanged")
    assert exchanged.body[INSTANCES] == [ledger.id, billing.id]


@pytest.mark.parametrize("who", range(3))
def test_whichever_copy_is_locked_ends_the_token(who: int, tmp_path: Any) -> None:
    """Its siblings' tokens live, exchanged or not."""

    async def run(house: FakeHouse) -> None:
        names = ("billing", "ledger-api", "archive-api")
        company, copies = await start(house, *names, *names)
        chains = []
        for billing, ledger, archive in (copies[:3], copies[3:]):
            second = await ledger.exchange(await billing.request(scope="read"), resource=ARCHIVE)
            chains.append((second, await archive.exchange(second, resource=VAULT)))
        await lock(house, copies[who])
        (second, third), (alike, sibling) = chains
        assert not await is_active(company, "vault-api", third)
        assert await is_active(company, "vault-api", sibling)
        assert await is_active(company, "archive-api", alike)
        assert await is_active(company, "archive-api", second) == (who == 2)
        if who < 2:
            assert "not live" in (await refuse(company, "archive-api", second)).detail
        assert (await company.exchange("archive-api", alike, resource=VAULT)).access_token

    in_house(run)(tmp_path)


@in_house
async def test_nothing_is_issued_while_it_would_be_dead_at_once(house: FakeHouse) -> None:
    """Also for the copies that a token came through: one of them ended within this second."""
    _, (billing, ledger) = await start(house, "billing", "ledger-api")
    await ledger.fetch_certificate()
    await wait(house, 1)
    first = await billing.request(scope="read")
    await house.call("token.revoke", RevokeTokens(instance=ledger.id, reason="odd"), ADMIN)
    await house.settle()
    with pytest.raises(Unavailable):
        await ledger.exchange(first, resource=ARCHIVE)
    assert await billing.request()
    await wait(house, 2)
    assert await ledger.exchange(first, resource=ARCHIVE)


@in_house
async def test_a_token_of_ours_with_malformed_copies_counts_for_nobody(house: FakeHouse) -> None:
    company, (one,) = await start(house, "billing")
    token = await one.request()
    (authority,) = await house.parts.store.read(lambda tx: tx.authorities.list(Use.TOKEN))
    key = house.keystore._find(authority.key_ref)
    assert await is_active(company, "ledger-api", forge(token, key, {}))
    wrong = forge(token, key, {}, **{INSTANCES: one.id})
    assert not await is_active(company, "ledger-api", wrong)
    crowd = forge(token, key, {}, **{INSTANCES: [f"ins_{n}" for n in range(16)]})
    with pytest.raises(TrothError, match="running copies"):
        await one.exchange(crowd)


@in_house
async def test_a_lock_ends_the_transactions_that_a_copy_began(house: FakeHouse) -> None:
    company = await found_transactions(house)
    node = await house.join()
    bad, good = [await start_copy(house, node, "billing", n) for n in (1, 2)]
    begun = [
        (await begin(company, "ledger-api", await copy.request())).access_token
        for copy in (bad, good)
    ]
    assert [list_copies(one) for one in begun] == [[bad.id], [good.id]]
    await lock(house, bad)
    with pytest.raises(TrothError, match="not live"):
        await replace_token(company, "ledger-api", begun[0])
    again = (await replace_token(company, "ledger-api", begun[1])).access_token
    assert list_copies(again) == [good.id]
