"""JWT-SVIDs in batches: each wish has its own outcome, and nothing leaves without a record."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.house import FakeHouse, call_of, in_house
from troth.core.errors import Unavailable
from troth.core.jose.jws import parse_token
from troth.store.records import IssuanceState
from troth.wire.api.certificates import InstanceClaim
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.jwt_svids import IssueJwtSvids, JwtSvidRequest


def wish(identity_id: str, *audiences: str, number: int = 1, uid: int = 1001) -> JwtSvidRequest:
    claim = InstanceClaim(key=f"{number:032x}", pid=number, selectors=[f"unix:uid:{uid}"])
    return JwtSvidRequest(identity_id=identity_id, instance=claim, audiences=list(audiences))


async def ask(house: FakeHouse, node: Any, *wishes: JwtSvidRequest) -> list[Any]:
    await house.settle()
    answer = await house.call("jwtsvid.issue", IssueJwtSvids(requests=list(wishes)), node)
    return list(answer.results)


@in_house
async def test_each_wish_of_a_batch_has_its_own_outcome_and_events(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    other = await house.register("orders")
    good, unknown, attested, audience, second = await ask(
        house,
        node,
        wish(identity.id, "db"),
        wish("idn_none", "db"),
        wish(identity.id, "db", uid=7),
        wish(identity.id, "x" * 3000),
        wish(other.id, "mail", "db", number=2),
    )
    codes = [answer.error.code for answer in (unknown, attested, audience)]
    assert codes == ["permission_denied", "permission_denied", "invalid_request"]
    assert not any(answer.token for answer in (unknown, attested, audience))
    claims = [dict(parse_token(answer.token).claims) for answer in (good, second)]
    assert [c["sub"] for c in claims] == [good.spiffe_id, second.spiffe_id]
    assert [c["aud"] for c in claims] == [["db"], ["mail", "db"]]
    intended, *events = await house.events("jwtsvid.")
    assert (intended.type, intended.subject) == ("jwtsvid.intended", node.principal)
    assert [(e.type, e.subject, e.body["jti"]) for e in events] == [
        ("jwtsvid.issued", c["sub"], c["jti"]) for c in claims
    ]
    assert intended.body["tokens"] == {e.body["jti"]: e.body["sha256"] for e in events}
    assert events[-1].body["audiences"] == ["mail", "db"]
    jtis = [str(c["jti"]) for c in claims]
    records = await house.parts.store.read(lambda tx: [tx.jwt_svids.get(jti) for jti in jtis])
    assert {record.state for record in records} == {IssuanceState.ISSUED}


@in_house
async def test_a_quarantine_while_signing_takes_its_own_tokens_alone(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    other = await house.register("orders")
    await house.settle()
    store = house.parts.store
    original, calls = store.transact, 0

    async def interposed(function: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # between the intent and the result
            move = MoveIdentity(name="payments", reason="now")
            store.transact = original  # type: ignore[method-assign]
            await house.dispatcher.operations["identity.quarantine"](call_of(move))
        return await original(function)

    store.transact = interposed  # type: ignore[method-assign]
    bad, good = await ask(house, node, wish(identity.id, "db"), wish(other.id, "db"))
    assert bad.error.code == "permission_denied"
    assert not bad.token
    assert good.token
    types = [(e.type, e.subject) for e in await house.events("jwtsvid.")]
    assert types[1:] == [
        ("jwtsvid.abandoned", identity.spiffe_id),
        ("jwtsvid.issued", other.spiffe_id),
    ]


@in_house
async def test_a_key_that_cannot_be_used_leaves_nothing_open(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()

    def fail() -> None:
        raise OSError("the module is away")

    await house.settle()
    house.keystore.before_sign = fail
    with pytest.raises(Unavailable, match="signing key"):
        await ask(house, node, wish(identity.id, "db"), wish(identity.id, "mail"))
    types = [e.type for e in await house.events("jwtsvid.")]
    assert types == ["jwtsvid.intended", "jwtsvid.abandoned", "jwtsvid.abandoned"]
    now = house.clock.now()
    assert not await house.parts.store.read(lambda tx: tx.jwt_svids.interrupted(now, 10))


@in_house
async def test_an_evicted_node_obtains_no_token(house: FakeHouse) -> None:
    from troth.wire.api.nodes import EvictNode

    identity, node = await house.register(), await house.join()
    await house.call("node.evict", EvictNode(name="local", reason="gone"))
    (answer,) = await ask(house, node, wish(identity.id, "db"))
    assert answer.error.code == "permission_denied"
    assert not await house.events("jwtsvid.")
