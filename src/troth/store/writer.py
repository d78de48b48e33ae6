"""The one writer: takes what is queued, runs each function by itself, commits them together."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import Any

import structlog

from troth.core.entropy import SystemEntropy
from troth.core.errors import Internal, TrothError, Unavailable
from troth.store.database import Database
from troth.store.session import News, Session
from troth.store.sqlite import Link, LostTransactionError, SqliteFile
from troth.store.transaction import Transaction

log = structlog.get_logger(__name__)

GROUP = 256
"""The most functions that share one COMMIT, and so one fsync."""

QUEUE = 8192
"""The most functions that may wait; beyond it callers are told to come back."""

Function = Callable[[Transaction], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A function that waits for its turn, and where its caller waits."""

    function: Function
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of a job: a value, or the error to raise."""

    job: Job
    value: Any = None
    error: BaseException | None = None


class Writer:
    """A thread that owns the writing connection.

    Callers hear of a result only after the COMMIT that holds it. When a commit fails, all of its
    group get `Unavailable`, the connection is given up, and the next group opens a new one.
    """

    def __init__(
        self, file: SqliteFile, on_journaled: Callable[[News], None], *, queue: int = QUEUE
    ) -> None:
        self._file = file
        self._on_journaled = on_journaled
        self._limit = queue
        self._entropy = SystemEntropy()
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._link: Link | None = None
        self._thread = threading.Thread(target=self._run, name="troth-writer", daemon=True)
        self._thread.start()

    @property
    def threads(self) -> int:
        """How many functions run at once."""
        return 1

    def submit(self, function: Function, *, locked: bool = False) -> asyncio.Future[Any]:
        """Queue `function`; the future of its result, in the running loop.

        With one writer everybody is as good as `locked`.
        """
        loop = asyncio.get_running_loop()
        job = Job(function, loop.create_future(), loop)
        with self._changed:
            if self._closed:
                raise Unavailable("The store is closed; the server is stopping.")
            if len(self._jobs) >= self._limit:
                raise Unavailable("Too many changes wait to be written. Try again in a moment.")
            self._jobs.append(job)
            if len(self._jobs) == 1:
                self._changed.notify()
        return job.future

    def close(self) -> None:
        """Take nothing new, write what is queued, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while group := self._take():
            try:
                self._finish(*self._write(group))
            except BaseException as error:  # the writer outlives whatever a group does to it
                log.exception("store.writer_failed")
                self._drop_link()
                self._finish([self._fail(job, error) for job in group], News.NONE)
        self._drop_link()

    def _take(self) -> list[Job]:
        """The next group; empty when the writer is to end."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            count = min(len(self._jobs), GROUP)
            return [self._jobs.popleft() for _ in range(count)]

    def _write(self, group: list[Job]) -> tuple[list[Outcome], News]:
        try:
            if self._link is None:
                self._link = self._file.open_link()
            link = self._link
            link.begin_write()
            outcomes = []
            news = News.NONE
            for job in group:
                # A caller that went away before its turn wants nothing done any more.
                if not job.future.cancelled():
                    outcome, wrote = self._run_job(link, job)
                    outcomes.append(outcome)
                    news = max(news, wrote)
            link.commit()
        except Exception as error:  # whatever it was, nothing of this group is durable
            log.error("store.commit_failed", functions=len(group), exc_info=error)
            self._drop_link()
            return [self._fail(job, error) for job in group], News.NONE
        return outcomes, news

    def _run_job(self, link: Link, job: Job) -> tuple[Outcome, News]:
        """Run one function in its savepoint; raises only if the whole group is lost."""
        session = Session(link.connection, writable=True, entropy=self._entropy)
        link.savepoint()
        try:
            value = call_function(job.function, session)
        except BaseException as error:  # noqa: BLE001 - the caller's, whatever it is: it gets it
            try:
                link.undo()
            except LostTransactionError as lost:
                raise lost from error
            return Outcome(job, error=translate_error(error, self._file)), News.NONE
        link.release()
        return Outcome(job, value), session.news

    def _fail(self, job: Job, error: BaseException) -> Outcome:
        known = self._file.explain_error(error)
        known = known or Unavailable("The change couldn't be written. Try again.")
        known.__cause__ = error
        return Outcome(job, error=known)

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _finish(self, outcomes: list[Outcome], news: News) -> None:
        """Hand results to the callers: one wake-up a loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
        for outcome in outcomes:
            by_loop.setdefault(outcome.job.loop, []).append(outcome)
        for loop, mine in by_loop.items():
            deliver_outcomes(loop, mine, partial(self._on_journaled, news) if news else None)


def deliver_outcomes(
    loop: asyncio.AbstractEventLoop,
    outcomes: Iterable[Outcome],
    afterwards: Callable[[], None] | None,
) -> None:
    """Let the callers, who all wait in `loop`, have their results; then call `afterwards`."""

    def deliver() -> None:
        for outcome in outcomes:
            future = outcome.job.future
            if future.done():
                continue  # cancelled while it was being written
            if outcome.error is not None:
                future.set_exception(outcome.error)
            else:
                future.set_result(outcome.value)
        if afterwards is not None:
            afterwards()

    try:
        loop.call_soon_threadsafe(deliver)
    except RuntimeError:
        pass  # the loop is closed: nobody waits there any more


def call_function(function: Function, session: Session) -> Any:
    """Call `function` with a transaction that ends when it returns."""
    try:
        value = function(Transaction(session))
    finally:
        session.end()
    if isinstance(value, CoroutineType):
        value.close()
        raise Internal("A transaction's function must be synchronous: it can't await.")
    return value


def translate_error(
    error: BaseException, database: Database, *, reading: bool = False
) -> BaseException:
    """What the caller gets for `error`: outages become `Unavailable`, the rest stays."""
    if isinstance(error, TrothError):
        return error
    if isinstance(error, StopIteration | StopAsyncIteration):
        # A future refuses StopIteration, since a coroutine would take it for its end.
        known: TrothError | None = Internal("A transaction's function ended in StopIteration.")
    else:
        known = database.explain_error(error, reading=reading)
    if known is None:
        return error
    known.__cause__ = error
    return known
