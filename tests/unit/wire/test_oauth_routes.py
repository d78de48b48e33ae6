"""Which operation a request to an OAuth endpoint is for."""

from __future__ import annotations

import pytest

from troth.wire.oauth.form import parse_form
from troth.wire.oauth.metadata import GRANT_TYPES, TOKEN_EXCHANGE, render_metadata
from troth.wire.oauth.routes import OAUTH_ROUTES, choose_operation


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (f"grant_type={TOKEN_EXCHANGE}", "token.exchange"),
        (f"grant_type={TOKEN_EXCHANGE.replace(':', '%3A')}", "token.exchange"),
        ("grant_type=client_credentials", "token.request"),
        ("grant_type=password", "token.request"),
        (f"grant_type={TOKEN_EXCHANGE.upper()}", "token.request"),
        ("grant_type=", "token.request"),
        ("", "token.request"),
    ],
)
def test_the_grant_type_chooses_at_the_token_endpoint(body: str, name: str) -> None:
    assert choose_operation("/oauth/token", parse_form(body.encode())) == name


def test_elsewhere_the_grant_type_means_nothing() -> None:
    form = parse_form(f"grant_type={TOKEN_EXCHANGE}".encode())
    for name, path in OAUTH_ROUTES.items():
        if path != "/oauth/token":
            assert choose_operation(path, form) == name


def test_the_metadata_names_every_grant_and_the_type_of_details() -> None:
    document = render_metadata("https://a.example", "https://b.example", ["x"], [])
    assert document["grant_types_supported"] == list(GRANT_TYPES)
    assert TOKEN_EXCHANGE in GRANT_TYPES
    assert document["authorization_details_types_supported"] == ["troth_action"]
