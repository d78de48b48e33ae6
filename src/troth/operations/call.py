"""A system call: who calls, in which request, with what body."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from troth.core.ids import NodeId, RequestId

Body = TypeVar("Body")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    `principal` is a SPIFFE ID, ``uid:N`` on the admin socket, ``anonymous`` or ``troth`` itself;
    `roles` are those that come with troth, `declared` those of manifests that configuration gives
    besides; `node_id` is set for an attested node, and
    `serial` is then that of the certificate it came with; `source` says where the call came from,
    for the journal.
    """

    principal: str
    roles: frozenset[str]
    node_id: NodeId | None = None
    source: str = ""
    serial: str = ""
    declared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """What something is done to, as far as permissions may depend on it.

    `id` is its name and `type` what it is, in one word; `spiffe_id` that of an identity, or what
    those begin with that a template makes.
    """

    id: str = ""
    owner: str = ""
    environment: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    type: str = ""
    spiffe_id: str = ""


class Gate(Protocol):
    """What a caller may do. Without the name of an operation, the one that is called is meant."""

    def check(self, target: Target, operation: str = "", /) -> None:
        """Raise `Denied` unless that may be done to `target`."""
        ...

    def allows(self, target: Target, operation: str = "", /) -> bool:
        """Whether that may be done to `target`."""
        ...


class _Open:
    """Nothing is refused: for what troth does itself."""

    def check(self, target: Target, operation: str = "", /) -> None:
        """Never raises."""

    def allows(self, target: Target, operation: str = "", /) -> bool:
        """Always true."""
        return True


OPEN: Gate = _Open()


@dataclass(frozen=True, slots=True)
class Call(Generic[Body]):
    """One call of an operation or subscription. An operation whose permission depends on what it is
    done to asks `gate` once it knows."""

    caller: Caller
    request_id: RequestId
    body: Body
    gate: Gate = OPEN


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
