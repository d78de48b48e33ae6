"""The documents by which OAuth clients find the token endpoint and verifiers its keys."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from troth.operations.publication import Publication
from troth.server.http.documents import JSON, answer_document, serve_document
from troth.wire.oauth.answers import Refusal
from troth.wire.oauth.metadata import AUTHORIZATION_PATH
from troth.wire.oauth.routes import JWKS_PATH, METADATA_PATHS

MAX_AGE = 300
"""Seconds: half of how long a key is published before it signs."""

_NO_FRONT_CHANNEL = msgspec.json.encode(
    Refusal(
        error="unsupported_response_type",
        error_description="There is no front channel here: clients ask the token endpoint.",
    )
)
"""What the authorization endpoint answers. It never redirects: no client has a redirection URI
registered (RFC 6749, section 4.1.2.1)."""


def make_handlers(publication: Publication) -> list[HTTPRouteHandler]:
    """GET handlers for metadata (RFC 8414, OpenID Connect Discovery), keys, and who comes with a
    browser."""

    async def show_metadata(request: Request[Any, Any, Any]) -> ASGIApp:
        return answer_document(await publication.show_metadata(), JSON, max_age=MAX_AGE)

    async def show_keys(request: Request[Any, Any, Any]) -> ASGIApp:
        return answer_document(
            await publication.show_token_keys(), "application/jwk-set+json", max_age=MAX_AGE
        )

    async def refuse_authorization(request: Request[Any, Any, Any]) -> ASGIApp:
        return answer_document(_NO_FRONT_CHANNEL, JSON, status=400)

    documents = [serve_document(path, show_metadata) for path in METADATA_PATHS]
    return [
        *documents,
        serve_document(JWKS_PATH, show_keys),
        serve_document(AUTHORIZATION_PATH, refuse_authorization),
    ]
