"""The part of the ledger about tokens at those who ask for them, take them and look at them."""

from __future__ import annotations

SERVICES: dict[str, str] = {
    "bearers": """
        sdk.asgi._read_request
        sdk.resource.ProtectedResource.read_sight
    """,
    "issuer": """
        sdk.issuer.Issuer._read_refusal
        sdk.issuer.Issuer.read_metadata
        sdk.issuer._read_object
        sdk.issuer._read_retry
        sdk.keys._load
    """,
    "shown-token": """
        sdk.validator._read_certificate
        sdk.validator._read_confirmation
    """,
    "wsgi": """
        sdk.wsgi.TokenMiddleware._read
        sdk.wsgi.find_certificate
    """,
    "request-url": """
        sdk.requests._read_origin
    """,
    "decode": """
        cli.decoding.decode_token
        cli.decoding.read_keys
        cli.secrets.read_token
        cli.token.decode
    """,
}
"""By target: the functions that its inputs reach."""
