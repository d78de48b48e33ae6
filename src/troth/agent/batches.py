"""Requests for certificates and tokens on their way to the server, many in one call.

A restarted machine asks for hundreds of certificates at once; one call for each would cost a
round trip and two transactions each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import structlog

from troth.agent.connection import Api
from troth.agent.timing import Sleep
from troth.core.errors import Denied, Internal, TrothError, Unauthenticated, Unimplemented, error_of
from troth.core.tracing import NO_TRACER, TraceContext, Tracer
from troth.wire.api.certificates import (
    MAX_BATCH,
    CertificateRequest,
    Failure,
    InstanceClaim,
    IssueCertificates,
    IssuedCertificate,
)
from troth.wire.api.jwt_svids import IssuedJwtSvid, IssueJwtSvids, JwtSvidRequest

log = structlog.get_logger(__name__)

PATIENCE = 0.005
"""Seconds that a request for a certificate waits for company: those who need one need it for an
hour, and come in crowds when a machine starts. Somebody who wants a token wants to use it now."""

MAX_PARALLEL = 4
MAX_WEIGHT = 256 << 10
"""Bytes of CSRs, audiences and selectors in one batch: far below what the server takes."""

_OURS = (Denied, Unauthenticated, Unimplemented)
"""Refusals of a whole batch that concern the node and not what it asks for."""


class Request(Protocol):
    """What the requests of all kinds have in common."""

    @property
    def identity_id(self) -> str:
        """Whose credential is asked for."""
        ...

    @property
    def instance(self) -> InstanceClaim:
        """For which process."""
        ...


class Result(Protocol):
    """What the answers of all kinds have in common."""

    @property
    def identity_id(self) -> str:
        """Whose credential it is."""
        ...

    @property
    def error(self) -> Failure | None:
        """Why there is none."""
        ...


Asked = TypeVar("Asked", bound=Request)
Given = TypeVar("Given", bound=Result)


@dataclass(frozen=True, slots=True)
class Form(Generic[Asked, Given]):
    """A kind of batch: the operation, for how many seconds a request waits for company, the body
    that carries the requests, the type of an answer, and how many bytes a request takes beside its
    selectors."""

    operation: str
    patience: float
    wrap: Callable[[list[Asked]], msgspec.Struct]
    given: type[Given]
    weigh: Callable[[Asked], int]


def _measure(texts: Sequence[str]) -> int:
    """How many bytes they take as JSON, at most."""
    return sum(
        3 + len(text) + text.count('"') + text.count("\\")
        if text.isascii() and text.isprintable()
        else 3 + 6 * len(text)
        for text in texts
    )


CERTIFICATES: Form[CertificateRequest, IssuedCertificate] = Form(
    "certificate.issue",
    PATIENCE,
    lambda requests: IssueCertificates(requests=requests),
    IssuedCertificate,
    lambda request: len(request.csr) * 4 // 3,
)
JWT_SVIDS: Form[JwtSvidRequest, IssuedJwtSvid] = Form(
    "jwtsvid.issue",
    0.0,
    lambda requests: IssueJwtSvids(requests=requests),
    IssuedJwtSvid,
    lambda request: _measure(request.audiences),
)


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Asked, Given]):
    """A request, who waits for its answer, and where in its trace it is."""

    request: Asked
    answer: asyncio.Future[Given]
    place: TraceContext | None


class Batches(Generic[Asked, Given]):
    """Gathers requests and hands each its own answer.

    Requests wait a moment for company, as their form says, and then until one of the few calls is
    free: so the more there are, the fewer calls each of them costs.
    """

    def __init__(
        self, api: Api, sleep: Sleep, form: Form[Asked, Given], tracer: Tracer = NO_TRACER
    ) -> None:
        self._api = api
        self._tracer = tracer
        self._sleep = sleep
        self._form = form
        self._waiting: deque[_Waiting[Asked, Given]] = deque()
        self._weight = 0
        self._under_way = 0
        self._timer: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def issue(self, request: Asked) -> Given:
        """What was asked for; raises what the server answers instead."""
        answer: asyncio.Future[Given] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, answer, self._tracer.current()))
        self._weight += self._weigh(request)
        if len(self._waiting) >= MAX_BATCH or self._weight > MAX_WEIGHT:
            self._flush()
        elif self._timer is None:
            self._timer = self._start(self._flush_later())
        return await answer

    async def close(self) -> None:
        """Give up everything under way."""
        for waiting in self._waiting:
            waiting.answer.cancel()
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _weigh(self, request: Asked) -> int:
        return 200 + _measure(request.instance.selectors) + self._form.weigh(request)

    async def _flush_later(self) -> None:
        if self._form.patience:
            await self._sleep(self._form.patience)
        else:
            await asyncio.sleep(0)  # who asks in the same turn of the loop comes along
        self._timer = None
        self._flush()

    def _flush(self) -> None:
        """Send what waits, as far as calls are free."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._under_way < MAX_PARALLEL and (batch := self._take()):
            self._under_way += 1
            self._start(self._trace(batch))

    def _take(self) -> list[_Waiting[Asked, Given]]:
        """The next batch, without those that nobody waits for any more."""
        batch: list[_Waiting[Asked, Given]] = []
        total = 0
        while self._waiting and len(batch) < MAX_BATCH:
            first = self._waiting[0]
            weight = self._weigh(first.request)
            if batch and total + weight > MAX_WEIGHT:
                break
            self._waiting.popleft()
            self._weight -= weight
            if not first.answer.done():
                batch.append(first)
                total += weight
        return batch

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _trace(self, batch: list[_Waiting[Asked, Given]]) -> None:
        """Send one batch, as part of the first request's trace, with links to the others'."""
        places = [waiting.place for waiting in batch if waiting.place is not None]
        if not places:
            self._tracer.detach()  # what started this task may have been somebody else's
            await self._send(batch)
            return
        places.sort(key=lambda place: not place.sampled)
        with self._tracer.span("batch.send", parent=places[0], links=places[1:]) as span:
            span.note(batch_size=len(batch))
            await self._send(batch)

    async def _send(self, batch: list[_Waiting[Asked, Given]]) -> None:
        try:
            results = await self._ask([waiting.request for waiting in batch])
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.answer.cancel()
            raise
        for waiting, result in zip(batch, results, strict=True):
            _settle(waiting.answer, result)
        self._under_way -= 1
        if self._timer is None:
            self._flush()

    async def _ask(self, requests: Sequence[Asked]) -> list[Given | TrothError]:
        """An answer for each. What is refused as a whole is asked for again in halves, so that
        nobody's request brings down those of others."""
        try:
            issued = await self._api.call(self._form.operation, self._form.wrap([*requests]))
            return self._read_results(requests, issued)
        except Exception as error:  # whatever it was, those who wait must hear of it
            if not isinstance(error, TrothError):
                log.exception("batch.failed")
                error = Internal("The agent failed to ask for a credential; its log has more.")
            if len(requests) == 1 or error.retryable or isinstance(error, _OURS):
                return [error] * len(requests)
            log.warning("batch.halved", requests=len(requests), reason=error.detail)
        half = len(requests) // 2
        return [*await self._ask(requests[:half]), *await self._ask(requests[half:])]

    def _read_results(self, requests: Sequence[Asked], issued: Any) -> list[Given | TrothError]:
        answers: list[Any] = getattr(issued, "results", [])
        if len(answers) != len(requests):
            raise Internal("The server answered another number of requests than it was asked.")
        results: list[Given | TrothError] = []
        for request, result in zip(requests, answers, strict=True):
            if not isinstance(result, self._form.given):
                raise Internal("The server answered something else than was asked.")
            if result.error is not None:
                results.append(error_of(result.error.code, result.error.detail))
            elif result.identity_id != request.identity_id:
                results.append(Internal("The server answered for another identity than was asked."))
            else:
                results.append(result)
        return results


def _settle(answer: asyncio.Future[Given], result: Given | TrothError) -> None:
    if answer.done():
        return
    if isinstance(result, TrothError):
        answer.set_exception(result)
    else:
        answer.set_result(result)
