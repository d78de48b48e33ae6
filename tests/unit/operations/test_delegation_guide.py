"""The worked example of the how-to on delegation, played as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.clients import FakeClient, apply
from tests.fakes.delegation import Company
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.issuer import encode_spki, make_private_key
from tests.unit.operations.test_token_request import validate
from troth.core.errors import TrothError
from troth.core.jose.jwk import render_key
from troth.wire.api.identities import MoveIdentity
from troth.wire.oauth.errors import name_error
from troth.wire.yaml import load_documents

GUIDE = Path(__file__).resolve().parents[3] / "docs/how-to/delegation.md"
ORDERS, STOCK = "https://orders.example.org", "https://stock.example.org"


async def found(house: FakeHouse) -> Company:
    """What the guide's manifests declare; each identity with a key of its own besides."""
    text = GUIDE.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    documents: list[dict[str, Any]] = [
        dict(document.value) for document in load_documents(text.encode(), "guide")
    ]
    clients = {}
    for number, document in enumerate(documents):
        if document["kind"] == "Identity":
            name, key = document["metadata"]["name"], make_private_key(80 + number)
            document["spec"]["client"] = {"keys": [render_key(encode_spki(key))]}
            clients[name] = FakeClient(f"spiffe://example.org/{name}", key, house.clock.now)
    await apply(house, *documents)
    return Company(house, clients)


@in_house
async def test_the_guide_holds(house: FakeHouse) -> None:
    company = await found(house)
    mine = (await company.request("purchasing", resource=ORDERS, scope="place")).access_token
    acting = await company.exchange("paper-agent", mine)
    claims = await validate(house, acting.access_token, ORDERS)
    assert claims["act"] == {"sub": "spiffe://example.org/paper-agent"}
    assert (claims["sub"], claims["scope"]) == ("spiffe://example.org/purchasing", "place")
    wide = (await company.request("purchasing", resource=ORDERS)).access_token
    with pytest.raises(TrothError) as caught:
        await company.exchange("paper-agent", wide, scope="approve")
    assert name_error(caught.value) == "invalid_scope"
    passed = await company.exchange("orders-api", acting.access_token, resource=STOCK)
    claims = await validate(house, passed.access_token, STOCK)
    assert claims["act"] == {
        "sub": "spiffe://example.org/orders-api",
        "act": {"sub": "spiffe://example.org/paper-agent"},
    }
    assert (claims["scope"], claims["troth_passed"]) == ("look", [ORDERS])
    body = MoveIdentity(name="paper-agent", reason="orders too much")
    await house.call("identity.quarantine", body, ADMIN)
    await house.settle()
    with pytest.raises(TrothError, match="not live"):
        await company.exchange("orders-api", acting.access_token, resource=STOCK)
