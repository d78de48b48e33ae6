"""Certificate revocation lists over HTTP (RFC 5280, section 4.2.1.13; RFC 2585, section 4)."""

from __future__ import annotations

import re
from typing import Any

from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from troth.core.errors import NotFound
from troth.operations.publication import Publication
from troth.server.http.documents import answer_document, serve_document

MEDIA_TYPE = "application/pkix-crl"
MAX_AGE = 10
"""Seconds: a revocation should not wait in a cache."""
_FILE = re.compile(r"(?P<authority>[A-Za-z0-9_-]{1,64})\.crl", re.ASCII)


def make_handlers(publication: Publication) -> list[HTTPRouteHandler]:
    """The handler of ``/crl/{authority_id}.crl``."""

    async def show_crl(request: Request[Any, Any, Any]) -> ASGIApp:
        match = _FILE.fullmatch(str(request.path_params["file"]))
        if match is None:
            raise NotFound("There is no revocation list of that name.")
        crl = await publication.show_crl(match["authority"])
        return answer_document(crl, MEDIA_TYPE, max_age=MAX_AGE)

    return [serve_document("/crl/{file:str}", show_crl)]
