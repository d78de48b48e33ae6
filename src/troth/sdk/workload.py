"""A client of the SPIFFE Workload API, as any workload would be one: for services and the CLI.

Source: SPIFFE_Workload_API.md, sections 3 (service definition) and 5, 6 (profiles);
SPIFFE_Workload_Endpoint.md, section 4 (locating the endpoint).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf import json_format, struct_pb2
from google.protobuf.message import DecodeError
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.protocol import H2Protocol
from h2.events import (
    AlternativeServiceAvailable,
    InformationalResponseReceived,
    PushedStreamReceived,
    UnknownFrameReceived,
)

from troth.core.errors import Denied, Internal, Invalid, TrothError, Unavailable
from troth.issuance.der import split_der
from troth.wire.api.problems import Unreachable
from troth.wire.protobuf import build_messages
from troth.wire.workload import MESSAGES, SECURITY_HEADER, SERVICE

ANSWER_SECONDS = 15.0
_UNIX = "unix:"
_WITHOUT_SERVER = ("The server at ", "The agent has not heard from its server")
"""How the agent begins when it lacks its server; gRPC's status alone doesn't tell why."""

_IGNORED = (
    UnknownFrameReceived,
    AlternativeServiceAvailable,
    InformationalResponseReceived,
    PushedStreamReceived,
)
_log = logging.getLogger("troth.sdk")

_METADATA = {SECURITY_HEADER: "true"}

Value = TypeVar("Value")


class AgentUnreachable(Unreachable):
    """No agent listens at the address; the detail says how to start one."""


class ServerUnreachable(Unreachable):
    """The agent answers, and what it says is that it can't reach its server."""


class NoIdentity(Denied):
    """The agent knows no identity for the calling process."""


@dataclass(frozen=True, slots=True)
class FetchedSvid:
    """One X.509-SVID as received: `chain` and `bundle` are DER certificates, leaf first."""

    spiffe_id: str
    hint: str
    chain: tuple[bytes, ...]
    key: bytes = field(repr=False)
    bundle: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class X509Update:
    """A complete value of the X.509 stream."""

    svids: tuple[FetchedSvid, ...]
    crls: tuple[bytes, ...]
    federated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FetchedJwt:
    """One JWT-SVID: a bearer credential."""

    spiffe_id: str
    token: str = field(repr=False)
    hint: str


@dataclass(slots=True)
class WorkloadApi:
    """Calls to the agent at `address`, a ``unix:///path`` URI; each opens its own connection."""

    address: str
    _types: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._types = build_messages("troth/workload.proto", MESSAGES, (struct_pb2.DESCRIPTOR,))

    def fetch_x509(self) -> X509Update:
        """What this process would get now."""

        async def first() -> X509Update:
            async with asyncio.timeout(ANSWER_SECONDS), aclosing(self._stream_x509()) as updates:
                async for update in updates:
                    return update
            raise Unavailable("The agent ended the stream without an answer; try again.")

        return self._run(first())

    def watch_x509(self, take: Callable[[X509Update], None]) -> None:
        """Hand each value of the stream to `take` until it ends, which always raises."""

        async def follow() -> None:
            async for update in self.follow_x509():
                take(update)

        self._run(follow())

    async def follow_x509(self) -> AsyncGenerator[X509Update, None]:
        """Each value of the stream, until it ends, which always raises."""
        with self._tell_failures():
            async with aclosing(self._stream_x509()) as updates:
                async for update in updates:
                    yield update
        raise Unavailable("The agent ended the stream.")

    def fetch_jwt(self, audiences: tuple[str, ...], spiffe_id: str) -> tuple[FetchedJwt, ...]:
        """Tokens for `audiences`: of all identities, or of `spiffe_id` alone if it isn't ""."""
        request = self._types["JWTSVIDRequest"](audience=audiences, spiffe_id=spiffe_id)
        reply = self._run(self._ask("FetchJWTSVID", request, "JWTSVIDResponse"))
        return tuple(FetchedJwt(s.spiffe_id, s.svid, s.hint) for s in reply.svids)

    def validate_jwt(self, audience: str, token: str) -> tuple[str, dict[str, Any]]:
        """The SPIFFE ID and claims of `token`; raises `Invalid` if it doesn't hold."""
        request = self._types["ValidateJWTSVIDRequest"](audience=audience, svid=token)
        reply = self._run(self._ask("ValidateJWTSVID", request, "ValidateJWTSVIDResponse"))
        try:
            claims: dict[str, Any] = json_format.MessageToDict(reply.claims)
        except (json_format.Error, ValueError) as error:  # numbers that JSON doesn't know
            raise Internal("The agent's answer holds claims that no token can.") from error
        return reply.spiffe_id, claims

    async def _ask(self, method: str, request: Any, reply: str) -> Any:
        async with self._open() as channel:
            call = UnaryUnaryMethod[Any, Any](
                channel, f"/{SERVICE}/{method}", type(request), self._types[reply]
            )
            async with call.open(timeout=ANSWER_SECONDS, metadata=_METADATA) as stream:
                await stream.send_message(request, end=True)
                message = await stream.recv_message()
        if message is None:
            raise Internal("The agent's answer is empty.")
        return message

    async def _stream_x509(self) -> AsyncGenerator[X509Update, None]:
        request = self._types["X509SVIDRequest"]
        async with self._open() as channel:
            method = UnaryStreamMethod[Any, Any](
                channel, f"/{SERVICE}/FetchX509SVID", request, self._types["X509SVIDResponse"]
            )
            async with method.open(metadata=_METADATA) as stream:
                await stream.send_message(request(), end=True)
                while (message := await stream.recv_message()) is not None:
                    yield _read_update(message)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Channel]:
        channel = _AgentChannel(path=find_socket(self.address))
        try:
            yield channel
        except (AssertionError, KeyError, ValueError, NotImplementedError) as error:
            # What grpclib makes of headers without a status, of a message cut short or compressed.
            raise Internal("The agent's answer isn't gRPC.") from error
        finally:
            channel.close()

    def _run(self, work: Coroutine[Any, Any, Value]) -> Value:
        with self._tell_failures():
            return asyncio.run(work)

    @contextmanager
    def _tell_failures(self) -> Iterator[None]:
        """Whatever goes wrong on the way to the agent is told in our own kinds of error."""
        try:
            yield
        except GRPCError as error:
            raise _explain_status(error) from error
        except DecodeError as error:
            raise Internal("The agent's answer can't be read: is it a newer version?") from error
        except (StreamTerminatedError, ProtocolError) as error:
            raise Unavailable("The agent broke the connection off; try again.") from error
        except TimeoutError as error:
            raise Unavailable(
                f"The agent didn't answer within {ANSWER_SECONDS:.0f} s; is it overloaded?"
            ) from error
        except OSError as error:
            raise AgentUnreachable(
                f"No agent listens at {self.address} ({os.strerror(error.errno or 0)}). Start one "
                "with `troth up` or `troth agent`, or name its socket in SPIFFE_ENDPOINT_SOCKET."
            ) from error


