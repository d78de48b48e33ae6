"""Certificate requests on their way to the server, many in one call.

A restarted machine asks for hundreds of certificates at once; one call for each would cost a
round trip and a transaction each.
"""

from __future__ import annotations

import asyncio

import structlog

from troth.agent.connection import Api
from troth.agent.timing import Sleep
from troth.core.errors import Internal, TrothError, error_of
from troth.core.tracing import NO_TRACER, TraceContext, Tracer
from troth.wire.api.certificates import (
    MAX_BATCH,
    CertificateRequest,
    IssueCertificates,
    IssuedCertificate,
    IssuedCertificates,
)

log = structlog.get_logger(__name__)

PATIENCE = 0.005
"""Seconds that the first request of a batch waits for company."""

MAX_PARALLEL = 4
MAX_WEIGHT = 256 << 10
"""Bytes of CSRs and selectors in one batch, so that a body stays far below the server's bound."""

Answer = asyncio.Future[IssuedCertificate]


class Batches:
    """Gathers requests that come within 5 ms and hands each its own answer."""

    def __init__(self, api: Api, sleep: Sleep, tracer: Tracer = NO_TRACER) -> None:
        self._api = api
        self._tracer = tracer
        self._sleep = sleep
        self._waiting: list[tuple[CertificateRequest, Answer]] = []
        self._places: list[TraceContext] = []
        """Where in their traces those who wait are."""
        self._weight = 0
        self._timer: asyncio.Task[None] | None = None
        self._parallel = asyncio.Semaphore(MAX_PARALLEL)
        self._tasks: set[asyncio.Task[None]] = set()

    async def issue(self, request: CertificateRequest) -> IssuedCertificate:
        """The certificate that was asked for; raises what the server answers instead."""
        weight = _weigh_request(request)
        if self._waiting and self._weight + weight > MAX_WEIGHT:
            self._flush()
        answer: Answer = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if (place := self._tracer.current()) is not None:
            self._places.append(place)
        self._weight += weight
        if len(self._waiting) >= MAX_BATCH:
            self._flush()
        elif self._timer is None:
            self._timer = self._start(self._flush_later())
        return await answer

    async def close(self) -> None:
        """Give up everything under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _flush_later(self) -> None:
        await self._sleep(PATIENCE)
        self._timer = None
        self._flush()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = [(request, answer) for request, answer in self._waiting if not answer.done()]
        places = sorted(self._places, key=lambda place: not place.sampled)
        self._waiting, self._weight, self._places = [], 0, []
        if batch:
            self._start(self._trace(batch, places))

    def _start(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _trace(
        self, batch: list[tuple[CertificateRequest, Answer]], places: list[TraceContext]
    ) -> None:
        """Send one batch, as part of the first request's trace, with links to the others'."""
        if not places:
            self._tracer.detach()  # what started this task may have been somebody else's
            await self._send(batch)
            return
        with self._tracer.span("batch.send", parent=places[0], links=places[1:]) as span:
            span.note(batch_size=len(batch))
            await self._send(batch)

    async def _send(self, batch: list[tuple[CertificateRequest, Answer]]) -> None:
        requests = [request for request, _ in batch]
        try:
            async with self._parallel:
                issued = await self._api.call(
                    "certificate.issue", IssueCertificates(requests=requests)
                )
            results = _read_results(requests, issued)
        except asyncio.CancelledError:
            for _, answer in batch:
                answer.cancel()
            raise
        except Exception as error:  # whatever it was, those who wait must hear of it
            if not isinstance(error, TrothError):
                log.exception("batch.failed")
                error = Internal("The agent failed to ask for a certificate; its log has more.")
            for _, answer in batch:
                _settle(answer, error)
            return
        for (_, answer), result in zip(batch, results, strict=True):
            _settle(answer, result)


def _read_results(
    requests: list[CertificateRequest], issued: object
) -> list[IssuedCertificate | TrothError]:
    if not isinstance(issued, IssuedCertificates) or len(issued.results) != len(requests):
        raise Internal("The server answered another number of requests than it was asked.")
    results: list[IssuedCertificate | TrothError] = []
    for request, result in zip(requests, issued.results, strict=True):
        if result.error is not None:
            results.append(error_of(result.error.code, result.error.detail))
        elif result.identity_id != request.identity_id:
            results.append(Internal("The server answered for another identity than was asked."))
        else:
            results.append(result)
    return results


def _settle(answer: Answer, result: IssuedCertificate | TrothError) -> None:
    if answer.done():
        return
    if isinstance(result, TrothError):
        answer.set_exception(result)
    else:
        answer.set_result(result)


def _weigh_request(request: CertificateRequest) -> int:
    return len(request.csr) * 4 // 3 + 200 + sum(len(s) + 3 for s in request.instance.selectors)
