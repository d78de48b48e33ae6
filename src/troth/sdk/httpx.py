"""Access tokens for httpx: ``httpx.Client(auth=TokenAuth(source, resource))``.

Source: python-httpx.org, "Customizing authentication". Importing this imports httpx.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Generator

import httpx

from troth.sdk.challenge import blames_token
from troth.sdk.client import AccessToken
from troth.sdk.tokens import TokenSource


class TokenAuth(httpx.Auth):
    """Puts a token for `resource` into each request, of a blocking or an async client.

    A token that the resource calls invalid is dropped, and the request is sent once more with
    another one. A token goes nowhere but to the origin of `resource`, or to `origin` if that is
    given: httpx asks this class for each redirect too.
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
        self._origin = httpx.URL(origin or resource)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """One request, or two."""
        if not self._is_meant(request):
            yield request
            return
        token = self._source.fetch(self._resource, self._scopes)
        response = yield _sign(request, token)
        if _is_refused(response):
            self._source.drop(token)
            fresh = self._source.fetch(self._resource, self._scopes)
            yield _sign(request, fresh)

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """One request, or two."""
        if not self._is_meant(request):
            yield request
            return
        token = await self._source.fetch_async(self._resource, self._scopes)
        response = yield _sign(request, token)
        if _is_refused(response):
            self._source.drop(token)
            fresh = await self._source.fetch_async(self._resource, self._scopes)
            yield _sign(request, fresh)

    def _is_meant(self, request: httpx.Request) -> bool:
        mine, its = self._origin, request.url
        return (its.scheme, its.host, its.port) == (mine.scheme, mine.host, mine.port)


def _sign(request: httpx.Request, token: AccessToken) -> httpx.Request:
    request.headers["authorization"] = token.header
    return request


def _is_refused(response: httpx.Response) -> bool:
    challenges = response.headers.get_list("www-authenticate")
    return blames_token(response.status_code, challenges)
