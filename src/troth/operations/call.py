"""A system call: who calls, in which request, with what body."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from troth.core.ids import NodeId, RequestId

Body = TypeVar("Body")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    `principal` is a SPIFFE ID, ``uid:N`` on the admin socket, ``anonymous`` or ``troth`` itself;
    `roles` are what the permission check looks at; `node_id` is set for an attested node, and
    `serial` is then that of the certificate it came with; `source` says where the call came from,
    for the journal.
    """

    principal: str
    roles: frozenset[str]
    node_id: NodeId | None = None
    source: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Call(Generic[Body]):
    """One call of an operation or subscription."""

    caller: Caller
    request_id: RequestId
    body: Body


class Operation(Protocol):
    """A verb on a noun: one call, one result."""

    async def __call__(self, call: Call[Any], /) -> Any:
        """Carry the call out; raises a kind of `TrothError`."""
        ...


class Subscription(Protocol):
    """The streaming shape: complete values until it ends with an error."""

    def __call__(self, call: Call[Any], /) -> AsyncIterator[Any]:
        """Values, the first at once; raises a kind of `TrothError` to end."""
        ...


ANONYMOUS = Caller(principal="anonymous", roles=frozenset({"anyone"}))
SELF = Caller(principal="troth", roles=frozenset())
