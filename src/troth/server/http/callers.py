"""Who is calling, by listener: nobody, a client certificate, or a uid of this machine.

Each way has two questions: who it is, which may read the store, and whether that still holds, which
is answered from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    def confirm_certificate(self, der: bytes, source: str) -> Caller | None:
        """As `by_certificate` from memory alone; None if something must be read."""
        ...


@dataclass(frozen=True, slots=True)
class _Anybody:
    async def __call__(self, scope: Any) -> Caller:
        return self.confirm(scope)

    def confirm(self, scope: Any) -> Caller:
        connection = connection_of(scope)
        source = connection.source if connection else ""
        return Caller(ANONYMOUS.principal, ANONYMOUS.roles, source=source)


@dataclass(frozen=True, slots=True)
class _ByCertificate:
    registry: CallerRegistry

    async def __call__(self, scope: Any) -> Caller:
        return await self.registry.by_certificate(*self._read_proof(scope))

    def confirm(self, scope: Any) -> Caller | None:
        return self.registry.confirm_certificate(*self._read_proof(scope))

    @staticmethod
    def _read_proof(scope: Any) -> tuple[bytes, str]:
        connection = connection_of(scope)
        if connection is None or connection.certificate is None:
            raise Unauthenticated("This listener needs a client certificate.")
        return connection.certificate, connection.source


@dataclass(frozen=True, slots=True)
class _ByUid:
    registry: CallerRegistry

    async def __call__(self, scope: Any) -> Caller:
        return self.confirm(scope)

    def confirm(self, scope: Any) -> Caller:
        connection = connection_of(scope)
        if connection is None or connection.peer is None:
            raise Unauthenticated("The kernel didn't tell who is calling on this socket.")
        return self.registry.by_uid(connection.peer.uid, connection.source)


accept_anybody: Authenticate = _Anybody()
"""On the public listener nobody proves anything."""


def require_certificate(registry: CallerRegistry) -> Authenticate:
    """On the mutual-TLS listener the client's certificate tells."""
    return _ByCertificate(registry)


def require_uid(registry: CallerRegistry) -> Authenticate:
    """On the admin socket the kernel tells."""
    return _ByUid(registry)
