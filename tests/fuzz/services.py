"""The part of the ledger about tokens: at the endpoints that give them, and at those who ask for
them, take them and look at them."""

from __future__ import annotations

SERVICES: dict[str, str] = {
    "dpop": """
        core.jose.dpop._load_holder
        core.jose.dpop._read_time
        core.jose.dpop.read_proof
    """,
    "registered-certificate": """
        identity.selfsigned.is_self_issued
        identity.selfsigned.read_validity
        server.tls._load_clients
        server.tls._name_subject
    """,
    "basic-credentials": """
        operations.client_secret.SecretVerifier._read_name
        wire.oauth.basic.parse_basic
    """,
    "oauth-form": """
        server.http.oauth.OAuthEndpoints._read_request
        server.http.oauth._read_headers
        wire.oauth.form._decode
        wire.oauth.form.parse_form
    """,
    "authzen-question": """
        wire.authzen.question._read_item
        wire.authzen.question.parse_evaluation
        wire.authzen.question.parse_evaluations
        wire.authzen.question.read_json
        wire.authzen.question.refuse_duplicates
        wire.authzen.told._read_delegation
        wire.authzen.told._read_host
        wire.authzen.told._read_method
        wire.authzen.told._read_request
        wire.authzen.told._read_scopes
        wire.authzen.told._read_task
        wire.authzen.told._read_texts
        wire.authzen.told._read_transport
        wire.authzen.told._read_truth
        wire.authzen.told._read_words
        wire.authzen.told._read_address
        wire.authzen.told.read_path
        wire.authzen.told.read_told
    """,
    "authzen-request": """
        server.http.authzen.AuthzenEndpoints._read_request
        server.http.authzen._read_headers
        server.http.intake.read_all
        server.http.intake.read_whole
    """,
    "authzen-search": """
        wire.authzen.search.parse_search
    """,
    "authzen-token": """
        wire.authzen.search.parse_token
    """,
    "client-assertion": """
        core.jose.jws._read_header
        core.jose.jws.read_header
        operations.client._read_assertion
        operations.svidclient.read_jwt_svid
    """,
    "authorization-details": """
        operations.wish.read_wanted
        wire.oauth.details.parse_details
        wire.oauth.details.read_details
    """,
    "opaque-token": """
        issuance.opaque._decode
        issuance.opaque.read_span
    """,
    "exchanged-claims": """
        core.tier.read_tier
        operations.exchange.read_claims
    """,
    "transaction-context": """
        operations.txntoken.read_transaction
        wire.oauth.transaction.check_context
        wire.oauth.transaction.parse_context
    """,
    "transaction-claims": """
        operations.txntoken.read_claims
        sdk.txntoken._read
    """,
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
