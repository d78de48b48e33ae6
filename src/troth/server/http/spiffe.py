"""The SPIFFE bundle endpoint, and OpenID discovery of the JWT-SVID issuer.

Sources: SPIFFE Federation, section 5.2.1.3 (Serving a Bundle Endpoint: application/json, no client
authentication); OpenID Connect Discovery 1.0, section 4; RFC 7517, section 8.5.
"""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from troth.operations.publication import Publication
from troth.server.http.documents import JSON, answer_document, serve_document

MAX_AGE = 60
"""Seconds: far below the time for which a new key is published before it signs."""


def make_handlers(publication: Publication) -> list[HTTPRouteHandler]:
    """Handlers of the trust domain's public keys."""

    async def show_bundle(request: Request[Any, Any, Any]) -> ASGIApp:
        return answer_document(await publication.show_bundle(), JSON, max_age=MAX_AGE)

    async def show_discovery(request: Request[Any, Any, Any]) -> ASGIApp:
        return answer_document(await publication.show_discovery(), JSON, max_age=MAX_AGE)

    async def show_jwks(request: Request[Any, Any, Any]) -> ASGIApp:
        return answer_document(
            await publication.show_jwks(), "application/jwk-set+json", max_age=MAX_AGE
        )

    return [
        serve_document("/bundle", show_bundle),
        serve_document("/svid/.well-known/openid-configuration", show_discovery),
        serve_document("/svid/jwks", show_jwks),
    ]
