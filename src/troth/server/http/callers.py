"""Who is calling, by listener: nobody, a client certificate, or a uid of this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from troth.core.errors import Unauthenticated
from troth.operations.call import ANONYMOUS, Caller
from troth.server.http.api import Authenticate
from troth.server.http.exchange import connection_of


class CallerRegistry(Protocol):
    """Turns what a connection proves into a caller with roles."""

    def by_uid(self, uid: int, source: str) -> Caller:
        """The caller with this uid on the admin socket; raises `Denied` if it has no role."""
        ...

    async def by_certificate(self, der: bytes, source: str) -> Caller:
        """The caller with this certificate, which TLS verified; raises if it may not call."""
        ...


async def accept_anybody(scope: Any) -> Caller:
    """On the public listener nobody proves anything."""
    connection = connection_of(scope)
    return replace(ANONYMOUS, source=connection.source if connection else "")


def require_certificate(registry: CallerRegistry) -> Authenticate:
    """On the mutual-TLS listener the client's certificate tells."""

    async def authenticate(scope: Any) -> Caller:
        connection = connection_of(scope)
        if connection is None or connection.certificate is None:
            raise Unauthenticated("This listener needs a client certificate.")
        return await registry.by_certificate(connection.certificate, connection.source)

    return authenticate


def require_uid(registry: CallerRegistry) -> Authenticate:
    """On the admin socket the kernel tells."""

    async def authenticate(scope: Any) -> Caller:
        connection = connection_of(scope)
        if connection is None or connection.peer is None:
            raise Unauthenticated("The kernel didn't tell who is calling on this socket.")
        return registry.by_uid(connection.peer.uid, connection.source)

    return authenticate
