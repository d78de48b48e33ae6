"""Several writers at once, for an engine that lets them: each with its own connection."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from troth.core.entropy import Entropy, fraction
from troth.core.errors import Unavailable
from troth.store.postgres import PostgresLink, PostgresServer, UnknownCommitError
from troth.store.session import News, Session
from troth.store.writer import (
    QUEUE,
    Function,
    Job,
    Outcome,
    call_function,
    deliver_outcomes,
    translate_error,
)

THREADS = 8
ATTEMPTS = 40
"""How often a function is begun anew for collisions: with the pauses, several seconds."""
PATIENCE = 6
"""After so many collisions a function goes first: nobody issues until it is done."""

FIRST_PAUSE = 0.002
LONGEST_PAUSE = 0.25
CUTS = 2
"""How often a cut connection is replaced before the caller hears of it."""

log = structlog.get_logger(__name__)


class Crew:
    """Threads that run functions in transactions of their own, again if the database asks."""

    def __init__(
        self,
        server: PostgresServer,
        entropy: Entropy,
        on_journaled: Callable[[News], None],
        *,
        threads: int = THREADS,
        queue: int = QUEUE,
    ) -> None:
        self._server = server
        self._entropy = entropy
        self._on_journaled = on_journaled
        self._limit = queue
        self._closed = False
        self._cuts = 0
        guard = threading.Lock()
        self._writing = _Lane(guard, locked=False)
        # The sealer waits behind no writer: all that they have written waits for it.
        self._sealing = _Lane(guard, locked=True)
        lanes = [self._writing] * threads + [self._sealing]
        self._threads = [
            threading.Thread(
                target=self._run, args=(lane,), name=f"troth-writer-{number}", daemon=True
            )
            for number, lane in enumerate(lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def threads(self) -> int:
        """How many functions run at once, beside the sealer's."""
        return len(self._threads) - 1

    def submit(self, function: Function, *, locked: bool = False) -> asyncio.Future[Any]:
        """Queue `function`; the future of its result, in the running loop.

        One that is `locked` takes the locks that it needs by itself, and isn't watched for what
        others change meanwhile. It has a queue, a thread and a connection that writers don't use.
        """
        loop = asyncio.get_running_loop()
        job = Job(function, loop.create_future(), loop)
        lane = self._sealing if locked else self._writing
        with lane.changed:
            if self._closed:
                raise Unavailable("The store is closed; the server is stopping.")
            if len(lane.jobs) >= self._limit:
                raise Unavailable("Too many changes wait to be written. Try again in a moment.")
            lane.jobs.append(job)
            lane.changed.notify()
        return job.future

    def close(self) -> None:
        """Take nothing new, write what is queued, and end the threads."""
        for lane in (self._writing, self._sealing):
            with lane.changed:
                self._closed = True
                lane.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, lane: _Lane) -> None:
        hand = _Hand(self._server, self._entropy)
        while (job := self._take(lane)) is not None:
            outcome, news = self._finish(hand, job, lane.locked)
            afterwards = partial(self._on_journaled, news) if news else None
            deliver_outcomes(job.loop, [outcome], afterwards)
        hand.drop()

    def _take(self, lane: _Lane) -> Job | None:
        with lane.changed:
            while True:
                while not lane.jobs and not self._closed:
                    lane.changed.wait()
                if not lane.jobs:
                    return None
                job = lane.jobs.popleft()
                # A caller that went away before its turn wants nothing done any more.
                if not job.future.cancelled():
                    return job

    def _finish(self, hand: _Hand, job: Job, locked: bool) -> tuple[Outcome, News]:
        cuts = 0
        for attempt in range(ATTEMPTS):
            known = self._cuts
            hand.refresh(known)
            try:
                value, news = hand.write(job.function, locked, alone=attempt >= PATIENCE)
            except BaseException as error:  # noqa: BLE001 - the caller's, whatever it is: it gets it
                lost = isinstance(error, UnknownCommitError)
                collided = self._server.is_collision(error)
                if lost or (not collided and self._server.is_passing(error)):
                    self._cuts = max(self._cuts, known + 1)  # the others were cut as well
                    had_link = hand.drop()
                    cuts += 1
                    if not lost and had_link and cuts <= CUTS:
                        continue
                else:
                    hand.calm()
                if collided and attempt + 1 < ATTEMPTS:
                    self._pause(attempt)
                    continue
                known_error = translate_error(error, self._server)
                if isinstance(known_error, Unavailable) and known_error is not error:
                    # Without its traceback: in an outage there is one for every caller.
                    log.error("store.commit_failed", attempts=attempt + 1, why=known_error.detail)
                return Outcome(job, error=known_error), News.NONE
            return Outcome(job, value), news
        raise AssertionError("the last attempt returns")

    def _pause(self, attempt: int) -> None:
        """Wait for others to get out of the way: twice as long each time, by chance less."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
        threading.Event().wait(longest * fraction(self._entropy))


class _Lane:
    """What waits for the same threads; all lanes share one lock."""

    def __init__(self, guard: threading.Lock, *, locked: bool) -> None:
        self.locked = locked
        self.jobs: deque[Job] = deque()
        self.changed = threading.Condition(guard)


class _Hand:
    """One thread's connection, opened when there is work for it."""

    def __init__(self, server: PostgresServer, entropy: Entropy) -> None:
        self._server = server
        self._entropy = entropy
        self._link: PostgresLink | None = None
        self._opened = 0

    def refresh(self, cuts: int) -> None:
        """Give up a connection that is older than the last cut."""
        if self._opened < cuts:
            self.drop()
            self._opened = cuts

    def write(self, function: Function, locked: bool, *, alone: bool) -> tuple[Any, News]:
        """Run `function` once and commit; what it returned, and what it journaled."""
        if self._link is None:
            self._link = self._server.open_link()
        link = self._link
        if locked:
            link.begin_locked()
        else:
            link.begin_write(alone=alone)
        session = Session(link.connection, writable=True, entropy=self._entropy)
        value = call_function(function, session)
        link.commit()
        return value, session.news

    def calm(self) -> None:
        """End what is open; give the connection up if that fails."""
        if self._link is not None and not self._link.reset():
            self.drop()

    def drop(self) -> bool:
        """Give the connection up; whether there was one."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
        return link is not None
