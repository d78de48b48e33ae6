"""The metadata of protected resources: where they are, and that they say what is true alone."""

from __future__ import annotations

import pytest

from troth.core.errors import Invalid
from troth.wire.oauth.envoy import Protection, render_envoy
from troth.wire.oauth.protected import find_metadata_path, render_resource_metadata

API = "https://api.example.org"
WELL_KNOWN = "/.well-known/oauth-protected-resource"


@pytest.mark.parametrize(
    ("identifier", "path"),
    [
        (API, WELL_KNOWN),
        (f"{API}/", WELL_KNOWN),
        (f"{API}:8443/mcp", f"{WELL_KNOWN}/mcp"),
        (f"{API}/resource1/", f"{WELL_KNOWN}/resource1/"),
        (f"{API}/a/b", f"{WELL_KNOWN}/a/b"),
    ],
)
def test_a_path_follows_the_well_known_one(identifier: str, path: str) -> None:
    assert find_metadata_path(identifier) == path


@pytest.mark.parametrize(
    "identifier",
    [
        "urn:example:api",
        "http://api.example.org",
        f"{API}/a?b=c",
        f"{API}#a",
        "https://[",
        "https:",
    ],
)
def test_what_is_no_resource_identifier_has_no_place(identifier: str) -> None:
    with pytest.raises(Invalid, match="RFC 9728"):
        find_metadata_path(identifier)


def test_a_document_says_what_is_taken() -> None:
    free = render_resource_metadata(API, "https://issuer", ["b", "a", "b"], name="api")
    assert free == {
        "resource": API,
        "authorization_servers": ["https://issuer"],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["a", "b"],
        "tls_client_certificate_bound_access_tokens": False,
        "dpop_bound_access_tokens_required": False,
        "dpop_signing_alg_values_supported": free["dpop_signing_alg_values_supported"],
        "resource_name": "api",
    }
    assert "ES256" in free["dpop_signing_alg_values_supported"]
    mtls = render_resource_metadata(API, "https://issuer", [], mtls_only=True)
    assert mtls["tls_client_certificate_bound_access_tokens"]
    assert "dpop_signing_alg_values_supported" not in mtls
    dpop = render_resource_metadata(API, "https://issuer", [], dpop_only=True)
    assert dpop["dpop_bound_access_tokens_required"]


def test_envoy_is_told_what_is_in_the_document() -> None:
    document = render_resource_metadata(f"{API}/a%20b", "https://127.0.0.1:8443", ["read"])
    parts = render_envoy(Protection(document, "https://127.0.0.1:8443", "/ca.pem", 30))
    (route,) = parts["routes"]
    assert route["match"] == {"path": f"{WELL_KNOWN}/a%20b"}
    (challenge,) = parts["local_reply_config"]["mappers"][0]["headers_to_add"]
    assert "a%%20b" in challenge["header"]["value"]  # else Envoy takes it for a command
    provider = parts["http_filters"][0]["typed_config"]["providers"]["troth"]
    assert provider["audiences"] == [f"{API}/a%20b"]
    tls = parts["clusters"][0]["transport_socket"]["typed_config"]
    assert "sni" not in tls  # an address is none (RFC 6066, section 3)
    (name,) = tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
    assert name == {"san_type": "IP_ADDRESS", "matcher": {"exact": "127.0.0.1"}}
    assert "route_config" not in parts