class _AgentChannel(Channel):
    """A channel that survives what it has no use for, and hangs up on what isn't HTTP/2."""

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        return _AgentProtocol(made.handler, self._config, self._h2_config)


class _AgentProtocol(H2Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # RFC 9113, section 4.1: frames of unknown types are ignored. The others mean nothing here.
        self.processor.processors |= dict.fromkeys(_IGNORED, lambda event: None)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception:  # noqa: BLE001 - whatever h2 and grpclib make of what isn't HTTP/2
            # Else asyncio would write a traceback to the terminal of whoever asked.
            _log.debug("the agent sent what isn't HTTP/2", exc_info=True)
            self.processor.close("not HTTP/2")


def find_socket(address: str) -> str:
    """The path in ``unix:///path`` (or ``unix:/path``); raises `Invalid` for another address."""
    path = address.removeprefix(_UNIX)
    if path.startswith("///"):
        path = path[2:]
    if not address.startswith(_UNIX) or not path.startswith("/") or path.startswith("//"):
        raise Invalid(
            f"The Workload API's address {address[:200]!r} must look like unix:///run/agent.sock; "
            "set SPIFFE_ENDPOINT_SOCKET."
        )
    return path


def _read_update(message: Any) -> X509Update:
    try:
        return _convert_update(message)
    except ValueError as error:
        raise Internal(f"The agent's answer holds broken certificates: {error}.") from error


def _convert_update(message: Any) -> X509Update:
    return X509Update(
        svids=tuple(
            FetchedSvid(
                spiffe_id=svid.spiffe_id,
                hint=svid.hint,
                chain=tuple(split_der(svid.x509_svid)),
                key=svid.x509_svid_key,
                bundle=tuple(split_der(svid.bundle)),
            )
            for svid in message.svids
        ),
        crls=tuple(message.crl),
        federated=tuple(sorted(message.federated_bundles)),
    )


def _explain_status(error: GRPCError) -> TrothError:
    """The kind of error that a gRPC status stands for, with the agent's own words."""
    words = (error.message or "").rstrip(".") or "no reason given"
    if error.status is Status.PERMISSION_DENIED:
        return NoIdentity(
            f"The agent gives this process no identity: {words}. For a process that runs, "
            "`troth doctor --pid PID` explains it."
        )
    if error.status is Status.INVALID_ARGUMENT:
        return Invalid(f"The agent refused: {words}.")
    if error.status is Status.UNAVAILABLE and words.startswith(_WITHOUT_SERVER):
        return ServerUnreachable(
            f"The agent answers, but not its server: {words}. Start the server, or see the "
            "agent's log."
        )
    if error.status is Status.UNAVAILABLE:
        return Unavailable(f"The agent can't answer now: {words}.")
    return Internal(f"The agent answered {error.status.name}: {words}.")
