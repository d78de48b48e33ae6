"""Authorization details (RFC 9396): access that is finer than scopes, asked for and passed on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.clients import LEDGER, add_client, request_token
from tests.fakes.delegation import ARCHIVE, Company, found_company
from tests.fakes.house import FakeHouse, in_house
from tests.unit.operations.test_token_request import refuse, validate
from troth.core.errors import TrothError
from troth.wire.oauth.errors import name_error


def detail(*actions: str, identifier: str = "", **fields: Any) -> dict[str, Any]:
    named = {"identifier": identifier} if identifier else {}
    return {"type": "troth_action", "actions": list(actions), **named, **fields}


def write(*details: dict[str, Any]) -> str:
    return json.dumps(details)


@in_house
async def test_details_stand_in_token_and_answer_and_no_scope_beside_them(
    house: FakeHouse,
) -> None:
    client = await add_client(house)
    asked = write(detail("write", identifier="invoice 7"))
    answer = await request_token(house, client.ask(authorization_details=asked))
    granted = detail("write", identifier="invoice 7", locations=[LEDGER])
    assert answer.authorization_details == [granted]
    assert answer.scope == ""
    claims = await validate(house, answer.access_token)
    assert claims["authorization_details"] == [granted]
    assert "scope" not in claims
    (issued,) = await house.events("token.issued")
    assert issued.body["authorization_details"] == [granted]


@in_house
async def test_details_and_scope_are_granted_together(house: FakeHouse) -> None:
    client = await add_client(house)
    asked = write(detail("write", identifier="7"), detail("read", "write", identifier="8"))
    answer = await request_token(house, client.ask(scope="read", authorization_details=asked))
    assert answer.scope == "read"
    assert [one["identifier"] for one in answer.authorization_details] == ["7", "8"]
    # No scope of those asked for is permitted: the details are, and that is what there is.
    answer = await request_token(house, client.ask(scope="none", authorization_details=asked))
    assert answer.scope == ""


@in_house
async def test_locations_name_the_resource(house: FakeHouse) -> None:
    company = await found_company(house)
    client = company.clients["billing"]
    asked = write(detail("purge", locations=[ARCHIVE]))
    answer = await request_token(house, client.ask(resource=None, authorization_details=asked))
    claims = await validate(house, answer.access_token, ARCHIVE)
    assert claims["aud"] == ARCHIVE
    for resource in (LEDGER, None):
        both = write(detail("read", locations=[LEDGER, ARCHIVE]))
        refusal = await refuse(house, client.ask(resource=resource, authorization_details=both))
        assert name_error(refusal) in ("invalid_authorization_details", "invalid_target")
    refusal = await refuse(house, client.ask(resource=LEDGER, authorization_details=asked))
    assert name_error(refusal) == "invalid_authorization_details"


WRONG = [
    "x",
    "{}",
    "[]",
    "[1]",
    "[{}]",
    '[{"type":"payment_initiation","actions":["read"]}]',
    '[{"actions":["read"]}]',
    '[{"type":"troth_action"}]',
    '[{"type":"troth_action","actions":[]}]',
    '[{"type":"troth_action","actions":"read"}]',
    '[{"type":"troth_action","actions":["read"],"privileges":["admin"]}]',
    '[{"type":"troth_action","actions":["read"],"identifier":7}]',
    '[{"type":"troth_action","actions":["read"],"identifier":"a\\u0000b"}]',
    '[{"type":"troth_action","actions":["read"],"locations":"https://ledger.example.org"}]',
    write(*[detail("read")] * 9),
    write(detail("read", identifier="x" * 257)),
    write(detail(*["read"] * 65)),
    "[" * 5000,
    " " * 5000,
    write(detail("read"), detail("delete")),
    write(detail("*")),
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_unknown_malformed_or_not_permitted_is_refused(text: str, tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        client = await add_client(house)
        refusal = await refuse(house, client.ask(authorization_details=text))
        assert name_error(refusal) == "invalid_authorization_details"
        assert not await house.events("token.issued")

    in_house(run)(tmp_path)


# Exchanged


async def code_of(company: Company, who: str, token: str, **fields: Any) -> str:
    with pytest.raises(TrothError) as caught:
        await company.exchange(who, token, **fields)
    return name_error(caught.value)


@in_house
async def test_an_exchange_narrows_a_scope_to_one_object(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    one = write(detail("read", identifier="7"))
    narrow = await company.exchange("billing", mine, authorization_details=one)
    assert (narrow.scope, len(narrow.authorization_details)) == ("", 1)
    text = narrow.access_token
    # Passed on as it is: the details stay, no scope comes back.
    passed = await company.exchange("helper", text)
    assert passed.authorization_details == narrow.authorization_details
    assert passed.scope == ""
    assert await code_of(company, "helper", text, scope="read") == "invalid_scope"
    for wider in (detail("read"), detail("read", identifier="8"), detail("write", identifier="7")):
        asked = write(wider)
        code = await code_of(company, "helper", text, authorization_details=asked)
        assert code == "invalid_authorization_details"


@in_house
async def test_details_too_are_what_subject_and_actor_both_may(house: FakeHouse) -> None:
    company = await found_company(house)
    both = write(detail("read", "write", identifier="7"))
    mine = (await company.request("billing", authorization_details=both)).access_token
    code = await code_of(company, "helper", mine, authorization_details=both)
    assert code == "invalid_authorization_details"
    passed = await company.exchange("helper", mine)
    assert passed.authorization_details == [detail("read", identifier="7", locations=[LEDGER])]
    purge = write(detail("purge", identifier="f"))
    archive = {"resource": ARCHIVE, "authorization_details": purge}
    assert await code_of(company, "ledger-api", mine, **archive) == "invalid_authorization_details"
