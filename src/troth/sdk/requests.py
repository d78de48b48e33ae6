"""Access tokens for requests: ``requests.get(url, auth=TokenAuth(source, resource))``.

Source: requests.readthedocs.io, "New Forms of Authentication". Importing this imports requests.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from requests import PreparedRequest, Response
from requests.auth import AuthBase

from troth.core.errors import Invalid
from troth.sdk.challenge import blames_token
from troth.sdk.client import AccessToken
from troth.sdk.tokens import TokenSource


class TokenAuth(AuthBase):
    """Puts a token for `resource` into each request.

    A token that the resource calls invalid is dropped, and the request is sent once more with
    another one, unless its body was a stream that is used up. A token goes nowhere but to the
    origin of `resource`, or to `origin` if that is given.
    """

    def __init__(
        self,
        source: TokenSource,
        resource: str,
        scopes: Collection[str] = (),
        *,
        origin: str = "",
    ) -> None:
        self._source = source
        self._resource = resource
        self._scopes = scopes
        self._origin = _read_origin(origin or resource)
        if self._origin is None:
            raise Invalid(f"{(origin or resource)[:200]!r} is no URL.")

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Sign a request that is about to be sent."""
        if _read_origin(r.url or "") != self._origin:
            return r
        token = self._source.fetch(self._resource, self._scopes)
        r.headers["Authorization"] = token.header

        def look(response: Response, **options: Any) -> Response:
            return self._look(response, token, options)

        r.hooks.setdefault("response", []).append(look)
        return r

    def _look(self, response: Response, token: AccessToken, options: dict[str, Any]) -> Response:
        request = response.request
        sent = request.headers.get("Authorization") == token.header
        challenges = [response.headers.get("www-authenticate", "")]
        if not sent or not blames_token(response.status_code, challenges):
            return response
        body: object = request.body
        if body is not None and not isinstance(body, str | bytes):
            return response
        self._source.drop(token)
        again = request.copy()
        again.headers["Authorization"] = self._source.fetch(self._resource, self._scopes).header
        response.content  # noqa: B018 - read to the end, so that the connection can be used again
        response.close()
        adapter = response.connection
        fresh: Response = adapter.send(again, **options)
        fresh.history.append(response)
        fresh.request = again
        return fresh


def _read_origin(url: str) -> tuple[str, str | None, int | None] | None:
    """Scheme, host and port; None for what is no URL, whatever it is requested with."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return None  # `urlsplit` would read over some of that, and who connects may not
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    default = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname, port or default
