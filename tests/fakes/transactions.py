"""A company that uses transaction tokens, and what one of those says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.fakes.clients import ORIGIN
from tests.fakes.delegation import Company, found_company
from tests.fakes.house import FakeHouse
from troth.core.jose.jwk import load_key
from troth.core.jose.jws import parse_token
from troth.issuance.accesstoken import validate_parsed_token
from troth.issuance.authorities import TOKEN_ALGORITHMS
from troth.issuance.txntoken import TXN
from troth.operations.declaration import read_bundle
from troth.operations.dispatch import Dispatcher
from troth.operations.table import list_operations, list_subscriptions
from troth.wire.oauth.answers import TokenAnswer
from troth.wire.oauth.transaction import TXN_TOKEN

DOMAIN_NAME = "example.org"


async def found_transactions(house: FakeHouse) -> Company:
    """The company, in a house where the setting is on."""
    parts = replace(house.parts, draft_transaction_tokens=True)
    house.parts = parts
    house.dispatcher = Dispatcher(
        list_operations(parts), list_subscriptions(parts), parts.clock, parts.entropy, house.meter
    )
    return await found_company(house)


async def begin(company: Company, who: str, token: str, **fields: Any) -> TokenAnswer:
    """A transaction token for an access token; `fields` replace or leave out."""
    asked: dict[str, Any] = {
        "requested_token_type": TXN_TOKEN,
        "audience": DOMAIN_NAME,
        "scope": "read",
        **fields,
    }
    return await company.exchange(who, token, **asked)


async def replace_token(company: Company, who: str, token: str, **fields: Any) -> TokenAnswer:
    """Another token of the same transaction."""
    return await begin(company, who, token, **{"subject_token_type": TXN_TOKEN, **fields})


async def read_transaction(house: FakeHouse, text: str) -> dict[str, Any]:
    """The claims of a sound transaction token."""
    bundle = await read_bundle(house.parts.store, house.parts.snapshot)
    keys = {
        bundle.key_ids[one.id]: (load_key(one.public_key), TOKEN_ALGORITHMS[one.use])
        for one in bundle.authorities
        if one.id in bundle.key_ids
    }
    return dict(
        validate_parsed_token(
            parse_token(text),
            issuer_url=ORIGIN,
            audiences=[DOMAIN_NAME],
            keys=keys,
            now=house.clock.now(),
            kind=TXN,
        )
    )
