"""The Authorization header of clients with a secret (RFC 6749, section 2.3.1)."""

from __future__ import annotations

import base64
from urllib.parse import quote_plus

import pytest

from troth.wire.oauth.basic import MAX_LENGTH, is_basic, parse_basic
from troth.wire.oauth.errors import InvalidClient

ID = "spiffe://example.org/billing"
SECRET = "troth-secret.csec_1.abc-_"


def encode(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "header",
    [
        encode(f"{quote_plus(ID)}:{quote_plus(SECRET)}"),
        encode(f"{ID}:{SECRET}"),  # as curl and many libraries have it
        encode(f"{quote_plus(ID)}:{SECRET}").replace("Basic", "bAsIc"),
        encode(f"{ID}:{SECRET}").replace(" ", "   ") + "  ",
    ],
)
def test_both_parts_are_form_encoded_or_plain(header: str) -> None:
    found = parse_basic(header)
    assert (found.client_id, found.secret) == (ID, SECRET)
    assert SECRET not in repr(found)


def test_a_form_encodes_spaces_as_plus() -> None:
    found = parse_basic(encode("a+b%20c:x%3Ay%C3%A9"))
    assert (found.client_id, found.secret) == ("a b c", "x:yé")


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic ",
        "Basic =",
        "Basic YTpi!",
        "Basic YTpi YTpi",
        "Basic YTp",
        "Bearer YTpi",
        encode("no colon"),
        encode(":secret"),
        encode("id:"),
        encode(":"),
        encode("id:%ZZ"),
        encode("id:%e9"),  # not UTF-8
        encode("id:é"),
        encode("id:" + "x" * MAX_LENGTH),
    ],
)
def test_what_is_malformed_is_refused_and_never_repeated(header: str) -> None:
    with pytest.raises(InvalidClient) as caught:
        parse_basic(header)
    assert "secret, both form-encoded" in caught.value.detail
    assert len(caught.value.detail) < 200
    assert caught.value.__cause__ is None


def test_the_scheme_is_known_in_any_case() -> None:
    assert is_basic("basic x")
    assert is_basic("BASIC")
    assert not is_basic("Basics x")
    assert not is_basic(None)
    assert not is_basic("")
