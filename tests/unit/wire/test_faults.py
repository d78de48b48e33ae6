"""What the API says of values that it refuses: sentences, never patterns or a library's words."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from troth.core.errors import Invalid
from troth.wire.api.faults import explain_fault
from troth.wire.api.routes import ROUTES, find_route, parse_request

RAW = re.compile(r"Expected|Object|regex|\$|\^|`\w+`, got")


@pytest.mark.parametrize(
    ("name", "path", "query", "body", "says"),
    [
        ("identity.ls", {}, {"limit": "x"}, b"", "'limit' must be a whole number, not text."),
        ("identity.ls", {}, {"limit": "0"}, b"", "'limit' must be at least 1."),
        ("identity.ls", {}, {"limit": "9999"}, b"", "'limit' must be at most 1000."),
        ("identity.ls", {}, {"living": "maybe"}, b"", "'living' must be true or false, not text."),
        ("identity.ls", {}, {"lmit": "1"}, b"", "There is no field 'lmit'; check its spelling."),
        (
            "identity.suspend",
            {"name": "a"},
            {},
            b'{"reason": ""}',
            "'reason' must have at least 1 character.",
        ),
        ("identity.suspend", {"name": "a"}, {}, b"{}", "The field 'reason' is missing."),
        (
            "identity.suspend",
            {"name": "a"},
            {},
            b'{"reason": 7}',
            "'reason' must be text, not a whole number.",
        ),
        (
            "identity.suspend",
            {"name": "a" * 129},
            {},
            b'{"reason": "r"}',
            "'name' must have at most 128 characters.",
        ),
        (
            "token.join",
            {},
            {},
            b'{"node": "WEB 1"}',
            "'node' is not written as it must be: a node's name has 1 to 63 of a-z, 0-9, '.' and "
            "'-', and starts and ends with a letter or a digit, such as web-1.",
        ),
        (
            "identity.register",
            {},
            {},
            b'{"name":"a","kind":"service","owner":"o","purpose":"p","expires_at":"soon"}',
            "'expires_at' is not a time such as 2027-06-30T12:00:00Z.",
        ),
        (
            "certificate.issue",
            {},
            {},
            b'{"requests":[{"identity_id":"i","csr":"%","instance":{}}]}',
            "'requests[0].csr' is not base64.",
        ),
        (
            "authority.prepare",
            {},
            {},
            b'{"reason": "r", "use": "x"}',
            "'use' must be one of access-eddsa, access-rs256, access-token, jwt-svid, x509-svid.",
        ),
        (
            "authority.revoke",
            {"id": "x"},
            {},
            b'{"reason": "r"}',
            "'id' is not written as it must be: an id such as aut_5f3c01: `troth authority ls` "
            "shows them.",
        ),
        (
            "token.revoke",
            {},
            {},
            b'{"reason": "r", "jti": "x"}',
            "'jti' is not written as it must be: a token's jti is tok_ and hexadecimal digits, as "
            "its journal entry has it: `troth journal tail --type token.` shows it.",
        ),
        (
            "token.join",
            {},
            {},
            b'{"node": "web-1", "ttl": 1000000}',
            "'ttl' must be at most 604800 seconds (7d).",
        ),
        (
            "certificate.issue",
            {},
            {},
            b'{"requests":{}}',
            "'requests' must be a list, not an object.",
        ),
    ],
)
def test_the_usual_slips(
    name: str, path: dict[str, str], query: dict[str, str], body: bytes, says: str
):
    with pytest.raises(Invalid) as refused:
        parse_request(find_route(name), path, query, body)
    assert refused.value.detail == says


WRONG: list[Any] = [None, True, -1, 2**70, 1.5, "", "x" * 5000, "\n", [], [[]], {}, {"a": {}}]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_no_field_of_any_request_answers_in_raw_words(route: Any):
    fields = [field.encode_name for field in msgspec.structs.fields(route.request)]
    for field in fields:
        for value in WRONG:
            try:
                msgspec.convert({field: value}, route.request)
            except msgspec.ValidationError as error:
                sentence = explain_fault(str(error))
                assert sentence.endswith(".")
                assert not RAW.search(sentence), sentence
                assert len(sentence) < 400
